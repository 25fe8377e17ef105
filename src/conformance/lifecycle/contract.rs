//! Cases about keys, kinds, labels, filters and errors.

use super::{Case, Round, Verdict};
use crate::conformance::case::{Fault, ensure};
use crate::conformance::round::GC_ROOT;
use crate::error::ErrorKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
use crate::mount::Access;
use crate::snapshotter::{Info, Kind};

/// All of them.
pub(super) const CASES: [Case; 18] = [
    Case {
        name: "stat-active",
        source: "containerd suite: StatActive",
        meaning: "a prepared snapshot is reported as something else",
        run: stat_active,
    },
    Case {
        name: "stat-committed",
        source: "containerd suite: StatComitted",
        meaning: "a committed snapshot is reported as something else",
        run: stat_committed,
    },
    Case {
        name: "transitivity",
        source: "containerd suite: TransitivityTest",
        meaning: "a snapshot forgets what it stands on",
        run: transitivity,
    },
    Case {
        name: "one-key-one-snapshot",
        source: "containerd suite: PreareViewFailingtest",
        meaning: "two snapshots can have one key: the second takes the first one's place",
        run: one_key_one_snapshot,
    },
    Case {
        name: "update",
        source: "containerd suite: Update",
        meaning: "labels are changed that nobody asked to change, or times lie",
        run: update,
    },
    Case {
        name: "keys-are-free-again",
        source: "containerd suite: Remove",
        meaning: "what was removed is still in the way",
        run: keys_are_free_again,
    },
    Case {
        name: "walk",
        source: "containerd suite: Walk",
        meaning: "filters select the wrong snapshots: the garbage collector relies on them",
        run: walk,
    },
    Case {
        name: "wrong-filter",
        source: "containerd core/snapshots/snapshotter.go: Walk",
        meaning: "a mistake in a filter looks like a broken snapshotter",
        run: wrong_filter,
    },
    Case {
        name: "stat-in-walk",
        source: "containerd suite: StatInWalk",
        meaning: "a snapshotter cannot be asked while it is walked, or answers otherwise",
        run: stat_in_walk,
    },
    Case {
        name: "remove-in-walk",
        source: "containerd suite, issues to test: RemoveInWalk",
        meaning: "nothing can be removed while snapshots are walked",
        run: remove_in_walk,
    },
    Case {
        name: "remove-intermediate",
        source: "containerd suite: RemoveIntermediateSnapshot",
        meaning: "a layer can be taken from under those that stand on it",
        run: remove_intermediate,
    },
    Case {
        name: "close-twice",
        source: "containerd suite: CloseTwice",
        meaning: "a snapshotter cannot be closed twice",
        run: close_twice,
    },
    Case {
        name: "any-key",
        source: "containerd core/metadata: bkey; core/unpack: UnpackKeyPrefix",
        meaning: "the keys that containerd makes cannot be used",
        run: any_key,
    },
    Case {
        name: "errors",
        source: "containerd core/snapshots/snapshotter.go and storage: the classes of errors",
        meaning: "a caller cannot tell what went wrong, and does the wrong thing",
        run: errors,
    },
    Case {
        name: "commit-errors",
        source: "containerd core/snapshots/storage: CommitActive, its order of checks",
        meaning: "a commit that must fail succeeds, or says the wrong thing",
        run: commit_errors,
    },
    Case {
        name: "commit-of-a-view",
        source: "containerd core/snapshots/storage: CommitViewFails",
        meaning: "a view becomes a layer, or a caller cannot tell why it does not",
        run: commit_of_a_view,
    },
    Case {
        name: "mounts",
        source: "containerd core/snapshots/snapshotter.go: Mounts",
        meaning: "mounts change from call to call, or do not say whether they may be written to",
        run: mounts,
    },
    Case {
        name: "cleanup",
        source: "containerd core/snapshots/snapshotter.go: Cleaner",
        meaning: "space of removed snapshots cannot be freed",
        run: cleanup,
    },
];

fn is(info: &Info, kind: Kind, name: &str, parent: &str) -> Verdict {
    let known = (info.kind, info.name.as_str(), info.parent.as_str());
    ensure(known == (kind, name, parent), || format!("{known:?} is not {:?}", (kind, name, parent)))
}

