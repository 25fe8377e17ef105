//! An archive as a byte stream with a position and a detected end.
//!
//! Invariant: every method either returns everything that was asked for or fails; only [`Blocks::header`] and
//! [`Blocks::take_trailing`] may reach the end of the archive.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use super::header::{BLOCK_BYTES, Block};
use crate::error::{Context, Error, ErrorKind, Result};

/// Buffer size for headers; longer reads bypass the buffer.
const BUFFER_BYTES: usize = 128 << 10;

/// The next block of the archive.
#[derive(Debug)]
pub(super) enum Next {
    /// A block that is not all zeros.
    Header(Box<Block>),
    /// A block of zeros: the end of the archive.
    Zeros,
    /// End of the stream.
    Nothing,
}

/// The archive.
pub(super) struct Blocks<'r> {
    reader: BufReader<&'r mut dyn Read>,
    offset: u64,
    bytes_max: u64,
    /// Bytes read since the last [`Blocks::taken`], except content that was delivered or skipped.
    taken: Vec<u8>,
}

impl<'r> Blocks<'r> {
    pub(super) fn new(reader: &'r mut dyn Read, bytes_max: u64) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, reader), offset: 0, bytes_max, taken: Vec::new() }
    }

    /// Returns the number of bytes read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the bytes of headers, padding and the like that were read since the buffer was last emptied.
    pub(super) fn taken(&mut self) -> &mut Vec<u8> {
        &mut self.taken
    }

    /// Reads the next block, which may be the end.
    pub(super) fn header(&mut self) -> Result<Next> {
        let mut block = Box::new([0; BLOCK_BYTES]);
        match self.fill(block.as_mut_slice())? {
            0 => Ok(Next::Nothing),
            BLOCK_BYTES if block.iter().all(|byte| *byte == 0) => Ok(Next::Zeros),
            BLOCK_BYTES => Ok(Next::Header(block)),
            _ => Err(self.cut("a header")),
        }
    }

    /// Reads a block inside an entry.
    pub(super) fn block(&mut self) -> Result<Block> {
        let mut block = [0; BLOCK_BYTES];
        match self.fill(&mut block)? {
            BLOCK_BYTES => Ok(block),
            _ => Err(self.cut("an entry")),
        }
    }

    /// Reads `length` bytes and their padding. The caller has checked that they may be held in memory.
    pub(super) fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if self.fill(&mut bytes)? != length {
            return Err(self.cut("an entry"));
        }
        self.align()?;
        Ok(bytes)
    }

    /// Reads some of the bytes of an entry: at least one.
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

    /// Skips `length` bytes of content.
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

    /// Reads some of `left` bytes that do not belong to a file into [`Blocks::taken`]; returns their number.
    pub(super) fn take_some(&mut self, left: u64) -> Result<u64> {
        let count = self.available_of(left)?;
        self.take(count)?;
        Ok(count as u64)
    }

    /// Returns how many of the next `left` bytes are in the buffer: at least one.
    fn available_of(&mut self, left: u64) -> Result<usize> {
        match self.available()? {
            0 => Err(self.cut("an entry")),
            available => Ok(usize::try_from(left).unwrap_or(usize::MAX).min(available)),
        }
    }

    /// Reads `count` bytes from the buffer into [`Blocks::taken`].
    fn take(&mut self, count: usize) -> Result<()> {
        self.taken.extend_from_slice(&self.reader.buffer()[..count]);
        self.reader.consume(count);
        self.advance(count)
    }

    /// Skips the padding of an entry. Entries begin at block boundaries, so the length of the padding follows from the
    /// position. A missing padding at the end of the archive is accepted: nothing is lost, and some writers leave it
    /// out (`umoci insert`).
    pub(super) fn align(&mut self) -> Result<()> {
        let padding = self.offset.next_multiple_of(BLOCK_BYTES as u64) - self.offset;
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block[..padding as usize]).map(drop)
    }

    /// Reads the block after the first zero block, which should be zeros too. Returns how many bytes of something else
    /// are there at the very end of the archive.
    pub(super) fn second_zeros(&mut self) -> Result<u64> {
        let mut block = [0; BLOCK_BYTES];
        let count = self.fill(&mut block)?;
        let zeros = block.iter().all(|byte| *byte == 0);
        if count == BLOCK_BYTES && !zeros {
            return Err(Error::data_loss(format!(
                "a single zero block with more behind it, at byte {}",
                self.offset - 2 * BLOCK_BYTES as u64
            )));
        }
        Ok(if zeros { 0 } else { count as u64 })
    }

    /// Reads some bytes after the end of the archive into [`Blocks::taken`]. Returns their number, and how many there
    /// are without the zeros at their end.
    pub(super) fn take_trailing(&mut self) -> Result<(u64, u64)> {
        let count = self.available()?;
        let others = self.reader.buffer().iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.take(count)?;
        Ok((count as u64, others as u64))
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
