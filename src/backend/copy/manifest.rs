//! The manifest of a copy: what was made where, so that a later comparison with the parent need only look at what is
//! not as it was made.
//!
//! It lies beside the snapshot and is exactly as durable as that. A manifest that is missing, damaged, of another boot or
//! of another parent only means that everything is compared.
//!
//! # What may be concluded
//! An entry is unchanged since the copy if its path has the recorded inode number and ctime **and** that ctime is older
//! than [`Manifest::complete`]: within one tick of the clock a change leaves no trace. A directory with another inode
//! number than recorded came from elsewhere, and nothing is known of what is below it. A ctime that is merely old proves
//! nothing: renaming a directory leaves those below as they were.
//!
//! # Layout
//! Numbers are little-endian. *varint*: seven bits a byte, the lowest first, the top bit set in all but the last byte.
//! *signed*: a varint of the zigzag code (0, -1, 1, -2, ...).
//!
//! ```text
//! 8 bytes   "strata-m"
//! u32       version, 1
//! 16 bytes  boot id
//! u64       id of the parent
//! i64 u32   seconds and nanoseconds: when the copy was complete, by the clock of the file system
//! for each directory, in canonical order (the root, of an empty path, first):
//!   varint, bytes   its path
//!   stamp           of the directory itself
//!   varint          how many names are in it, then for each, by its bytes:
//!     varint, bytes   the name
//!     stamp           of the inode
//! 32 bytes  sha256 of all before
//! stamp:
//!   signed    inode number less that of the stamp before (of 0 at first), modulo 2^64
//!   signed    seconds of the ctime less those of the stamp before (of the head's at first), modulo 2^64
//!   varint    nanoseconds of the ctime
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::id::{Digest, Id};
use crate::tree::Timestamp;
use crate::tree::copy::{CopiedDir, CopiedEntry, Stamp};

const MAGIC: &[u8; 8] = b"strata-m";

/// Grows with the layout; another one is not read.
const VERSION: u32 = 1;

const DIGEST_BYTES: usize = 32;

/// The most bytes that a varint of 64 bits takes.
const VARINT_BYTES_MAX: u32 = 10;

/// The boot in which something was done: ctimes are compared within one only.
pub type BootId = [u8; 16];

/// What a copy made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The boot in which it was copied.
    pub boot: BootId,
    /// Of what it is a copy.
    pub parent: Id,
    /// When the copy was complete, by the clock that file systems take ctimes from.
    pub complete: Timestamp,
    /// Every directory with its entries, in canonical order.
    pub dirs: Vec<CopiedDir>,
}

impl Manifest {
    /// The manifest as it lies on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.boot);
        out.extend_from_slice(&self.parent.0.to_le_bytes());
        out.extend_from_slice(&self.complete.seconds.to_le_bytes());
        out.extend_from_slice(&self.complete.nanos.to_le_bytes());
        let mut last = self.origin();
        for dir in &self.dirs {
            put_bytes(&mut out, dir.path.as_os_str());
            put_stamp(&mut out, &mut last, dir.stamp);
            put_varint(&mut out, dir.entries.len() as u64);
            for entry in &dir.entries {
                put_bytes(&mut out, &entry.name);
                put_stamp(&mut out, &mut last, entry.stamp);
            }
        }
        let digest = Digest::of(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// What [`Self::encode`] made `bytes` of.
    ///
    /// # Errors
    /// `DataLoss` if they are damaged; `Unsupported` for another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((body, digest)) = bytes.split_last_chunk::<DIGEST_BYTES>() else { return Err(damaged()) };
        let mut input = Input(body);
        if input.array()? != *MAGIC || Digest::of(body).as_bytes() != digest {
            return Err(damaged());
        }
        let version = u32::from_le_bytes(input.array()?);
        if version != VERSION {
            return Err(Error::unsupported(format!("a manifest of version {version}, this reads {VERSION}")));
        }
        let mut manifest = Self {
            boot: input.array()?,
            parent: Id(u64::from_le_bytes(input.array()?)),
            complete: Timestamp {
                seconds: i64::from_le_bytes(input.array()?),
                nanos: u32::from_le_bytes(input.array()?),
            },
            dirs: Vec::new(),
        };
        let mut last = manifest.origin();
        while !input.0.is_empty() {
            manifest.dirs.push(input.dir(&mut last)?);
        }
        Ok(manifest)
    }

    /// What the first stamp is told from.
    fn origin(&self) -> Stamp {
        Stamp { ino: 0, ctime: self.complete }
    }
}

fn damaged() -> Error {
    Error::data_loss("the manifest of a copy is damaged")
}

