//! The tar-split data of an archive: from the data and the tree made of the archive, the archive can be written again,
//! byte for byte. The idea is that of the tar-split of docker and podman; the format is strata's own.
//!
//! # Format 1
//! One zstd frame with a checksum. It contains a line, `MAGIC`, and records: a type byte, then numbers as LEB128
//! (seven bits in each byte, the lowest first, the eighth bit set on all but the last) and bytes.
//!
//! | record | fields | meaning |
//! |---|---|---|
//! | 0 | | the end |
//! | 1 | length, bytes | these bytes of the archive |
//! | 2 | length, path, count, count times offset and length | these stretches of the file at this path of the tree, which has no links in it |
//! | 3 | length, path, length, bytes | up to here, the file at this path had this content: the tree has something else there |
//!
//! Records 1 and 2 are in the order of the archive. A record 3 is written when an entry of the same archive replaces or
//! removes the file. It applies to the earlier records 2 with its path, back to the previous record 3 with that path.
//!
//! Invariant: tar-split data does not verify the archive. The program that writes the archive computes its digest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::tar::SPARSE_SEGMENTS_MAX;
use super::{Piece, Segment};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::tree::Dir;

/// First line of tar-split data: the name of the format and its version.
const MAGIC: &[u8] = b"strata recording 1\n";

/// Compression level: about 30 bytes remain for each entry of a distribution's image.
const LEVEL: i32 = 3;

/// Buffer size for reads and writes.
const BUFFER_BYTES: usize = 128 << 10;

/// Maximum length of a path in tar-split data; links can lead deeper than the path in a header.
const PATH_BYTES_MAX: u64 = 1 << 20;

/// Maximum number of rescued contents, whose positions must be held in memory to write the archive. An archive has a
/// path twice by mistake, or because entries were appended to it.
pub const RESCUED_MAX: u64 = 1 << 17;

const END: u8 = 0;
const BYTES: u8 = 1;
const CONTENT: u8 = 2;
const RESCUED: u8 = 3;

/// Writes tar-split data while the archive is applied.
pub struct TarSplitWriter {
    writer: zstd::Encoder<'static, BufWriter<File>>,
    /// Segments of the content that was announced and is not in a file yet.
    announced: Option<Vec<Segment>>,
    rescued: u64,
}

impl TarSplitWriter {
    /// Starts tar-split data in the empty `file`.
    ///
    /// # Errors
    /// `Io` if there is no memory for the compressor.
    pub fn new(file: File) -> Result<Self> {
        let start = || {
            let mut writer = zstd::Encoder::new(BufWriter::with_capacity(BUFFER_BYTES, file), LEVEL)?;
            writer.include_checksum(true)?;
            writer.write_all(MAGIC).map(|()| writer)
        };
        Ok(Self { writer: start().at("write", "tar-split data")?, announced: None, rescued: 0 })
    }

    /// Records the next piece of the archive.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn piece(&mut self, piece: Piece<'_>) -> Result<()> {
        match piece {
            Piece::Content(segments) => {
                self.announced = Some(segments.to_vec());
                Ok(())
            }
            Piece::Bytes(bytes) => {
                let mut start = vec![BYTES];
                push(&mut start, bytes.len() as u64);
                self.write(&start).and_then(|()| self.write(bytes))
            }
        }
    }

    /// Records that the announced content is in the file at `path`, a path without links.
    ///
    /// # Errors
    /// `InvalidArgument` if no content was announced, because the changes do not come from an archive. Errors of
    /// writing.
    pub(super) fn content(&mut self, path: &Path) -> Result<()> {
        let announced = self.announced.take();
        let segments = announced.ok_or_else(|| Error::invalid("only an archive can be recorded"))?;
        let mut bytes = named(CONTENT, path);
        push(&mut bytes, segments.len() as u64);
        segments.iter().for_each(|segment| {
            push(&mut bytes, segment.offset);
            push(&mut bytes, segment.length);
        });
        self.write(&bytes)
    }

    /// Saves the `size` bytes of the file at `path`.
    ///
    /// # Errors
    /// `ResourceExhausted` beyond [`RESCUED_MAX`]; errors of reading `file` and of writing.
    pub(super) fn rescue(&mut self, path: &Path, size: u64, file: &mut dyn Read) -> Result<()> {
        self.rescued += 1;
        if self.rescued > RESCUED_MAX {
            let message = format!("the layer takes away more than {RESCUED_MAX} of its own files again");
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        let mut start = named(RESCUED, path);
        push(&mut start, size);
        self.write(&start)?;
        let copied = io::copy(&mut file.take(size), &mut self.writer).at("write", "tar-split data")?;
        if copied == size { Ok(()) } else { Err(Error::data_loss("a file became shorter while it was read")) }
    }

    /// Writes the end of the tar-split data, without a sync.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn finish(mut self) -> Result<()> {
        self.write(&[END])?;
        self.writer.finish().and_then(|mut writer| writer.flush()).at("write", "tar-split data")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).at("write", "tar-split data")
    }
}