fn stat_active(round: &mut Round<'_>) -> Verdict {
    round.prepare("active", "")?;
    is(&round.stat("active")?, Kind::Active, &round.key("active"), "")
}

fn stat_committed(round: &mut Round<'_>) -> Verdict {
    round.prepare("active", "")?;
    round.commit("committed", "active")?;
    is(&round.stat("committed")?, Kind::Committed, &round.key("committed"), "")
}

fn transitivity(round: &mut Round<'_>) -> Verdict {
    round.layer("a", "", &[])?;
    round.layer("b", "a", &[])?;
    round.view("c", "b")?;
    is(&round.stat("a")?, Kind::Committed, &round.key("a"), "")?;
    is(&round.stat("b")?, Kind::Committed, &round.key("b"), &round.key("a"))?;
    is(&round.stat("c")?, Kind::View, &round.key("c"), &round.key("b"))
}

fn one_key_one_snapshot(round: &mut Round<'_>) -> Verdict {
    round.layer("parent", "", &[])?;
    round.prepare("prepared", "parent")?;
    round.view("viewed", "parent")?;
    let parent = round.key("parent");
    for key in ["prepared", "viewed", "parent"] {
        let full = round.key(key);
        round.fails("a second Prepare", round.on.prepare(&full, &parent, &round.labels), AlreadyExists)?;
        round.fails("a View of a key in use", round.on.view(&full, "", &round.labels), AlreadyExists)?;
    }
    is(&round.stat("prepared")?, Kind::Active, &round.key("prepared"), &parent)
}

fn update(round: &mut Round<'_>) -> Verdict {
    round.layer("c", "", &[])?;
    round.prepare("a", "c")?;
    round.view("v", "c")?;
    for key in ["c", "a", "v"] {
        let made = round.stat(key)?;
        ensure(made.created == made.updated, || format!("{key} was never updated: {made:?}"))?;
        let set = |labels: &[(&str, &str)], paths: &[&str]| -> Verdict<Info> {
            // Its other fields are no wishes.
            let wish = Info { parent: "another".into(), labels: round.labels(labels), ..made.clone() };
            Ok(round.on.update(&wish, paths)?)
        };
        let all = set(&[("l1", "one"), ("l2", "two")], &[])?;
        ensure(all.labels == round.labels(&[("l1", "one"), ("l2", "two")]), || format!("all: {:?}", all.labels))?;
        ensure(all.parent == made.parent && all.created == made.created, || format!("{all:?}"))?;
        ensure(all.updated > made.updated, || format!("{key}: updated is not later: {all:?}"))?;
        let some = set(&[("l1", "1"), ("l3", "3")], &["labels.l1", "labels.l2"])?;
        ensure(some.labels == round.labels(&[("l1", "1")]), || format!("some: {:?}", some.labels))?;
        let dotted = set(&[("a.b/c", "d")], &["labels.a.b/c"])?;
        ensure(dotted.labels == round.labels(&[("l1", "1"), ("a.b/c", "d")]), || format!("{:?}", dotted.labels))?;
        let replaced = set(&[("l4", "4")], &["labels"])?;
        ensure(replaced.labels == round.labels(&[("l4", "4")]), || format!("replaced: {:?}", replaced.labels))?;
        ensure(round.stat(key)? == replaced, || "Update and Stat differ".to_owned())?;
        for path in ["parent", "kind", "name", "nonsense"] {
            let wish = Info { labels: round.labels(&[]), ..made.clone() };
            round.fails(&format!("Update of {path}"), round.on.update(&wish, &[path]), InvalidArgument)?;
        }
        ensure(round.stat(key)? == replaced, || "an update that failed changed something".to_owned())?;
    }
    let missing = Info { name: round.key("missing"), ..round.stat("c")? };
    round.fails("Update of nothing", round.on.update(&missing, &[]), NotFound)
}

fn keys_are_free_again(round: &mut Round<'_>) -> Verdict {
    for _ in 0..2 {
        round.prepare("key", "")?;
        round.remove("key")?;
        round.view("key", "")?;
        round.remove("key")?;
        round.prepare("key", "")?;
        round.commit("name", "key")?;
        round.remove("name")?;
    }
    Ok(())
}

