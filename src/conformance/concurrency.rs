//! Cases with concurrent callers: exactly one caller gets a key, and no caller sees a half-made snapshot.
//!
//! Threads of this process call one snapshotter. No case depends on timing: each states what must hold for every order
//! of the calls.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::case::{Fault, Promise, Verdict, ensure};
use super::trial::Trial;
use crate::error::ErrorKind::{self, AlreadyExists, FailedPrecondition, NotFound};
use crate::error::Result;
use crate::mount;
use crate::tree::Dir;

/// A promise about concurrent callers.
pub(super) type Case = Promise<fn(&mut Trial<'_>) -> Verdict>;

/// Number of concurrent callers.
const CALLERS: usize = 4;

/// Number of repetitions.
const ROUNDS: usize = 5;

/// All cases of the group.
pub(super) const CASES: [Case; 7] = [
    Case {
        name: "one-key-one-winner",
        source: "containerd core/snapshots/snapshotter.go: Prepare",
        meaning: "two containers get the same root directory",
        run: one_key,
    },
    Case {
        name: "one-name-one-winner",
        source: "containerd core/snapshots/snapshotter.go: Commit; two pulls of one layer",
        meaning: "a layer that two pulls unpack at once is lost or mixed",
        run: one_name,
    },
    Case {
        name: "one-commit-of-a-key",
        source: "containerd core/snapshots/snapshotter.go: Commit",
        meaning: "one snapshot becomes two layers that share what they hold",
        run: one_commit,
    },
    Case {
        name: "one-removal",
        source: "containerd core/snapshots/snapshotter.go: Remove",
        meaning: "a removal is told to have been done that another did",
        run: one_removal,
    },
    Case {
        name: "chains-side-by-side",
        source: "containerd core/unpack: several images at once",
        meaning: "pulls at the same time disturb each other's layers",
        run: chains,
    },
    Case {
        name: "walk-while-others-write",
        source: "containerd core/snapshots/snapshotter.go: Walk",
        meaning: "the garbage collector misses snapshots that were there all the time, and what they need goes",
        run: walk_while_others_write,
    },
    Case {
        name: "parent-outlives-its-child",
        source: "containerd core/snapshots/storage: Remove with children",
        meaning: "a layer goes at the moment in which a container is started on it",
        run: parent_outlives_its_child,
    },
];

/// Checks that exactly one call succeeded and that the others failed with one of `kinds`.
fn one_won(what: &str, answers: &[Result<()>], kinds: &[ErrorKind]) -> Verdict {
    let won = answers.iter().filter(|answer| answer.is_ok()).count();
    ensure(won == 1, || format!("{what}: {won} of {} succeeded", answers.len()))?;
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        ensure(kinds.contains(&error.kind()), || format!("{what} failed with {}: {}", error.kind(), error.chain()))?;
    }
    Ok(())
}

/// Calls `call` from all callers at the same time.
fn at_once(call: impl Fn(usize) -> Result<()> + Sync) -> Verdict<Vec<Result<()>>> {
    thread::scope(|scope| {
        let call = &call;
        let callers: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || call(caller))).collect();
        let join = |caller: thread::ScopedJoinHandle<'_, Result<()>>| {
            caller.join().map_err(|_| Fault::Broken("a caller ended with a panic".to_owned()))
        };
        callers.into_iter().map(join).collect()
    })
}

fn one_key(trial: &mut Trial<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = trial.key(&format!("key{number}"));
        let answers = at_once(|_| trial.on.prepare(&key, "", &trial.labels).map(drop))?;
        one_won("Prepare", &answers, &[AlreadyExists])?;
        trial.on.mounts(&key)?;
    }
    let left = trial.walk(&[])?.len();
    ensure(left == ROUNDS, || format!("{left} snapshots are there, and not {ROUNDS}"))
}

fn one_name(trial: &mut Trial<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = |caller: usize| trial.key(&format!("{number} of {caller}"));
        (0..CALLERS).try_for_each(|caller| trial.on.prepare(&key(caller), "", &trial.labels).map(drop))?;
        let name = trial.key(&format!("name{number}"));
        let answers = at_once(|caller| trial.on.commit(&name, &key(caller), &trial.labels))?;
        one_won("Commit", &answers, &[AlreadyExists])?;
        // The callers whose commit failed must still have their snapshots.
        for caller in (0..CALLERS).filter(|caller| answers[*caller].is_err()) {
            trial.on.mounts(&key(caller))?;
        }
    }
    Ok(())
}

