//! Cases about keys, kinds, labels, filters and errors.

use super::{Case, Trial, Verdict};
use crate::conformance::case::{Fault, ensure};
use crate::conformance::trial::GC_ROOT;
use crate::error::ErrorKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
use crate::mount::Access;
use crate::snapshotter::{Info, Kind};

/// All cases of this module.
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
        meaning: "other labels than the requested ones change, or times are wrong",
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

fn stat_active(trial: &mut Trial<'_>) -> Verdict {
    trial.prepare("active", "")?;
    is(&trial.stat("active")?, Kind::Active, &trial.key("active"), "")
}

fn stat_committed(trial: &mut Trial<'_>) -> Verdict {
    trial.prepare("active", "")?;
    trial.commit("committed", "active")?;
    is(&trial.stat("committed")?, Kind::Committed, &trial.key("committed"), "")
}

fn transitivity(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("a", "", &[])?;
    trial.layer("b", "a", &[])?;
    trial.view("c", "b")?;
    is(&trial.stat("a")?, Kind::Committed, &trial.key("a"), "")?;
    is(&trial.stat("b")?, Kind::Committed, &trial.key("b"), &trial.key("a"))?;
    is(&trial.stat("c")?, Kind::View, &trial.key("c"), &trial.key("b"))
}

fn one_key_one_snapshot(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("parent", "", &[])?;
    trial.prepare("prepared", "parent")?;
    trial.view("viewed", "parent")?;
    let parent = trial.key("parent");
    for key in ["prepared", "viewed", "parent"] {
        let full = trial.key(key);
        trial.fails("a second Prepare", trial.on.prepare(&full, &parent, &trial.labels), AlreadyExists)?;
        trial.fails("a View of a key in use", trial.on.view(&full, "", &trial.labels), AlreadyExists)?;
    }
    is(&trial.stat("prepared")?, Kind::Active, &trial.key("prepared"), &parent)
}

fn update(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("c", "", &[])?;
    trial.prepare("a", "c")?;
    trial.view("v", "c")?;
    for key in ["c", "a", "v"] {
        let made = trial.stat(key)?;
        ensure(made.created == made.updated, || format!("{key} was never updated: {made:?}"))?;
        let set = |labels: &[(&str, &str)], paths: &[&str]| -> Verdict<Info> {
            // `update` must ignore the other fields of the `Info`.
            let wish = Info { parent: "another".into(), labels: trial.labels(labels), ..made.clone() };
            Ok(trial.on.update(&wish, paths)?)
        };
        let all = set(&[("l1", "one"), ("l2", "two")], &[])?;
        ensure(all.labels == trial.labels(&[("l1", "one"), ("l2", "two")]), || format!("all: {:?}", all.labels))?;
        ensure(all.parent == made.parent && all.created == made.created, || format!("{all:?}"))?;
        ensure(all.updated > made.updated, || format!("{key}: updated is not later: {all:?}"))?;
        let some = set(&[("l1", "1"), ("l3", "3")], &["labels.l1", "labels.l2"])?;
        ensure(some.labels == trial.labels(&[("l1", "1")]), || format!("some: {:?}", some.labels))?;
        let dotted = set(&[("a.b/c", "d")], &["labels.a.b/c"])?;
        ensure(dotted.labels == trial.labels(&[("l1", "1"), ("a.b/c", "d")]), || format!("{:?}", dotted.labels))?;
        let replaced = set(&[("l4", "4")], &["labels"])?;
        ensure(replaced.labels == trial.labels(&[("l4", "4")]), || format!("replaced: {:?}", replaced.labels))?;
        ensure(trial.stat(key)? == replaced, || "Update and Stat differ".to_owned())?;
        for path in ["parent", "kind", "name", "nonsense"] {
            let wish = Info { labels: trial.labels(&[]), ..made.clone() };
            trial.fails(&format!("Update of {path}"), trial.on.update(&wish, &[path]), InvalidArgument)?;
        }
        ensure(trial.stat(key)? == replaced, || "an update that failed changed something".to_owned())?;
    }
    let missing = Info { name: trial.key("missing"), ..trial.stat("c")? };
    trial.fails("Update of nothing", trial.on.update(&missing, &[]), NotFound)
}