impl fmt::Debug for TarSplitWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarSplitWriter").field("rescued", &self.rescued).finish_non_exhaustive()
    }
}

/// Returns the start of a record about `path`.
fn named(kind: u8, path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let mut bytes = vec![kind];
    push(&mut bytes, path.len() as u64);
    bytes.extend_from_slice(path);
    bytes
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Writes to `writer` the archive that `data` describes and that `tree` was made of.
///
/// `spool` creates an empty file for rescued contents; mostly there are none.
///
/// # Errors
/// `DataLoss` for a damaged tar-split data, and for a file of the tree that is missing or too short; `Unsupported` for
/// another format; errors of reading and writing.
pub fn replay(data: &File, tree: &Dir, spool: &mut dyn FnMut() -> Result<File>, writer: &mut dyn Write) -> Result<()> {
    let rescued = Rescued::collect(data, spool)?;
    let mut sources = Sources { tree, rescued, parent: None, buffer: vec![0; BUFFER_BYTES] };
    let mut records = Records::open(data)?;
    let mut number = 0;
    while let Some(record) = records.next()? {
        match record {
            Record::Bytes { length } => records.copy(length, writer)?,
            Record::Rescued { length, .. } => records.copy(length, &mut io::sink())?,
            Record::Content { path, segments } => {
                let place = || format!("the content of {}", path.display());
                sources.copy(number, &path, &segments, writer).map_err(|error| error.context(place()))?;
                number += 1;
            }
        }
    }
    Ok(())
}

/// A record; the bytes of `Bytes` and `Rescued` follow in the reader.
enum Record {
    Bytes { length: u64 },
    Content { path: PathBuf, segments: Vec<Segment> },
    Rescued { path: PathBuf, length: u64 },
}

/// Reader of the records of tar-split data.
struct Records<'f> {
    reader: BufReader<zstd::Decoder<'static, BufReader<&'f File>>>,
}

impl<'f> Records<'f> {
    fn open(mut file: &'f File) -> Result<Self> {
        file.seek(SeekFrom::Start(0)).at("seek in", "tar-split data")?;
        let decoder = zstd::Decoder::new(file).at("read", "tar-split data")?;
        let mut records = Self { reader: BufReader::with_capacity(BUFFER_BYTES, decoder) };
        let mut magic = [0; MAGIC.len()];
        records.fill(&mut magic)?;
        if magic != MAGIC {
            return Err(Error::unsupported("the tar-split data has another format: use the newer strata that made it"));
        }
        Ok(records)
    }

    fn next(&mut self) -> Result<Option<Record>> {
        Ok(Some(match self.byte()? {
            END => {
                // Reads to the end, because the checksum follows the last record.
                let more = io::copy(&mut self.reader, &mut io::sink()).map_err(damaged)?;
                return if more == 0 {
                    Ok(None)
                } else {
                    Err(Error::data_loss("the tar-split data goes on after its end"))
                };
            }
            BYTES => Record::Bytes { length: self.number()? },
            CONTENT => Record::Content { path: self.path()?, segments: self.segments()? },
            RESCUED => Record::Rescued { path: self.path()?, length: self.number()? },
            other => {
                return Err(Error::data_loss(format!("the tar-split data has a record of the unknown kind {other}")));
            }
        }))
    }

    fn path(&mut self) -> Result<PathBuf> {
        let length = self.number()?;
        if length > PATH_BYTES_MAX {
            return Err(Error::data_loss(format!("the tar-split data has a path of {length} bytes")));
        }
        let mut path = vec![0; length as usize];
        self.fill(&mut path)?;
        Ok(PathBuf::from(OsStr::from_bytes(&path)))
    }

