//! One 512-byte header block: its fields as bytes and numbers.
//!
//! Reading accepts the forms that tar readers agree on: POSIX ustar, the pre-POSIX form, and GNU's. A number is octal,
//! padded with spaces or NULs, or GNU's base-256. Writing uses ustar only, with one encoding for each value.
//!
//! # References
//! POSIX.1-2024 `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

use ::tar::GnuHeader;

use crate::changeset::Segment;
use crate::error::{Error, Result};
use crate::tree::Device;

/// Block size of the format: a header is one block, everything else is padded to it.
pub(super) const BLOCK_BYTES: usize = 512;

/// One block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// Position of the checksum; it counts as spaces in its own sum.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Length of each of the two numbers in a pair of a GNU sparse map.
const SPARSE_NUMBER_BYTES: usize = 12;

/// Number of pairs in a GNU sparse extension block.
const SPARSE_EXTENSION_PAIRS: usize = 21;

/// Type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file: `0`, NUL or `7`.
    File,
    /// A regular file with a GNU sparse map: `S`.
    Sparse,
    /// A hard link.
    Link,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
    /// PAX records for the next entry.
    Pax,
    /// GNU's long name for the next entry.
    LongName,
    /// GNU's long link target for the next entry.
    LongLink,
    /// An entry about the archive and not about a file: PAX globals, a GNU volume label.
    Skipped,
}

/// A header with a correct checksum.
#[derive(Debug)]
pub(super) struct Header(::tar::Header);

impl Header {
    /// Parses a block that is not all zeros.
    ///
    /// # Errors
    /// `DataLoss` if the checksum is wrong.
    pub(super) fn parse(block: &Block) -> Result<Self> {
        let (unsigned, signed) = checksums(block);
        let stored = number(&block[CHECKSUM], "checksum")
            .map_err(|error| error.context("the header is damaged, or this is no tar archive"))?;
        if stored != unsigned && stored != signed {
            return Err(Error::data_loss(format!(
                "the header's checksum is {unsigned:o}, it says {stored:o}: damaged, or no tar archive"
            )));
        }
        let mut header = ::tar::Header::new_old();
        *header.as_mut_bytes() = *block;
        Ok(Self(header))
    }

    /// Returns the type of the entry.
    ///
    /// # Errors
    /// `InvalidArgument` for a type that layers do not have.
    pub(super) fn kind(&self) -> Result<Kind> {
        Ok(match self.0.as_old().linkflag[0] {
            b'0' | b'7' | 0 => Kind::File,
            b'1' => Kind::Link,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            b'S' => Kind::Sparse,
            b'x' => Kind::Pax,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            b'g' | b'V' => Kind::Skipped,
            other => return Err(Error::invalid(format!("entries of type '{}' are unknown", other.escape_ascii()))),
        })
    }

    /// Returns the name, with ustar's prefix in front.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0.as_old().name);
        match self.0.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
            Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
            _ => name.to_vec(),
        }
    }

    /// Returns the link target.
    pub(super) fn link_name(&self) -> &[u8] {
        until_nul(&self.0.as_old().linkname)
    }

    /// Returns the number of bytes after the header.
    pub(super) fn size(&self) -> Result<u64> {
        positive(&self.0.as_old().size, "size")
    }

    /// Returns the mode as written, with all bits.
    pub(super) fn mode(&self) -> Result<i64> {
        number(&self.0.as_old().mode, "mode")
    }

    /// Returns the owner.
    pub(super) fn uid(&self) -> Result<u64> {
        positive(&self.0.as_old().uid, "uid")
    }

    /// Returns the group.
    pub(super) fn gid(&self) -> Result<u64> {
        positive(&self.0.as_old().gid, "gid")
    }

    /// Returns the modification time in whole seconds.
    pub(super) fn mtime(&self) -> Result<i64> {
        number(&self.0.as_old().mtime, "mtime")
    }

    /// Returns the device number, not yet checked for range. A pre-POSIX header has no such field, which is an error.
    pub(super) fn device(&self) -> Result<(u64, u64)> {
        let (major, minor) = match (self.0.as_ustar(), self.0.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return Err(Error::data_loss("the header has no room for the device number")),
        };
        Ok((positive(major, "device major")?, positive(minor, "device minor")?))
    }

    /// Returns the start of a GNU sparse map.
    ///
    /// # Errors
    /// `DataLoss` if the header is not GNU's or the numbers are malformed.
    pub(super) fn sparse(&self) -> Result<SparseStart> {
        let gnu: &GnuHeader =
            self.0.as_gnu().ok_or_else(|| Error::data_loss("a sparse entry, but not in GNU's format"))?;
        let mut segments = Vec::new();
        for pair in &gnu.sparse {
            segments.extend(segment(&pair.offset, &pair.numbytes)?);
        }
        Ok(SparseStart { size: positive(&gnu.realsize, "real size")?, segments, extended: gnu.isextended[0] != 0 })
    }
}

