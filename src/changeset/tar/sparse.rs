//! Content of an entry, with the holes of a sparse file filled with zeros.
//!
//! A map has one of four forms: GNU's type `S`, and PAX's GNU.sparse 0.0, 0.1 and 1.0. In each form the map is checked
//! before a byte is delivered: ascending, without overlap, inside the file, and as long as the stored data.
//!
//! # References
//! GNU tar manual, "Storing Sparse Files".

use std::io::{self, Read};

use super::blocks::Blocks;
use crate::changeset::Segment;
use crate::error::{Error, Result};

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
