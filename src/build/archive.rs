//! Archives that `ADD` unpacks.
//!
//! A file is an archive if it begins with the header of a tar entry, plain or compressed by gzip, zstd, xz or bzip2.
//!
//! # References
//! Dockerfile reference, "ADD"; pax(1), "ustar Interchange Format".

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _};
use std::path::Path;

use super::context::{Origin, Selected, open_regular};
use crate::changeset::blob::{Compression, Decompress, Expansion};
use crate::changeset::{Change, Sink};
use crate::door::{Expected, IngestOptions, ingest};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::tree::Meta;

/// The length of the longest magic number of xz and bzip2, in bytes.
const MAGIC_BYTES: u64 = 6;

/// The most memory that an xz archive may need, in KiB: four times the largest preset of xz. The format has
/// dictionaries of up to 4 GiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// The length of a tar header.
const HEADER_BYTES: usize = 512;

/// Pushes the entries of the archive `selected` into `below`.
pub(super) fn unpack(
    origin: &Origin,
    selected: &Selected,
    options: &IngestOptions,
    below: &mut Below<'_, '_>,
) -> Result<()> {
    origin.visit(selected, &mut |_, entry| {
        let file = open_regular(entry)?;
        unpack_file(file, &entry.dir.shown_at(entry.name), options, below)
    })
}

/// Pushes the entries of the archive `file` into `below`.
pub(super) fn unpack_file(
    mut file: File,
    shown: &Path,
    options: &IngestOptions,
    below: &mut Below<'_, '_>,
) -> Result<()> {
    let name = shown.display().to_string();
    let blob = match other(&mut file, shown)? {
        Some(compression) => {
            let plain = Bounded { inner: compression.reader(file), left: options.expansion.bytes };
            options.blob(plain, Compression::None, name)
        }
        None => options.detect(file, name)?,
    };
    ingest::decode(blob, &Expected::default(), options, below)
        .map(drop)
        .map_err(|error| error.context(format!("unpacking {}", shown.display())))
}

/// A compression that archives can have, and layers cannot.
#[derive(Clone, Copy, Debug)]
enum Other {
    Xz,
    Bzip2,
}

impl Other {
    fn reader(self, file: File) -> Box<dyn Read + Send> {
        match self {
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(BufReader::new(file), true, XZ_MEMORY_KIB)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(BufReader::new(file))),
        }
    }
}

/// Returns the compression of a file if it is xz or bzip2. The file is rewound.
fn other(file: &mut File, shown: &Path) -> Result<Option<Other>> {
    let mut start = Vec::new();
    file.by_ref().take(MAGIC_BYTES).read_to_end(&mut start).at("read", shown)?;
    file.rewind().at("read", shown)?;
    Ok(match start.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Other::Xz),
        [b'B', b'Z', b'h', ..] => Some(Other::Bzip2),
        _ => None,
    })
}

/// Returns whether a file is a tar archive, compressed or not. The file is rewound.
///
/// # Errors
/// `ResourceExhausted` for a file whose decompression takes too much memory; errors of reading.
pub(super) fn is_archive(file: &mut File, shown: &Path) -> Result<bool> {
    let mut header = Vec::new();
    // A damaged file, or one that holds no archive, is copied as any other file.
    let read = decompress(file.try_clone().at("duplicate descriptor of", shown)?, shown)
        .map(|plain| plain.take(HEADER_BYTES as u64).read_to_end(&mut header));
    file.rewind().at("read", shown)?;
    match read {
        Ok(Err(error)) if error.kind() == io::ErrorKind::OutOfMemory => Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "{} needs more than {} MiB of memory to be decompressed: compress it with a smaller dictionary, or copy it \
                 with COPY",
                shown.display(),
                XZ_MEMORY_KIB >> 10
            ),
        )),
        read => Ok(matches!(read, Ok(Ok(HEADER_BYTES))) && has_checksum(&header)),
    }
}

/// Returns whether `block` has the checksum of a tar header.
fn has_checksum(block: &[u8]) -> bool {
    let (Some(before), Some(field), Some(after)) = (block.get(..148), block.get(148..156), block.get(156..512)) else {
        return false;
    };
    let digits: String = field.iter().map(|byte| char::from(*byte)).collect();
    let stated = u32::from_str_radix(digits.trim_matches([' ', '\0']), 8).ok();
    let sum = before.iter().chain(after).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
    stated == Some(sum)
}

fn decompress(mut file: File, shown: &Path) -> Result<Box<dyn Read>> {
    if let Some(compression) = other(&mut file, shown)? {
        return Ok(compression.reader(file));
    }
    let mut input = BufReader::new(file);
    let compression = Compression::detect(input.fill_buf().at("read", shown)?)?;
    Ok(Box::new(Decompress::new(input, compression, Expansion::default(), shown.display().to_string())?))
}

/// A reader that fails after `left` more bytes, to limit the length of an archive.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other("the archive is too long"))?;
        Ok(count)
    }
}

/// A sink that moves the entries of an archive below `target`.
pub(super) struct Below<'a, 'b> {
    pub(super) target: &'a Path,
    /// Gives an entry its owner and time.
    pub(super) adopt: &'a dyn Fn(&mut Meta),
    pub(super) sink: &'b mut dyn Sink,
}

impl Sink for Below<'_, '_> {
    fn change(&mut self, change: &Change, data: &mut dyn Read) -> Result<()> {
        let below =
            |path: &Path| if path.as_os_str().is_empty() { self.target.to_owned() } else { self.target.join(path) };
        let moved = match change {
            // The root entry is skipped: a target that exists keeps its attributes, and a missing target was made
            // before.
            Change::Put { path, .. } if path.as_os_str() == OsStr::new("") => return Ok(()),
            Change::Put { path, existed, meta } => {
                let mut meta = meta.clone();
                (self.adopt)(&mut meta);
                Change::Put { path: below(path), existed: *existed, meta }
            }
            Change::Link { path, target, existed } => {
                Change::Link { path: below(path), target: below(target), existed: *existed }
            }
            Change::Remove { path } | Change::Opaque { path } => {
                return Err(Error::invalid(format!(
                    "{}: the archive has a name that begins with .wh., which an image cannot have",
                    path.display()
                )));
            }
        };
        self.sink.change(&moved, data)
    }
}
