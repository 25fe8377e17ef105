//! Cases about many callers at once: one key has one winner, and nobody sees a half of anything.
//!
//! Threads of this process call one snapshotter. No case waits for a moment: each says what must hold however the calls
//! fall.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::case::{Fault, Promise, Verdict, ensure};
use super::round::Round;
use crate::error::ErrorKind::{self, AlreadyExists, FailedPrecondition, NotFound};
use crate::error::Result;
use crate::mount;
use crate::tree::Dir;

/// A promise about callers.
pub(super) type Case = Promise<fn(&mut Round<'_>) -> Verdict>;

/// Callers at once.
const CALLERS: usize = 4;

/// How often they meet.
const ROUNDS: usize = 5;

/// Every case.
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

/// What every caller's call answered: that one succeeded, and the others failed with one of `kinds`.
fn one_won(what: &str, answers: &[Result<()>], kinds: &[ErrorKind]) -> Verdict {
    let won = answers.iter().filter(|answer| answer.is_ok()).count();
    ensure(won == 1, || format!("{what}: {won} of {} succeeded", answers.len()))?;
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        ensure(kinds.contains(&error.kind()), || format!("{what} failed with {}: {}", error.kind(), error.chain()))?;
    }
    Ok(())
}

/// Has `call` made by all callers at once.
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

fn one_key(round: &mut Round<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = round.key(&format!("key{number}"));
        let answers = at_once(|_| round.on.prepare(&key, "", &round.labels).map(drop))?;
        one_won("Prepare", &answers, &[AlreadyExists])?;
        round.on.mounts(&key)?;
    }
    let left = round.walk(&[])?.len();
    ensure(left == ROUNDS, || format!("{left} snapshots are there, and not {ROUNDS}"))
}

fn one_name(round: &mut Round<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = |caller: usize| round.key(&format!("{number} of {caller}"));
        (0..CALLERS).try_for_each(|caller| round.on.prepare(&key(caller), "", &round.labels).map(drop))?;
        let name = round.key(&format!("name{number}"));
        let answers = at_once(|caller| round.on.commit(&name, &key(caller), &round.labels))?;
        one_won("Commit", &answers, &[AlreadyExists])?;
        // Those who lost have their snapshots.
        for caller in (0..CALLERS).filter(|caller| answers[*caller].is_err()) {
            round.on.mounts(&key(caller))?;
        }
    }
    Ok(())
}

fn one_commit(round: &mut Round<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = round.key(&format!("key{number}"));
        round.on.prepare(&key, "", &round.labels)?;
        let name = |caller: usize| round.key(&format!("{number} by {caller}"));
        let answers = at_once(|caller| round.on.commit(&name(caller), &key, &round.labels))?;
        one_won("Commit", &answers, &[NotFound, FailedPrecondition])?;
    }
    let left = round.walk(&[])?.len();
    ensure(left == ROUNDS, || format!("{left} snapshots are there, and not {ROUNDS}"))
}

fn one_removal(round: &mut Round<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let key = round.key(&format!("key{number}"));
        round.on.prepare(&key, "", &round.labels)?;
        let answers = at_once(|_| round.on.remove(&key))?;
        one_won("Remove", &answers, &[NotFound, FailedPrecondition])?;
    }
    Ok(())
}

fn open(round: &Round<'_>, key: &str) -> Result<Dir> {
    Ok(Dir::from_fd(mount::detached(&round.on.mounts(key)?)?, key))
}

fn chains(round: &mut Round<'_>) -> Verdict {
    let name = |caller: usize, height: usize| match height {
        0 => String::new(),
        height => round.key(&format!("{caller}.{height}")),
    };
    let answers = at_once(|caller| {
        for height in 1..=ROUNDS {
            let key = round.key(&format!("{caller} in work"));
            round.on.prepare(&key, &name(caller, height - 1), &round.labels)?;
            open(round, &key)?.create_file(format!("{caller}.{height}"))?;
            round.on.commit(&name(caller, height), &key, &round.labels)?;
        }
        Ok(())
    })?;
    answers.into_iter().collect::<Result<()>>()?;
    for caller in 0..CALLERS {
        let view = round.key(&format!("view of {caller}"));
        round.on.view(&view, &name(caller, ROUNDS), &round.labels)?;
        let found: Vec<_> = open(round, &view)?.names()?.into_iter().map(|entry| entry.name).collect();
        let expected: Vec<OsString> = (1..=ROUNDS).map(|height| format!("{caller}.{height}").into()).collect();
        ensure(found == expected, || format!("{found:?} and not {expected:?}"))?;
    }
    let left = round.walk(&[])?.len();
    ensure(left == CALLERS * (ROUNDS + 1), || format!("{left} snapshots are there"))
}

fn walk_while_others_write(round: &mut Round<'_>) -> Verdict {
    const WALKS: usize = 20;
    round.layer("stays", "", &[])?;
    round.prepare("stays, too", "stays")?;
    let lasting = ["stays", "stays, too"].map(|key| round.key(key));
    let (done, walks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let round = &*round;
    let answers = at_once(|caller| {
        if caller > 0 {
            let key = round.key(&format!("comes and goes {caller}"));
            while !done.load(Ordering::Relaxed) {
                round.on.prepare(&key, &lasting[0], &round.labels)?;
                round.on.remove(&key)?;
            }
            return Ok(());
        }
        let walked = (0..WALKS).try_for_each(|_| {
            let mut seen = Vec::new();
            round.on.walk(&[], &mut |info| {
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

fn parent_outlives_its_child(round: &mut Round<'_>) -> Verdict {
    for number in 0..ROUNDS {
        let (base, key) = (format!("base{number}"), round.key(&format!("child{number}")));
        round.layer(&base, "", &[])?;
        let full = round.key(&base);
        let answers = at_once(|caller| match caller {
            0 => round.on.prepare(&key, &full, &round.labels).map(drop),
            _ => round.on.remove(&full),
        })?;
        let removed = answers[1..].iter().filter(|answer| answer.is_ok()).count();
        let (has_child, has_base) = (round.on.stat(&key).is_ok(), round.on.stat(&full).is_ok());
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
