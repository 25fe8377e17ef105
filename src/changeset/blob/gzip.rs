//! gzip compression on several threads: the plain bytes are cut into blocks of one size, and each block becomes a gzip
//! member.
//!
//! The members are written in order. They depend only on the plain bytes, not on the number of threads. Memory is
//! bounded: `push` waits while too many blocks are being compressed.
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

/// Compression level, chosen so that the result is smaller than that of `gzip -6` at three times the speed.
const LEVEL: i32 = 6;

/// Maximum number of threads: with more, the single thread that cuts the blocks is the bottleneck.
const THREADS_MAX: usize = 8;

/// Number of blocks in flight for each thread: one being compressed and others in reserve, because a thread may not be
/// scheduled at once on a busy machine.
const AHEAD_MAX: usize = 4;

/// A block, and the channel for its member.
type Job = (Arc<Vec<u8>>, SyncSender<Vec<u8>>);

/// The threads, and the members that are not written yet.
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

    /// Takes a block, and writes members to `writer` while too many are in flight.
    pub(super) fn push(&mut self, block: Arc<Vec<u8>>, writer: &mut dyn Write) -> io::Result<()> {
        while self.owed.len() >= self.owed_max {
            self.write_next(writer)?;
        }
        let (give, take) = mpsc::sync_channel(1);
        self.jobs.send((block, give)).map_err(|_| gone())?;
        self.owed.push_back(take);
        Ok(())
    }

    /// Writes the remaining members.
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

/// Compresses blocks until no more are sent.
fn work(todo: &Mutex<Receiver<Job>>) {
    let level = CompressionLvl::new(LEVEL).expect("a level that libdeflate has");
    let mut compressor = Compressor::new(level);
    loop {
        let next = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((block, give)) = next else { return };
        let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
        let length = compressor.gzip_compress(&block, &mut member).expect("no block is longer than its bound");
        member.truncate(length);
        // Sending fails only if the writer was dropped; then the member is not needed.
        let _ = give.send(member);
    }
}