fn one_commit(trial: &mut Trial<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = trial.key(&format!("key{number}"));
        trial.on.prepare(&key, "", &trial.labels)?;
        let name = |caller: usize| trial.key(&format!("{number} by {caller}"));
        let answers = at_once(|caller| trial.on.commit(&name(caller), &key, &trial.labels))?;
        one_won("Commit", &answers, &[NotFound, FailedPrecondition])?;
    }
    let left = trial.walk(&[])?.len();
    ensure(left == ROUNDS, || format!("{left} snapshots are there, and not {ROUNDS}"))
}

fn one_removal(trial: &mut Trial<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = trial.key(&format!("key{number}"));
        trial.on.prepare(&key, "", &trial.labels)?;
        let answers = at_once(|_| trial.on.remove(&key))?;
        one_won("Remove", &answers, &[NotFound, FailedPrecondition])?;
    }
    Ok(())
}

fn open(trial: &Trial<'_>, key: &str) -> Result<Dir> {
    Ok(Dir::from_fd(mount::detached(&trial.on.mounts(key)?)?, key))
}

fn chains(trial: &mut Trial<'_>) -> Verdict {
    let name = |caller: usize, height: usize| match height {
        0 => String::new(),
        height => trial.key(&format!("{caller}.{height}")),
    };
    let answers = at_once(|caller| {
        for height in 1..=ROUNDS {
            let key = trial.key(&format!("{caller} in work"));
            trial.on.prepare(&key, &name(caller, height - 1), &trial.labels)?;
            open(trial, &key)?.create_file(format!("{caller}.{height}"))?;
            trial.on.commit(&name(caller, height), &key, &trial.labels)?;
        }
        Ok(())
    })?;
    answers.into_iter().collect::<Result<()>>()?;
    for caller in 0..CALLERS {
        let view = trial.key(&format!("view of {caller}"));
        trial.on.view(&view, &name(caller, ROUNDS), &trial.labels)?;
        let found: Vec<_> = open(trial, &view)?.names()?.into_iter().map(|entry| entry.name).collect();
        let expected: Vec<OsString> = (1..=ROUNDS).map(|height| format!("{caller}.{height}").into()).collect();
        ensure(found == expected, || format!("{found:?} and not {expected:?}"))?;
    }
    let left = trial.walk(&[])?.len();
    ensure(left == CALLERS * (ROUNDS + 1), || format!("{left} snapshots are there"))
}

fn walk_while_others_write(trial: &mut Trial<'_>) -> Verdict {
    const WALKS: usize = 20;
    trial.layer("stays", "", &[])?;
    trial.prepare("stays, too", "stays")?;
    let lasting = ["stays", "stays, too"].map(|key| trial.key(key));
    let (done, walks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let trial = &*trial;
    let answers = at_once(|caller| {
        if caller > 0 {
            let key = trial.key(&format!("comes and goes {caller}"));
            while !done.load(Ordering::Relaxed) {
                trial.on.prepare(&key, &lasting[0], &trial.labels)?;
                trial.on.remove(&key)?;
            }
            return Ok(());
        }
        let walked = (0..WALKS).try_for_each(|_| {
            let mut seen = Vec::new();
            trial.on.walk(&[], &mut |info| {
                seen.push(info.name.clone());
                Ok(())
            })?;
            let whole = lasting.iter().all(|name| seen.iter().filter(|other| *other == name).count() == 1);
            walks.fetch_add(usize::from(whole), Ordering::Relaxed);
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        walked
    })?;
    answers.into_iter().collect::<Result<()>>()?;
    let whole = walks.into_inner();
    ensure(whole == WALKS, || format!("{} of {WALKS} walks did not show once each of what was there", WALKS - whole))
}

fn parent_outlives_its_child(trial: &mut Trial<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let (base, key) = (format!("base{number}"), trial.key(&format!("child{number}")));
        trial.layer(&base, "", &[])?;
        let full = trial.key(&base);
        let answers = at_once(|caller| match caller {
            0 => trial.on.prepare(&key, &full, &trial.labels).map(drop),
            _ => trial.on.remove(&full),
        })?;
        let removed = answers[1..].iter().filter(|answer| answer.is_ok()).count();
        let (has_child, has_base) = (trial.on.stat(&key).is_ok(), trial.on.stat(&full).is_ok());
        let consistent = has_child == answers[0].is_ok() && has_base == (removed == 0) && has_child == has_base;
        ensure(consistent && removed <= 1, || {
            format!("the child is there: {has_child}, its parent: {has_base}; answers: {answers:?}")
        })?;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let kind = error.kind();
            ensure(matches!(kind, NotFound | FailedPrecondition), || format!("{kind}: {}", error.chain()))?;
        }
    }
    Ok(())
}