/// Content of a GNU sparse header.
#[derive(Debug)]
pub(super) struct SparseStart {
    /// Length of the file including holes.
    pub(super) size: u64,
    /// First data segments.
    pub(super) segments: Vec<Segment>,
    /// True if an extension block follows.
    pub(super) extended: bool,
}

/// Reads a GNU sparse extension block; returns true if another one follows.
pub(super) fn sparse_extension(block: &Block, segments: &mut Vec<Segment>) -> Result<bool> {
    let (pairs, rest) = block.split_at(SPARSE_EXTENSION_PAIRS * 2 * SPARSE_NUMBER_BYTES);
    for pair in pairs.chunks_exact(2 * SPARSE_NUMBER_BYTES) {
        let (offset, length) = pair.split_at(SPARSE_NUMBER_BYTES);
        segments.extend(segment(offset, length)?);
    }
    Ok(rest[0] != 0)
}

/// Reads one pair of the map; an unused pair begins with NUL.
fn segment(offset: &[u8], length: &[u8]) -> Result<Option<Segment>> {
    if offset.first() == Some(&0) || length.first() == Some(&0) {
        return Ok(None);
    }
    Ok(Some(Segment { offset: positive(offset, "sparse offset")?, length: positive(length, "sparse length")? }))
}

/// Returns the bytes before the first NUL.
fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// Returns the sums over the block with the checksum field taken as spaces: over unsigned bytes as in POSIX, and over
/// signed bytes as written by some old systems.
fn checksums(block: &Block) -> (i64, i64) {
    let mut sums = (0, 0);
    for (at, byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&at) { b' ' } else { *byte };
        sums = (sums.0 + i64::from(byte), sums.1 + i64::from(byte.cast_signed()));
    }
    sums
}

fn positive(field: &[u8], what: &str) -> Result<u64> {
    let value = number(field, what)?;
    u64::try_from(value).map_err(|_| Error::data_loss(format!("the {what} is negative: {value}")))
}

fn number(field: &[u8], what: &str) -> Result<i64> {
    let malformed = || Error::data_loss(format!("the {what} is no number: \"{}\"", field.escape_ascii()));
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return base_256(field).ok_or_else(malformed);
    }
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_padding(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !is_padding(byte)).map_or(start, |last| last + 1);
    field[start..end].iter().try_fold(0, |value: i64, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i64::from(digit - b'0')),
        _ => Err(malformed()),
    })
}

/// Decodes a big-endian two's complement number in all bits but the first, which marks this form.
fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    let start = i128::from(first & 0x7f) - if negative { 0x80 } else { 0 };
    let value = rest.iter().fold(start, |value, byte| value << 8 | i128::from(*byte));
    i64::try_from(value).ok()
}

/// Fields of a ustar header to write. The caller writes values that do not fit into PAX records.
#[derive(Debug)]
pub(super) struct Ustar<'a> {
    /// At most 155 bytes.
    pub(super) prefix: &'a [u8],
    /// At most 100 bytes.
    pub(super) name: &'a [u8],
    /// At most 100 bytes.
    pub(super) link: &'a [u8],
    /// Type letter.
    pub(super) kind: u8,
    /// Permission bits.
    pub(super) mode: u32,
    /// At most [`ID_MAX`].
    pub(super) uid: u64,
    /// At most [`ID_MAX`].
    pub(super) gid: u64,
    /// At most [`WIDE_MAX`].
    pub(super) size: u64,
    /// At most [`WIDE_MAX`].
    pub(super) mtime: u64,
    /// Device number.
    pub(super) device: Device,
}