fn keys_are_free_again(trial: &mut Trial<'_>) -> Verdict {
    for _ in 0..2 {
        trial.prepare("key", "")?;
        trial.remove("key")?;
        trial.view("key", "")?;
        trial.remove("key")?;
        trial.prepare("key", "")?;
        trial.commit("name", "key")?;
        trial.remove("name")?;
    }
    Ok(())
}

fn walk(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("p", "", &[])?;
    let (p, labelled) = (trial.key("p"), trial.labels(&[("l", "2"), ("containerd.io/snapshot.ref", "sha256:x")]));
    trial.prepare("a", "p")?;
    trial.on.prepare(&trial.key("a-wl"), &p, &labelled)?;
    trial.view("v", "p")?;
    let cases = [
        (vec![], "a a-wl p v"),
        (vec![format!("labels.\"{GC_ROOT}\"=={}", trial.labels[GC_ROOT])], "a a-wl p v"),
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
        let mut found: Vec<_> = trial.walk(&filters)?.into_iter().map(|info| info.name).collect();
        found.sort_unstable();
        let expected: Vec<_> = expected.split_whitespace().map(|name| trial.key(name)).collect();
        ensure(found == expected, || format!("{filters:?} found {found:?}, not {expected:?}"))?;
    }
    Ok(())
}

fn wrong_filter(trial: &mut Trial<'_>) -> Verdict {
    for filter in ["name=", "=x", "name==\"a"] {
        trial.fails(filter, trial.on.walk(&[filter], &mut |_| Ok(())), InvalidArgument)?;
    }
    Ok(())
}

fn stat_in_walk(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("p", "", &[])?;
    trial.prepare("a", "p")?;
    let mut seen = 0;
    trial.on.walk(&[], &mut |info| {
        if info.name.starts_with(&trial.prefix) {
            seen += 1;
            if trial.on.stat(&info.name)? != *info {
                return Err(crate::Error::data_loss(format!("Stat and Walk differ: {info:?}")));
            }
        }
        Ok(())
    })?;
    ensure(seen == 2, || format!("{seen} were walked, not 2"))
}

fn remove_in_walk(trial: &mut Trial<'_>) -> Verdict {
    for key in ["a", "b", "c"] {
        trial.prepare(key, "")?;
    }
    trial.on.walk(&[], &mut |info| {
        if info.name.starts_with(&trial.prefix) { trial.on.remove(&info.name) } else { Ok(()) }
    })?;
    let left = trial.walk(&[])?;
    ensure(left.is_empty(), || format!("{left:?} is left"))
}

fn remove_intermediate(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[])?;
    trial.layer("middle", "base", &[])?;
    trial.prepare("top", "middle")?;
    for key in ["base", "middle"] {
        let answer = trial.on.remove(&trial.key(key));
        let text = answer.as_ref().err().map(crate::Error::chain).unwrap_or_default();
        trial.fails("Remove of a parent", answer, FailedPrecondition)?;
        ensure(text.contains("remove"), || format!("the error does not say that it is about a removal: {text}"))?;
    }
    ["top", "middle", "base"].into_iter().try_for_each(|key| trial.remove(key))
}

fn close_twice(_: &mut Trial<'_>) -> Verdict {
    Err(Fault::Skip("the contract has no Close: a snapshotter is closed when it is dropped".to_owned()))
}

fn any_key(trial: &mut Trial<'_>) -> Verdict {
    let digest = "sha256:3b1d8a2c5e";
    let extract = format!("extract-440725399-7oAi {digest}");
    trial.layer(digest, "", &[])?;
    for key in [extract.as_str(), "with/slash/es", "..", "ünï\u{301}code", "a'b\"c", "%2f"] {
        trial.prepare(key, digest)?;
        is(&trial.stat(key)?, Kind::Active, &trial.key(key), &trial.key(digest))?;
    }
    Ok(())
}

