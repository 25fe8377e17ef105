//! gzip on every core: the plain bytes are cut into blocks of one size, and each becomes a member of its own.
//!
//! The members come out in order, and depend on the plain bytes alone, not on the number of threads. Memory is bounded:
//! whoever brings a block waits as long as too many are on their way.
//!
//! # References
//! RFC 1952, 2.2: a file is a series of members, read one after the other as one.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};

use crate::error::{Error, ErrorKind, Result};

/// How hard it tries: where the size is below that of `gzip -6` and the speed three times its.
const LEVEL: i32 = 6;

/// Beyond these the one thread that cuts the blocks is the slowest.
const THREADS_MAX: usize = 8;

/// How many blocks may be on their way for each thread: one in work, and others in reserve, for threads are not
/// scheduled at once on a machine that has more to do.
const AHEAD_MAX: usize = 4;

/// A block, and where its member is waited for.
type Job = (Arc<Vec<u8>>, SyncSender<Vec<u8>>);

/// The threads, and the members that they owe.
#[derive(Debug)]
pub(super) struct Members {
    jobs: SyncSender<Job>,
    owed: VecDeque<Receiver<Vec<u8>>>,
    owed_max: usize,
}

impl Members {
    /// # Errors
    /// `Io` if no thread can be started.
    pub(super) fn start() -> Result<Self> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (jobs, todo) = mpsc::sync_channel(AHEAD_MAX * threads);
        let todo = Arc::new(Mutex::new(todo));
        for _ in 0..threads {
            let todo = Arc::clone(&todo);
            super::thread::start("gzip", move || work(&todo))?;
        }
        Ok(Self { jobs, owed: VecDeque::new(), owed_max: AHEAD_MAX * threads })
    }

    /// Takes a block, and writes the members that are due to `writer`.
    pub(super) fn push(&mut self, block: Arc<Vec<u8>>, writer: &mut dyn Write) -> io::Result<()> {
        while self.owed.len() >= self.owed_max {
            self.write_next(writer)?;
        }
        let (give, take) = mpsc::sync_channel(1);
        self.jobs.send((block, give)).map_err(|_| gone())?;
        self.owed.push_back(take);
        Ok(())
    }

    /// Writes what is still owed.
    pub(super) fn finish(mut self, writer: &mut dyn Write) -> io::Result<()> {
        while !self.owed.is_empty() {
            self.write_next(writer)?;
        }
        Ok(())
    }

    fn write_next(&mut self, writer: &mut dyn Write) -> io::Result<()> {
        match self.owed.pop_front() {
            Some(next) => writer.write_all(&next.recv().map_err(|_| gone())?),
            None => Ok(()),
        }
    }
}

fn gone() -> io::Error {
    Error::new(ErrorKind::Io, "a thread that compresses ended early").into()
}

/// Compresses until nobody has a block any more.
fn work(todo: &Mutex<Receiver<Job>>) {
    let level = CompressionLvl::new(LEVEL).expect("a level that libdeflate has");
    let mut compressor = Compressor::new(level);
    loop {
        let next = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((block, give)) = next else { return };
        let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
        let length = compressor.gzip_compress(&block, &mut member).expect("no block is longer than its bound");
        member.truncate(length);
        // If nobody waits for it any more, the writer was given up.
        let _ = give.send(member);
    }
}