/// Maximum length of `name` and `link`.
pub(super) const NAME_BYTES: usize = 100;

/// Maximum length of `prefix`.
pub(super) const PREFIX_BYTES: usize = 155;

/// Largest number that seven octal digits hold: for `uid`, `gid`, `mode` and `device`.
pub(super) const ID_MAX: u64 = 0o7_777_777;

/// Largest number that eleven octal digits hold: for `size` (8 GiB - 1) and `mtime` (the year 2242).
pub(super) const WIDE_MAX: u64 = 0o77_777_777_777;

impl Ustar<'_> {
    /// Returns the block. Numbers are octal with leading zeros up to the last byte of a field, which is NUL. Names are
    /// padded with NULs, `uname` and `gname` are empty. The checksum is six digits, NUL and space.
    pub(super) fn block(&self) -> Block {
        let mut header = ::tar::Header::new_ustar();
        if let Some(fields) = header.as_ustar_mut() {
            text(&mut fields.name, self.name);
            octal(&mut fields.mode, self.mode.into());
            octal(&mut fields.uid, self.uid);
            octal(&mut fields.gid, self.gid);
            octal(&mut fields.size, self.size);
            octal(&mut fields.mtime, self.mtime);
            fields.typeflag = [self.kind];
            text(&mut fields.linkname, self.link);
            octal(&mut fields.dev_major, self.device.major.into());
            octal(&mut fields.dev_minor, self.device.minor.into());
            text(&mut fields.prefix, self.prefix);
        }
        let mut block = *header.as_bytes();
        let (sum, _) = checksums(&block);
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

fn text(field: &mut [u8], value: &[u8]) {
    debug_assert!(value.len() <= field.len(), "the caller checks that names fit");
    for (place, byte) in field.iter_mut().zip(value.iter().chain(std::iter::repeat(&0))) {
        *place = *byte;
    }
}

fn octal(field: &mut [u8], value: u64) {
    let mut left = value;
    if let Some((last, digits)) = field.split_last_mut() {
        *last = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (left & 7) as u8;
            left >>= 3;
        }
    }
    debug_assert_eq!(left, 0, "the caller checks that numbers fit");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"\x80\0\0\0\0\0\0\x05", Some(5)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"0000688\0", None),
            (b"-000001\0", None),
            (b"00 0001\0", None),
        ] {
            assert_eq!(number(field, "field").ok(), value, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn a_written_block_reads_back() {
        let block = Ustar {
            prefix: &[b'p'; PREFIX_BYTES],
            name: &[b'n'; NAME_BYTES],
            link: &[b'l'; NAME_BYTES],
            kind: b'3',
            mode: 0o7777,
            uid: ID_MAX,
            gid: 0,
            size: WIDE_MAX,
            mtime: WIDE_MAX,
            device: Device { major: 4095, minor: 0xf_ffff },
        }
        .block();
        let header = Header::parse(&block).expect("its own checksum");
        assert_eq!(header.name().len(), PREFIX_BYTES + 1 + NAME_BYTES);
        assert_eq!(header.link_name(), [b'l'; NAME_BYTES]);
        assert_eq!(header.size().expect("size"), WIDE_MAX);
        assert_eq!(header.uid().expect("uid"), ID_MAX);
        assert_eq!(header.device().expect("device"), (4095, 0xf_ffff));
        assert_eq!(::tar::Header::from_byte_slice(&block).cksum().expect("checksum"), {
            let (sum, _) = checksums(&block);
            u32::try_from(sum).expect("small")
        });
    }

    #[test]
    fn signed_sums_are_accepted_and_others_are_not() {
        let mut block = Ustar {
            prefix: b"",
            name: b"na\xefve",
            link: b"",
            kind: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: Device::default(),
        }
        .block();
        let (unsigned, signed) = checksums(&block);
        assert_ne!(unsigned, signed);
        block[CHECKSUM].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
        Header::parse(&block).expect("signed sum");
        block[CHECKSUM].copy_from_slice(format!("{:06o}\0 ", unsigned + 1).as_bytes());
        assert_eq!(Header::parse(&block).unwrap_err().kind(), crate::ErrorKind::DataLoss);
    }
}