fn walk(round: &mut Round<'_>) -> Verdict {
    round.layer("p", "", &[])?;
    let (p, labelled) = (round.key("p"), round.labels(&[("l", "2"), ("containerd.io/snapshot.ref", "sha256:x")]));
    round.prepare("a", "p")?;
    round.on.prepare(&round.key("a-wl"), &p, &labelled)?;
    round.view("v", "p")?;
    let cases = [
        (vec![], "a a-wl p v"),
        (vec![format!("labels.\"{GC_ROOT}\"=={}", round.labels[GC_ROOT])], "a a-wl p v"),
        (vec!["kind==active".into()], "a a-wl"),
        (vec!["kind==view".into()], "v"),
        (vec!["kind==committed".into()], "p"),
        (vec![format!("name==\"{p}\"")], "p"),
        (vec![format!("parent==\"{p}\"")], "a a-wl v"),
        (vec!["parent!=\"\"".into()], "a a-wl v"),
        (vec!["kind==active,labels.l".into()], "a-wl"),
        (vec!["labels.l==2".into()], "a-wl"),
        (vec!["labels.l==3".into()], ""),
        (vec!["kind==view".into(), format!("name==\"{p}\"")], "p v"),
        (vec![format!("labels.\"containerd.io/snapshot.ref\"==\"sha256:x\",parent==\"{p}\"")], "a-wl"),
    ];
    for (filters, expected) in cases {
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let mut found: Vec<_> = round.walk(&filters)?.into_iter().map(|info| info.name).collect();
        found.sort_unstable();
        let expected: Vec<_> = expected.split_whitespace().map(|name| round.key(name)).collect();
        ensure(found == expected, || format!("{filters:?} found {found:?}, not {expected:?}"))?;
    }
    Ok(())
}

fn wrong_filter(round: &mut Round<'_>) -> Verdict {
    for filter in ["name=", "=x", "name==\"a"] {
        round.fails(filter, round.on.walk(&[filter], &mut |_| Ok(())), InvalidArgument)?;
    }
    Ok(())
}

fn stat_in_walk(round: &mut Round<'_>) -> Verdict {
    round.layer("p", "", &[])?;
    round.prepare("a", "p")?;
    let mut seen = 0;
    round.on.walk(&[], &mut |info| {
        if info.name.starts_with(&round.prefix) {
            seen += 1;
            if round.on.stat(&info.name)? != *info {
                return Err(crate::Error::data_loss(format!("Stat and Walk differ: {info:?}")));
            }
        }
        Ok(())
    })?;
    ensure(seen == 2, || format!("{seen} were walked, not 2"))
}

fn remove_in_walk(round: &mut Round<'_>) -> Verdict {
    for key in ["a", "b", "c"] {
        round.prepare(key, "")?;
    }
    round.on.walk(&[], &mut |info| {
        if info.name.starts_with(&round.prefix) { round.on.remove(&info.name) } else { Ok(()) }
    })?;
    let left = round.walk(&[])?;
    ensure(left.is_empty(), || format!("{left:?} is left"))
}

fn remove_intermediate(round: &mut Round<'_>) -> Verdict {
    round.layer("base", "", &[])?;
    round.layer("middle", "base", &[])?;
    round.prepare("top", "middle")?;
    for key in ["base", "middle"] {
        let answer = round.on.remove(&round.key(key));
        let text = answer.as_ref().err().map(crate::Error::chain).unwrap_or_default();
        round.fails("Remove of a parent", answer, FailedPrecondition)?;
        ensure(text.contains("remove"), || format!("the error does not say that it is about a removal: {text}"))?;
    }
    ["top", "middle", "base"].into_iter().try_for_each(|key| round.remove(key))
}

fn close_twice(_: &mut Round<'_>) -> Verdict {
    Err(Fault::Skip("the contract has no Close: a snapshotter is closed when it is dropped".to_owned()))
}

fn any_key(round: &mut Round<'_>) -> Verdict {
    let digest = "sha256:3b1d8a2c5e";
    let extract = format!("extract-440725399-7oAi {digest}");
    round.layer(digest, "", &[])?;
    for key in [extract.as_str(), "with/slash/es", "..", "ünï\u{301}code", "a'b\"c", "%2f"] {
        round.prepare(key, digest)?;
        is(&round.stat(key)?, Kind::Active, &round.key(key), &round.key(digest))?;
    }
    Ok(())
}