    fn segments(&mut self) -> Result<Vec<Segment>> {
        let count = self.number()?;
        if count > SPARSE_SEGMENTS_MAX as u64 {
            return Err(Error::data_loss(format!("the tar-split data has a file of {count} stretches")));
        }
        (0..count).map(|_| Ok(Segment { offset: self.number()?, length: self.number()? })).collect()
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Error::data_loss("the tar-split data has a number without an end"))
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.fill(&mut byte).map(|()| byte[0])
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.reader.read_exact(buffer).map_err(damaged)
    }

    /// Copies the next `length` bytes to `writer`.
    fn copy(&mut self, length: u64, writer: &mut dyn Write) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let available = io::BufRead::fill_buf(&mut self.reader).map_err(damaged)?;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(available.len());
            if count == 0 {
                return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
            }
            writer.write_all(&available[..count]).at("write", "layer")?;
            io::BufRead::consume(&mut self.reader, count);
            left -= count as u64;
        }
        Ok(())
    }
}

fn damaged(error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return Err::<(), _>(error).at("read", "tar-split data").expect_err("it is one");
    }
    Error::data_loss("the tar-split data is damaged or cut").with_source(error)
}

/// Contents that the tree no longer has, in a separate file.
#[derive(Default)]
struct Rescued {
    file: Option<File>,
    /// For each path: the number of content records before the rescue, and the offset in `file`.
    places: HashMap<PathBuf, Vec<(u64, u64)>>,
}

impl Rescued {
    /// Reads all of the tar-split data, so that damage is detected before anything is written.
    fn collect(data: &File, spool: &mut dyn FnMut() -> Result<File>) -> Result<Self> {
        let mut rescued = Self::default();
        let (mut end, mut contents) = (0, 0);
        let mut records = Records::open(data)?;
        while let Some(record) = records.next()? {
            match record {
                Record::Bytes { length } => records.copy(length, &mut io::sink())?,
                Record::Content { .. } => contents += 1,
                Record::Rescued { path, length } => {
                    let file = match &mut rescued.file {
                        Some(file) => file,
                        none => none.insert(spool()?),
                    };
                    records.copy(length, file)?;
                    rescued.places.entry(path).or_default().push((contents, end));
                    end += length;
                }
            }
        }
        Ok(rescued)
    }

    /// Returns the offset of the content record `number` of `path`, if that content was rescued.
    fn find(&self, number: u64, path: &Path) -> Option<(&File, u64)> {
        let places = self.places.get(path)?;
        let (_, start) = places.get(places.partition_point(|(contents, _)| *contents <= number))?;
        Some((self.file.as_ref()?, *start))
    }
}

/// Sources of file content.
struct Sources<'t> {
    tree: &'t Dir,
    rescued: Rescued,
    /// Last opened directory.
    parent: Option<(PathBuf, Dir)>,
    buffer: Vec<u8>,
}

impl Sources<'_> {
    fn copy(&mut self, number: u64, path: &Path, segments: &[Segment], writer: &mut dyn Write) -> Result<()> {
        if segments.iter().all(|segment| segment.length == 0) {
            return Ok(());
        }
        if let Some((file, start)) = self.rescued.find(number, path) {
            return copy(file, start, segments, &mut self.buffer, writer);
        }
        let file = self.open(path)?;
        copy(&file, 0, segments, &mut self.buffer, writer)
    }

    fn open(&mut self, path: &Path) -> Result<File> {
        let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let parent = match self.parent.take() {
            Some(known) if known.0 == above => known,
            _ => (above.to_owned(), self.tree.open_beneath(above)?),
        };
        self.parent.insert(parent).1.open_file(name)
    }
}

/// Writes segments of the file that begins at offset `start` of `file`.
fn copy(file: &File, start: u64, segments: &[Segment], buffer: &mut [u8], writer: &mut dyn Write) -> Result<()> {
    for segment in segments {
        let (mut at, mut left) = (start.saturating_add(segment.offset), segment.length);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = match file.read_at(&mut buffer[..wanted], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count.at("read", "it")?,
            };
            if count == 0 {
                return Err(Error::data_loss(format!("the file ends at byte {at}, inside what the layer had of it")));
            }
            writer.write_all(&buffer[..count]).at("write", "layer")?;
            at += count as u64;
            left -= count as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
