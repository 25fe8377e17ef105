//! Content of an entry, with the holes of a sparse file filled with zeros.
//!
//! A map has one of four forms: GNU's type `S`, and PAX's GNU.sparse 0.0, 0.1 and 1.0. In each form the map is checked
//! before a byte is delivered: ascending, without overlap, inside the file, and as long as the stored data.
//!
//! # References
//! GNU tar manual, "Storing Sparse Files".

use std::io::{self, Read};

use super::blocks::Blocks;
use super::header::{BLOCK_BYTES, Block, Header, sparse_extension};
use super::limits::Limits;
use super::pax::{PaxSparse, decimal};
use crate::changeset::Segment;
use crate::error::{Error, ErrorKind, Result};

/// Reads the next block of an entry.
pub(super) type NextBlock<'a> = &'a mut dyn FnMut() -> Result<Block>;

/// Content after a header, described before it is read.
#[derive(Debug)]
pub(super) struct Body {
    /// Length of the file.
    pub(super) size: u64,
    /// Number of bytes in the archive.
    pub(super) stored: u64,
    /// Positions of those bytes in the file.
    pub(super) segments: Vec<Segment>,
}

impl Body {
    /// Returns a body without holes.
    pub(super) fn dense(size: u64) -> Self {
        Self { size, stored: size, segments: vec![Segment { offset: 0, length: size }] }
    }

    /// Returns true if bytes of the file are in no segment.
    pub(super) fn has_holes(&self) -> bool {
        self.stored < self.size
    }

    /// Returns a body with holes between `segments`.
    ///
    /// # Errors
    /// `DataLoss` if the map contradicts itself or `stored`.
    pub(super) fn sparse(size: u64, stored: u64, segments: Vec<Segment>) -> Result<Self> {
        let wrong = |what: &str| Error::data_loss(format!("the map of a sparse file {what}"));
        let (mut end, mut total) = (0_u64, 0_u64);
        for segment in &segments {
            if segment.offset < end {
                return Err(wrong("overlaps itself"));
            }
            end = segment.offset.checked_add(segment.length).ok_or_else(|| wrong("overflows"))?;
            // Cannot overflow: segments without overlap are together no longer than the end of the last one.
            total += segment.length;
        }
        if end > size {
            return Err(wrong(&format!("reaches byte {end}, the file ends at {size}")));
        }
        if total != stored {
            return Err(wrong(&format!("describes {total} bytes, {stored} are stored")));
        }
        Ok(Self { size, stored, segments })
    }
}

/// Reads the rest of the map of a GNU sparse entry, of which `stored` bytes follow the map.
pub(super) fn gnu(header: &Header, stored: u64, limits: &Limits, next: NextBlock<'_>) -> Result<Body> {
    let start = header.sparse()?;
    let (mut segments, mut extended) = (start.segments, start.extended);
    while extended {
        extended = sparse_extension(&next()?, &mut segments)?;
        check_segments(segments.len(), limits)?;
    }
    Body::sparse(start.size, stored, segments)
}

/// Returns the body of a PAX sparse entry of `stored` bytes; reads a map that precedes the content.
pub(super) fn pax(sparse: &PaxSparse, stored: u64, limits: &Limits, next: NextBlock<'_>) -> Result<Body> {
    let size = sparse.size.ok_or_else(|| Error::data_loss("a sparse file without its real size"))?;
    match (sparse.major, sparse.minor) {
        (0, 0 | 1) => {
            check_segments(sparse.segments.len(), limits)?;
            Body::sparse(size, stored, sparse.segments.clone())
        }
        (1, 0) => {
            let (segments, map_bytes) = leading_map(stored, limits, next)?;
            Body::sparse(size, stored - map_bytes, segments)
        }
        (major, minor) => Err(Error::invalid(format!("sparse format {major}.{minor} is unknown"))),
    }
}

/// Reads the map of GNU.sparse 1.0: decimal numbers, one on each line, padded to a block; the first is the number of
/// pairs.
fn leading_map(stored: u64, limits: &Limits, next: NextBlock<'_>) -> Result<(Vec<Segment>, u64)> {
    let mut lines = Lines { next, block: [0; BLOCK_BYTES], at: BLOCK_BYTES, bytes: 0, stored };
    let count = lines.number()?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    check_segments(count, limits)?;
    let mut segments = Vec::new();
    for _ in 0..count {
        segments.push(Segment { offset: lines.number()?, length: lines.number()? });
    }
    Ok((segments, lines.bytes))
}

fn check_segments(count: usize, limits: &Limits) -> Result<()> {
    if count <= limits.sparse_segments {
        return Ok(());
    }
    let message = format!("a sparse file of more than {} stretches", limits.sparse_segments);
    Err(Error::new(ErrorKind::ResourceExhausted, message))
}

/// Reads the numbers at the start of the content of a GNU.sparse 1.0 file.
struct Lines<'a> {
    next: NextBlock<'a>,
    block: Block,
    at: usize,
    bytes: u64,
    stored: u64,
}

impl Lines<'_> {
    fn number(&mut self) -> Result<u64> {
        /// Number of digits of the largest 64-bit number.
        const DIGITS_MAX: usize = 20;
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK_BYTES {
                self.bytes += BLOCK_BYTES as u64;
                if self.bytes > self.stored {
                    return Err(Error::data_loss("the map of a sparse file is longer than its entry"));
                }
                self.block = (self.next)()?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits, "map of a sparse file"),
                _ if digits.len() == DIGITS_MAX => return Err(Error::data_loss("the map of a sparse file is no map")),
                digit => digits.push(digit),
            }
        }
    }
}

/// The reader that a sink gets.
#[derive(Debug)]
pub(super) struct Data<'a, 'r> {
    blocks: &'a mut Blocks<'r>,
    segments: std::vec::IntoIter<Segment>,
    segment: Segment,
    position: u64,
    size: u64,
    stored: u64,
}

impl<'a, 'r> Data<'a, 'r> {
    pub(super) fn new(blocks: &'a mut Blocks<'r>, body: Body) -> Self {
        let mut segments = body.segments.into_iter();
        let segment = segments.next().unwrap_or(Segment { offset: body.size, length: 0 });
        Self { blocks, segments, segment, position: 0, size: body.size, stored: body.stored }
    }

    /// Skips the content that the sink left, and the padding.
    pub(super) fn drain(self) -> Result<()> {
        self.blocks.skip(self.stored)?;
        self.blocks.align()
    }
}

impl Read for Data<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size - self.position;
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        while self.position == self.segment.offset + self.segment.length {
            self.segment = self.segments.next().unwrap_or(Segment { offset: self.size, length: 0 });
            if self.segment.offset == self.size {
                break;
            }
        }
        let in_hole = self.position < self.segment.offset;
        let end = if in_hole { self.segment.offset } else { self.segment.offset + self.segment.length };
        let wanted = usize::try_from(end - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let count = if in_hole {
            buffer[..wanted].fill(0);
            wanted
        } else {
            let count = self.blocks.read_some(&mut buffer[..wanted])?;
            self.stored -= count as u64;
            count
        };
        self.position += count as u64;
        Ok(count)
    }
}
