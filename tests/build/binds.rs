//! Binds of a hostile context: its owner exchanges a directory for a link while the build runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::tally::Tally;
use super::{Bench, Heard, Wish};

/// How often a build races with the exchange, at least. A build that hands the runtime a path loses about a fifth of
/// the races.
const TRIES: usize = 60;

/// How many of the builds have to succeed, and how often is tried for that. A build looks at the directory several
/// times, and fails if the link is there at one of them.
const BUILT: usize = 3;
const TRIES_MAX: usize = 5_000;

/// The content of the file outside the context.
const SECRET: &str = "of the machine";

/// Exchanges the two until `stop`.
fn exchange(one: &Path, other: &Path, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("exchange");
    }
}

/// Sets `stop` also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_exchange_in_the_context_shows_nothing_outside_it() {
    let Some(bench) = Bench::overlay() else { return };
    let outside = bench.scratch.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("f"), SECRET).expect("write");
    bench.write("d/f", "of the context");
    let (dir, link) = (bench.context().join("d"), bench.context().join("l"));
    symlink(&outside, &link).expect("symlink");
    let stop = AtomicBool::new(false);
    let (mut seen, mut built, mut tries) = (0, 0, 0);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| exchange(&dir, &link, &stop));
        while tries < TRIES || (built < BUILT && tries < TRIES_MAX) {
            tries += 1;
            let heard = Heard::default();
            let wish = Wish { no_cache: true, ..Wish::default() };
            let text = "FROM base\nRUN --mount=type=bind,source=d,target=/in cat /in/f\n";
            built += usize::from(bench.build_with("raced", text, &wish, &heard).is_ok());
            seen += usize::from(String::from_utf8_lossy(&heard.output.borrow()).contains(SECRET));
        }
    });
    Tally::new("escapes").add(tries, seen);
    assert_eq!(seen, 0, "of {tries} builds ({built} succeeded)");
    assert!(built >= BUILT, "{built} of {tries} builds met the directory");
    bench.assert_clean();
}