fn put_bytes(out: &mut Vec<u8>, text: &OsStr) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_stamp(out: &mut Vec<u8>, last: &mut Stamp, stamp: Stamp) {
    put_varint(out, zigzag(stamp.ino.wrapping_sub(last.ino).cast_signed()));
    put_varint(out, zigzag(stamp.ctime.seconds.wrapping_sub(last.ctime.seconds)));
    put_varint(out, stamp.ctime.nanos.into());
    *last = stamp;
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(code: u64) -> i64 {
    (code >> 1).cast_signed() ^ -((code & 1).cast_signed())
}

/// What is still to be read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn bytes(&mut self) -> Result<&[u8]> {
        let length = usize::try_from(self.varint()?).map_err(|_| damaged())?;
        let (head, rest) = self.0.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for place in 0..VARINT_BYTES_MAX {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f).checked_shl(7 * place).ok_or_else(damaged)?;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    fn stamp(&mut self, last: &mut Stamp) -> Result<Stamp> {
        let ino = last.ino.wrapping_add_signed(unzigzag(self.varint()?));
        let seconds = last.ctime.seconds.wrapping_add(unzigzag(self.varint()?));
        let nanos = u32::try_from(self.varint()?).map_err(|_| damaged())?;
        *last = Stamp { ino, ctime: Timestamp { seconds, nanos } };
        Ok(*last)
    }

    fn dir(&mut self, last: &mut Stamp) -> Result<CopiedDir> {
        let path = Path::new(OsStr::from_bytes(self.bytes()?)).to_path_buf();
        let stamp = self.stamp(last)?;
        let mut dir = CopiedDir { path, stamp, entries: Vec::new() };
        for _ in 0..self.varint()? {
            let name = OsStr::from_bytes(self.bytes()?).to_owned();
            dir.entries.push(CopiedEntry { name, stamp: self.stamp(last)? });
        }
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    fn stamp() -> impl Strategy<Value = Stamp> {
        (any::<u64>(), any::<i64>(), 0..1_000_000_000_u32)
            .prop_map(|(ino, seconds, nanos)| Stamp { ino, ctime: Timestamp { seconds, nanos } })
    }

    fn name() -> impl Strategy<Value = OsString> {
        prop::collection::vec(1_u8.., 0..200).prop_map(OsString::from_vec)
    }

    fn manifest() -> impl Strategy<Value = Manifest> {
        let entry = (name(), stamp()).prop_map(|(name, stamp)| CopiedEntry { name, stamp });
        let dir = (name(), stamp(), prop::collection::vec(entry, 0..5)).prop_map(|(path, stamp, entries)| CopiedDir {
            path: PathBuf::from(path),
            stamp,
            entries,
        });
        (any::<BootId>(), any::<u64>(), stamp(), prop::collection::vec(dir, 0..5))
            .prop_map(|(boot, parent, stamp, dirs)| Manifest { boot, parent: Id(parent), complete: stamp.ctime, dirs })
    }

    #[test]
    fn the_layout_is_what_it_was() {
        let time = |nanos| Timestamp { seconds: 1, nanos };
        let entry = CopiedEntry { name: "f".into(), stamp: Stamp { ino: 301, ctime: time(3) } };
        let manifest = Manifest {
            boot: *b"0123456789abcdef",
            parent: Id(7),
            complete: time(258),
            dirs: vec![CopiedDir {
                path: PathBuf::new(),
                stamp: Stamp { ino: 300, ctime: Timestamp { seconds: 0, nanos: 2 } },
                entries: vec![entry],
            }],
        };
        let body = b"strata-m\x01\0\0\x000123456789abcdef\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x01\0\0\
            \0\xd8\x04\x01\x02\x01\x01f\x02\x02\x03";
        let bytes = manifest.encode();
        assert_eq!(&bytes[..bytes.len() - DIGEST_BYTES], body);
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    }

    #[test]
    fn another_version_is_not_damage() {
        let manifest = Manifest { boot: [0; 16], parent: Id(1), complete: Timestamp::EPOCH, dirs: Vec::new() };
        let mut bytes = manifest.encode();
        bytes.truncate(bytes.len() - DIGEST_BYTES);
        bytes[8] = 2;
        bytes.extend_from_slice(Digest::of(&bytes.clone()).as_bytes());
        assert_eq!(Manifest::decode(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(manifest in manifest()) {
            prop_assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        }

        #[test]
        fn damage_is_found(manifest in manifest(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut bytes = manifest.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Manifest::decode(&bytes).unwrap_err().kind(), ErrorKind::DataLoss);
            bytes[at] ^= 1 << bit;
            prop_assert!(Manifest::decode(&bytes[..at]).is_err());
        }

        #[test]
        fn nonsense_with_a_right_digest_is_no_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = [MAGIC, &VERSION.to_le_bytes()[..], &body].concat();
            bytes.extend_from_slice(Digest::of(&bytes.clone()).as_bytes());
            drop(Manifest::decode(&bytes));
        }
    }
}