fn errors(round: &mut Round<'_>) -> Verdict {
    round.layer("base", "", &[])?;
    round.prepare("active", "base")?;
    round.view("view", "base")?;
    let (on, missing, labels) = (round.on, round.key("missing"), &round.labels);
    round.fails("Stat of nothing", on.stat(&missing), NotFound)?;
    round.fails("Usage of nothing", on.usage(&missing), NotFound)?;
    round.fails("Mounts of nothing", on.mounts(&missing), NotFound)?;
    round.fails("Remove of nothing", on.remove(&missing), NotFound)?;
    round.fails("Prepare on nothing", on.prepare(&round.key("new"), &missing, labels), NotFound)?;
    round.fails("View of nothing", on.view(&round.key("new"), &missing, labels), NotFound)?;
    for parent in ["active", "view"] {
        let (new, parent) = (round.key("new"), round.key(parent));
        round.fails("Prepare on what is not committed", on.prepare(&new, &parent, labels), InvalidArgument)?;
        round.fails("View of what is not committed", on.view(&new, &parent, labels), InvalidArgument)?;
    }
    let left = round.walk(&[])?.len();
    ensure(left == 3, || format!("calls that failed left something: {left} snapshots, not 3"))
}

fn commit_errors(round: &mut Round<'_>) -> Verdict {
    round.layer("base", "", &[])?;
    round.prepare("active", "base")?;
    let (on, labels) = (round.on, &round.labels);
    let commit = |name: &str, key: &str| on.commit(&round.key(name), &round.key(key), labels);
    round.fails("Commit of nothing", commit("new", "missing"), NotFound)?;
    round.fails("Commit to a name in use", commit("base", "active"), AlreadyExists)?;
    round.fails("Commit to its own key", commit("active", "active"), AlreadyExists)?;
    round.fails("Commit of what is committed", commit("new", "base"), FailedPrecondition)?;
    round.fails("Mounts of what is committed", on.mounts(&round.key("base")), FailedPrecondition)?;
    commit("new", "active")?;
    round.fails("Stat of a key that was committed", on.stat(&round.key("active")), NotFound)?;
    let committed = round.stat("new")?;
    ensure(committed.created == committed.updated, || format!("it was never updated: {committed:?}"))
}

fn commit_of_a_view(round: &mut Round<'_>) -> Verdict {
    round.layer("base", "", &[])?;
    round.view("view", "base")?;
    let commit = |name: &str| round.on.commit(&round.key(name), &round.key("view"), &round.labels);
    round.fails("Commit of a view", commit("new"), FailedPrecondition)?;
    round.fails("Commit of a view to a name in use", commit("base"), AlreadyExists)
}

fn mounts(round: &mut Round<'_>) -> Verdict {
    round.layer("base", "", &[])?;
    round.layer("next", "base", &[])?;
    for parent in ["", "base", "next"] {
        for (kind, access) in [(Kind::Active, Access::ReadWrite), (Kind::View, Access::ReadOnly)] {
            let (key, parent) = (round.key(&format!("{kind} on {parent}")), round.key(parent));
            let handed = match kind {
                Kind::Active => round.on.prepare(&key, &parent, &round.labels)?,
                _ => round.on.view(&key, &parent, &round.labels)?,
            };
            ensure(handed == round.on.mounts(&key)?, || format!("{key}: Mounts are not what was handed out"))?;
            let found = handed.last().map(crate::mount::Mount::access);
            ensure(found == Some(access), || format!("{key}: {handed:?} is not {access:?}"))?;
        }
    }
    Ok(())
}

fn cleanup(round: &mut Round<'_>) -> Verdict {
    round.layer("base", "", &[super::file("f", 1, 5000)])?;
    round.remove("base")?;
    match round.on.cleanup() {
        Err(error) if error.kind() == crate::ErrorKind::Unsupported => Err(Fault::Skip(
            "Cleanup is not served here: space is freed by removals, or by a garbage collector".to_owned(),
        )),
        done => Ok(done?),
    }
}
