//! Index of the members of an archive that contains blobs, which are then read at their offsets in any order.
//!
//! Only headers are read. They are parsed and checked as in a layer, but paths are returned as written, because they do
//! not name files of a tree.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::decode::Ahead;
use super::header::{BLOCK_BYTES, Block, Header, Kind};
use super::limits::Limits;
use super::pax::Pax;
use super::sparse;
use crate::changeset::Segment;
use crate::error::{Context, Error, ErrorKind, Result};

/// Maximum number of members, so that the index of a hostile archive stays small: an image has a few hundred.
const MEMBERS_MAX: usize = 1 << 17;

/// A member with content, its own or that of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Path as written.
    pub path: Vec<u8>,
    /// Location of the content.
    pub content: MemberContent,
}

/// Location of a member's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberContent {
    /// In the archive.
    File {
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes.
        size: u64,
    },
    /// In the archive, without the holes of the file.
    Sparse {
        /// Number of bytes including holes.
        size: u64,
        /// The stretches that are there, in the order of the file.
        stretches: Vec<Stretch>,
    },
    /// In another member, named by its path as written.
    HardLink {
        /// Path of that member.
        target: Vec<u8>,
    },
    /// In another member, named relative to this one's directory.
    Symlink {
        /// Path of that member.
        target: Vec<u8>,
    },
}

/// Bytes of a sparse member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Position in the file.
    pub offset: u64,
    /// Position in the archive.
    pub at: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Reads the headers of the uncompressed archive in `file`, up to its first zero block; returns `None` if the file does
/// not begin as an archive. If a path occurs twice, the later member counts. Directories and special files are left
/// out.
///
/// # Errors
/// The message names the byte offset of the header. `DataLoss` for damaged or truncated data;
/// `ResourceExhausted` beyond a limit.
pub fn members(file: &File) -> Result<Option<Vec<Member>>> {
    let mut index = Index { file, at: 0, length: file.metadata().at("stat", "archive")?.len(), members: Vec::new() };
    if !index.begins_as_archive()? {
        return Ok(None);
    }
    let mut ahead = Ahead::default();
    loop {
        let at = index.at;
        if !index.next(&mut ahead).map_err(|error| error.context(format!("header at byte {at}")))? {
            return Ok(Some(index.members));
        }
    }
}

struct Index<'f> {
    file: &'f File,
    at: u64,
    length: u64,
    members: Vec<Member>,
}

impl Index<'_> {
    /// Returns true if the first block is a header, or is zeros, which end an archive without members.
    fn begins_as_archive(&self) -> Result<bool> {
        let mut block = [0; BLOCK_BYTES];
        if self.length < BLOCK_BYTES as u64 {
            return Ok(false);
        }
        self.file.read_exact_at(&mut block, 0).at("read", "archive")?;
        Ok(block == [0; BLOCK_BYTES] || Header::parse(&block).is_ok())
    }

    /// Reads one header with its extended headers; returns `false` at the end.
    fn next(&mut self, ahead: &mut Ahead) -> Result<bool> {
        let block = if self.at == self.length { None } else { Some(self.block()?) };
        let Some(block) = block.filter(|block| *block != [0; BLOCK_BYTES]) else {
            return if ahead.is_empty() {
                Ok(false)
            } else {
                Err(Error::data_loss("the archive ends inside an entry"))
            };
        };
        let header = Header::parse(&block)?;
        let limits = Limits::default();
        match header.kind()? {
            kind @ (Kind::Pax | Kind::LongName | Kind::LongLink) => {
                let mut body = vec![0; ahead.length(&header, kind, &limits)?];
                self.fill(&mut body)?;
                self.align();
                ahead.keep(kind, body, &limits)?;
            }
            Kind::Skipped => self.skip(header.size()?)?,
            kind => self.member(&header, kind, &std::mem::take(ahead))?,
        }
        Ok(true)
    }

    fn member(&mut self, header: &Header, kind: Kind, ahead: &Ahead) -> Result<()> {
        let content = match kind {
            Kind::File | Kind::Sparse => self.content(header, kind, ahead.pax())?,
            Kind::Link => MemberContent::HardLink { target: ahead.link_name(header)? },
            Kind::Symlink => MemberContent::Symlink { target: ahead.link_name(header)? },
            _ => return Ok(()),
        };
        if self.members.len() == MEMBERS_MAX {
            return Err(Error::new(ErrorKind::ResourceExhausted, format!("more than {MEMBERS_MAX} members")));
        }
        self.members.push(Member { path: ahead.name(header)?, content });
        Ok(())
    }

    fn content(&mut self, header: &Header, kind: Kind, pax: Option<&Pax>) -> Result<MemberContent> {
        let limits = Limits::default();
        let stored = pax.and_then(|pax| pax.size).map_or_else(|| header.size(), Ok)?;
        let body = match (kind, pax.and_then(|pax| pax.sparse.as_ref())) {
            (Kind::Sparse, Some(_)) => return Err(Error::invalid("two sparse maps for one entry")),
            (Kind::Sparse, None) => sparse::gnu(header, stored, &limits, &mut || self.block())?,
            (_, Some(map)) => sparse::pax(map, stored, &limits, &mut || self.block())?,
            (_, None) => {
                let offset = self.at;
                self.skip(stored)?;
                return Ok(MemberContent::File { offset, size: stored });
            }
        };
        let mut at = self.at;
        let mut stretches = Vec::with_capacity(body.segments.len());
        for Segment { offset, length } in body.segments {
            stretches.push(Stretch { offset, at, length });
            at += length;
        }
        self.skip(body.stored)?;
        Ok(MemberContent::Sparse { size: body.size, stretches })
    }

    fn block(&mut self) -> Result<Block> {
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block).map(|()| block)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let from = self.at;
        self.advance(buffer.len() as u64)?;
        self.file.read_exact_at(buffer, from).at("read", "archive")
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        self.advance(length)?;
        self.align();
        Ok(())
    }

    /// Skips padding; a missing padding of the last member is accepted.
    fn align(&mut self) {
        self.at = self.at.next_multiple_of(BLOCK_BYTES as u64).min(self.length);
    }

    fn advance(&mut self, length: u64) -> Result<()> {
        self.at =
            self.at.checked_add(length).filter(|end| *end <= self.length).ok_or_else(|| {
                Error::data_loss(format!("the archive ends at byte {}, inside an entry", self.length))
            })?;
        Ok(())
    }
}