fn errors(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[])?;
    trial.prepare("active", "base")?;
    trial.view("view", "base")?;
    let (on, missing, labels) = (trial.on, trial.key("missing"), &trial.labels);
    trial.fails("Stat of nothing", on.stat(&missing), NotFound)?;
    trial.fails("Usage of nothing", on.usage(&missing), NotFound)?;
    trial.fails("Mounts of nothing", on.mounts(&missing), NotFound)?;
    trial.fails("Remove of nothing", on.remove(&missing), NotFound)?;
    trial.fails("Prepare on nothing", on.prepare(&trial.key("new"), &missing, labels), NotFound)?;
    trial.fails("View of nothing", on.view(&trial.key("new"), &missing, labels), NotFound)?;
    for parent in ["active", "view"] {
        let (new, parent) = (trial.key("new"), trial.key(parent));
        trial.fails("Prepare on what is not committed", on.prepare(&new, &parent, labels), InvalidArgument)?;
        trial.fails("View of what is not committed", on.view(&new, &parent, labels), InvalidArgument)?;
    }
    let left = trial.walk(&[])?.len();
    ensure(left == 3, || format!("calls that failed left something: {left} snapshots, not 3"))
}

fn commit_errors(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[])?;
    trial.prepare("active", "base")?;
    let (on, labels) = (trial.on, &trial.labels);
    let commit = |name: &str, key: &str| on.commit(&trial.key(name), &trial.key(key), labels);
    trial.fails("Commit of nothing", commit("new", "missing"), NotFound)?;
    trial.fails("Commit to a name in use", commit("base", "active"), AlreadyExists)?;
    trial.fails("Commit to its own key", commit("active", "active"), AlreadyExists)?;
    trial.fails("Commit of what is committed", commit("new", "base"), FailedPrecondition)?;
    trial.fails("Mounts of what is committed", on.mounts(&trial.key("base")), FailedPrecondition)?;
    commit("new", "active")?;
    trial.fails("Stat of a key that was committed", on.stat(&trial.key("active")), NotFound)?;
    let committed = trial.stat("new")?;
    ensure(committed.created == committed.updated, || format!("it was never updated: {committed:?}"))
}

fn commit_of_a_view(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[])?;
    trial.view("view", "base")?;
    let commit = |name: &str| trial.on.commit(&trial.key(name), &trial.key("view"), &trial.labels);
    trial.fails("Commit of a view", commit("new"), FailedPrecondition)?;
    trial.fails("Commit of a view to a name in use", commit("base"), AlreadyExists)
}

fn mounts(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[])?;
    trial.layer("next", "base", &[])?;
    for parent in ["", "base", "next"] {
        for (kind, access) in [(Kind::Active, Access::ReadWrite), (Kind::View, Access::ReadOnly)] {
            let (key, parent) = (trial.key(&format!("{kind} on {parent}")), trial.key(parent));
            let handed = match kind {
                Kind::Active => trial.on.prepare(&key, &parent, &trial.labels)?,
                _ => trial.on.view(&key, &parent, &trial.labels)?,
            };
            ensure(handed == trial.on.mounts(&key)?, || format!("{key}: Mounts are not what was handed out"))?;
            let found = handed.last().map(crate::mount::Mount::access);
            ensure(found == Some(access), || format!("{key}: {handed:?} is not {access:?}"))?;
        }
    }
    Ok(())
}

fn cleanup(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[super::file("f", 1, 5000)])?;
    trial.remove("base")?;
    match trial.on.cleanup() {
        Err(error) if error.kind() == crate::ErrorKind::Unsupported => Err(Fault::Skip(
            "Cleanup is not served here: space is freed by removals, or by a garbage collector".to_owned(),
        )),
        done => Ok(done?),
    }
}
