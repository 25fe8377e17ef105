//! Counts what the tests of one section of promises tried, and what of it was broken.
//!
//! `make test-long` adds up the printed lines, `tally: SECTION tried N broken M`, in `tests/support/tally.awk`.

use std::cell::Cell;
use std::io::Write as _;

/// The count of one test. The line is printed when the count is dropped, also by a test that fails: then at least one
/// thing was broken.
#[derive(Debug)]
pub struct Tally {
    section: &'static str,
    tried: Cell<usize>,
    broken: Cell<usize>,
}

impl Tally {
    /// A count for `section`, one of the names in the `Makefile`.
    pub fn new(section: &'static str) -> Self {
        Self { section, tried: Cell::new(0), broken: Cell::new(0) }
    }

    /// Counts things that were tried, and those among them that were broken.
    pub fn add(&self, tried: usize, broken: usize) {
        self.tried.set(self.tried.get() + tried);
        self.broken.set(self.broken.get() + broken);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if std::thread::panicking() && self.broken.get() == 0 {
            self.add(1, 1);
        }
        let Self { section, tried, broken } = self;
        // A test that was skipped tried nothing, and the sum of its section shows that.
        if tried.get() > 0 {
            let line = format!("tally: {section} tried {} broken {}\n", tried.get(), broken.get());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}
