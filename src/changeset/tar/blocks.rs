//! An archive as a stream of bytes with a position and an end that is noticed.
//!
//! Invariant: every method either delivers all that was asked for or fails; only [`Blocks::header`] and
//! [`Blocks::trailer`] may meet the end of the archive.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use super::header::{BLOCK_BYTES, Block};
use crate::error::{Context, Error, ErrorKind, Result};

/// Headers are read through a buffer of this size; longer stretches of data go past it.
const BUFFER_BYTES: usize = 128 << 10;

/// What stands at a block boundary.
#[derive(Debug)]
pub(super) enum Next {
    /// A block that is not all zeros.
    Header(Box<Block>),
    /// A zero block: the end of the archive.
    Zeros,
    /// Nothing more.
    Nothing,
}

/// The archive.
pub(super) struct Blocks<'r> {
    reader: BufReader<&'r mut dyn Read>,
    offset: u64,
    bytes_max: u64,
    /// What was read since the last [`Blocks::taken`], but content that was delivered or skipped.
    taken: Vec<u8>,
}

impl<'r> Blocks<'r> {
    pub(super) fn new(reader: &'r mut dyn Read, bytes_max: u64) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, reader), offset: 0, bytes_max, taken: Vec::new() }
    }

    /// How many bytes were taken.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What was read of headers, padding and the like since this was emptied last.
    pub(super) fn taken(&mut self) -> &mut Vec<u8> {
        &mut self.taken
    }

    /// The next block, which may be the end.
    pub(super) fn header(&mut self) -> Result<Next> {
        let mut block = Box::new([0; BLOCK_BYTES]);
        match self.fill(block.as_mut_slice())? {
            0 => Ok(Next::Nothing),
            BLOCK_BYTES if block.iter().all(|byte| *byte == 0) => Ok(Next::Zeros),
            BLOCK_BYTES => Ok(Next::Header(block)),
            _ => Err(self.cut("a header")),
        }
    }

    /// A block inside an entry.
    pub(super) fn block(&mut self) -> Result<Block> {
        let mut block = [0; BLOCK_BYTES];
        match self.fill(&mut block)? {
            BLOCK_BYTES => Ok(block),
            _ => Err(self.cut("an entry")),
        }
    }

    /// `length` bytes and their padding; the caller has checked that they may be held in memory.
    pub(super) fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if self.fill(&mut bytes)? != length {
            return Err(self.cut("an entry"));
        }
        self.align()?;
        Ok(bytes)
    }

    /// Some of the bytes of an entry: at least one.
    pub(super) fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => break answer?,
            }
        };
        if count == 0 {
            return Err(self.cut("an entry").into());
        }
        self.advance(count)?;
        Ok(count)
    }

    /// Reads past `length` bytes of content.
    pub(super) fn skip(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let count = self.available_of(left)?;
            self.reader.consume(count);
            self.advance(count)?;
            left -= count as u64;
        }
        Ok(())
    }

    /// Takes some of `left` bytes that are no file's; answers how many.
    pub(super) fn take_some(&mut self, left: u64) -> Result<u64> {
        let count = self.available_of(left)?;
        self.take(count)?;
        Ok(count as u64)
    }

    /// How many of the next `left` bytes are at hand: at least one.
    fn available_of(&mut self, left: u64) -> Result<usize> {
        match self.available()? {
            0 => Err(self.cut("an entry")),
            available => Ok(usize::try_from(left).unwrap_or(usize::MAX).min(available)),
        }
    }

    /// Takes `count` of the bytes that are at hand.
    fn take(&mut self, count: usize) -> Result<()> {
        self.taken.extend_from_slice(&self.reader.buffer()[..count]);
        self.reader.consume(count);
        self.advance(count)
    }

    /// Reads past the padding of an entry. Entries begin at block boundaries, so its length follows from the position.
    /// Where the archive ends before it nothing is lost, and there are writers that leave it out (`umoci insert`).
    pub(super) fn align(&mut self) -> Result<()> {
        let padding = self.offset.next_multiple_of(BLOCK_BYTES as u64) - self.offset;
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block[..padding as usize]).map(drop)
    }

    /// Reads what follows the first zero block, to the very end, so that a reader below which computes digests has seen
    /// everything. Answers how many bytes there were after the second zero block.
    pub(super) fn trailer(&mut self, bytes_max: u64) -> Result<u64> {
        let mut block = [0; BLOCK_BYTES];
        let count = self.fill(&mut block)?;
        let zeros = block.iter().all(|byte| *byte == 0);
        if count == BLOCK_BYTES && !zeros {
            return Err(Error::data_loss(format!(
                "a single zero block with more behind it, at byte {}",
                self.offset - 2 * BLOCK_BYTES as u64
            )));
        }
        let mut trailing = if zeros { 0 } else { count as u64 };
        loop {
            let count = self.available()?;
            if count == 0 {
                return Ok(trailing);
            }
            self.take(count)?;
            trailing += count as u64;
            if trailing > bytes_max {
                let message = format!("more than {bytes_max} bytes follow the end of the archive");
                return Err(Error::new(ErrorKind::ResourceExhausted, message));
            }
        }
    }

    /// Reads until `buffer` is full or the archive ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                failed => return failed.at("read", "layer"),
            }
        }
        self.taken.extend_from_slice(&buffer[..filled]);
        self.advance(filled)?;
        Ok(filled)
    }

    fn available(&mut self) -> Result<usize> {
        loop {
            match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => return answer.map(<[u8]>::len).at("read", "layer"),
            }
        }
    }

    fn advance(&mut self, count: usize) -> Result<()> {
        self.offset = self.offset.saturating_add(count as u64);
        if self.offset > self.bytes_max {
            let message = format!("the layer is longer than {} bytes", self.bytes_max);
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        Ok(())
    }

    fn cut(&self, inside: &str) -> Error {
        Error::data_loss(format!("the archive ends at byte {}, inside {inside}", self.offset))
    }
}

impl fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("offset", &self.offset).finish_non_exhaustive()
    }
}
