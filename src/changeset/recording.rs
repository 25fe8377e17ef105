//! How an archive was spelled: with it and the tree that was made of the archive, the archive can be written again,
//! byte for byte.
//!
//! # Format 1
//! One zstd frame with a checksum. In it a line, `MAGIC`, and records: a byte that says which, then numbers as LEB128
//! (seven bits a byte, the lowest first, the eighth bit set on all but the last) and bytes.
//!
//! | record | fields | meaning |
//! |---|---|---|
//! | 0 | | the end |
//! | 1 | length, bytes | these bytes of the archive |
//! | 2 | length, path, count, count times offset and length | these stretches of the file at this path of the tree, which has no links in it |
//! | 3 | length, path, length, bytes | up to here, the file at this path had this content: the tree has something else there |
//!
//! Records 1 and 2 are in the archive's order. A record 3 is written when an entry of the same archive takes the file's
//! place: it is about the records 2 with its path that stand before it, but behind an earlier record 3 with that path.
//!
//! Invariant: nothing here says whether the archive is the right one. Who writes it digests it.

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

/// What a recording begins with: the name of the format and its version.
const MAGIC: &[u8] = b"strata recording 1\n";

/// What is spent on compression: about 30 bytes are left of an entry of a distribution's image.
const LEVEL: i32 = 3;

/// How much is read and written at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// The longest path of a tree that is read back; links can lead deeper than a header may say.
const PATH_BYTES_MAX: u64 = 1 << 20;

/// How many contents may be saved: to write the archive, the place of each has to be remembered. An archive has a path
/// twice by mistake, or because somebody appended to it.
pub const RESCUED_MAX: u64 = 1 << 17;

const END: u8 = 0;
const BYTES: u8 = 1;
const CONTENT: u8 = 2;
const RESCUED: u8 = 3;

/// Writes a recording while the archive is applied.
pub struct Recorder {
    writer: zstd::Encoder<'static, BufWriter<File>>,
    /// The content that was announced and is in no file yet.
    announced: Option<Vec<Segment>>,
    rescued: u64,
}

impl Recorder {
    /// A recording in `file`, which is empty.
    ///
    /// # Errors
    /// `Io` if there is no memory to compress.
    pub fn new(file: File) -> Result<Self> {
        let start = || {
            let mut writer = zstd::Encoder::new(BufWriter::with_capacity(BUFFER_BYTES, file), LEVEL)?;
            writer.include_checksum(true)?;
            writer.write_all(MAGIC).map(|()| writer)
        };
        Ok(Self { writer: start().at("write", "recording")?, announced: None, rescued: 0 })
    }

    /// Takes the next piece of the archive.
    ///
    /// # Errors
    /// What writing reports.
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

    /// The content that was announced is in the file at `path`, a path without links.
    ///
    /// # Errors
    /// `InvalidArgument` if none was announced: the changes come from no archive. What writing reports.
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
    /// `ResourceExhausted` beyond [`RESCUED_MAX`]; what reading `file` and writing report.
    pub(super) fn rescue(&mut self, path: &Path, size: u64, file: &mut dyn Read) -> Result<()> {
        self.rescued += 1;
        if self.rescued > RESCUED_MAX {
            let message = format!("the layer takes away more than {RESCUED_MAX} of its own files again");
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        let mut start = named(RESCUED, path);
        push(&mut start, size);
        self.write(&start)?;
        let copied = io::copy(&mut file.take(size), &mut self.writer).at("write", "recording")?;
        if copied == size { Ok(()) } else { Err(Error::data_loss("a file became shorter while it was read")) }
    }

    /// Writes the end. What was written is not synced.
    ///
    /// # Errors
    /// What writing reports.
    pub fn finish(mut self) -> Result<()> {
        self.write(&[END])?;
        self.writer.finish().and_then(|mut writer| writer.flush()).at("write", "recording")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).at("write", "recording")
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("rescued", &self.rescued).finish_non_exhaustive()
    }
}

/// The start of a record that is about `path`.
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

/// Writes the archive that `recording` is of and that `tree` was made of to `writer`.
///
/// `spool` makes an empty file for contents that are in the recording; it is not called for most.
///
/// # Errors
/// `DataLoss` for a recording that is damaged, and for a file of the tree that is missing or too short; `Unsupported`
/// for another format; what reading and writing report.
pub fn replay(
    recording: &File,
    tree: &Dir,
    spool: &mut dyn FnMut() -> Result<File>,
    writer: &mut dyn Write,
) -> Result<()> {
    let rescued = Rescued::collect(recording, spool)?;
    let mut sources = Sources { tree, rescued, parent: None, buffer: vec![0; BUFFER_BYTES] };
    let mut records = Records::open(recording)?;
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

/// A record; the bytes of two kinds are still to be read.
enum Record {
    Bytes { length: u64 },
    Content { path: PathBuf, segments: Vec<Segment> },
    Rescued { path: PathBuf, length: u64 },
}

/// The records of a recording, one after the other.
struct Records<'f> {
    reader: BufReader<zstd::Decoder<'static, BufReader<&'f File>>>,
}

impl<'f> Records<'f> {
    fn open(mut file: &'f File) -> Result<Self> {
        file.seek(SeekFrom::Start(0)).at("seek in", "recording")?;
        let decoder = zstd::Decoder::new(file).at("read", "recording")?;
        let mut records = Self { reader: BufReader::with_capacity(BUFFER_BYTES, decoder) };
        let mut magic = [0; MAGIC.len()];
        records.fill(&mut magic)?;
        if magic != MAGIC {
            return Err(Error::unsupported("the recording has another format: use the newer strata that made it"));
        }
        Ok(records)
    }

    fn next(&mut self) -> Result<Option<Record>> {
        Ok(Some(match self.byte()? {
            END => {
                // The checksum stands behind.
                let more = io::copy(&mut self.reader, &mut io::sink()).map_err(damaged)?;
                return if more == 0 { Ok(None) } else { Err(Error::data_loss("the recording goes on after its end")) };
            }
            BYTES => Record::Bytes { length: self.number()? },
            CONTENT => Record::Content { path: self.path()?, segments: self.segments()? },
            RESCUED => Record::Rescued { path: self.path()?, length: self.number()? },
            other => return Err(Error::data_loss(format!("the recording has a record of the unknown kind {other}"))),
        }))
    }

    fn path(&mut self) -> Result<PathBuf> {
        let length = self.number()?;
        if length > PATH_BYTES_MAX {
            return Err(Error::data_loss(format!("the recording has a path of {length} bytes")));
        }
        let mut path = vec![0; length as usize];
        self.fill(&mut path)?;
        Ok(PathBuf::from(OsStr::from_bytes(&path)))
    }

    fn segments(&mut self) -> Result<Vec<Segment>> {
        let count = self.number()?;
        if count > SPARSE_SEGMENTS_MAX as u64 {
            return Err(Error::data_loss(format!("the recording has a file of {count} stretches")));
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
        Err(Error::data_loss("the recording has a number without an end"))
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.fill(&mut byte).map(|()| byte[0])
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.reader.read_exact(buffer).map_err(damaged)
    }

    /// Passes the next `length` bytes on.
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
        return Err::<(), _>(error).at("read", "recording").expect_err("it is one");
    }
    Error::data_loss("the recording is damaged or cut").with_source(error)
}

/// Contents that the tree does not have any more, in a file of their own.
#[derive(Default)]
struct Rescued {
    file: Option<File>,
    /// By its path: how many contents there had been when it was saved, and where it begins.
    places: HashMap<PathBuf, Vec<(u64, u64)>>,
}

impl Rescued {
    /// Reads the whole recording, so that one that is damaged is noticed before anything is written.
    fn collect(recording: &File, spool: &mut dyn FnMut() -> Result<File>) -> Result<Self> {
        let mut rescued = Self::default();
        let (mut end, mut contents) = (0, 0);
        let mut records = Records::open(recording)?;
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

    /// Where the content `number` begins that was at `path`, if it is here.
    fn find(&self, number: u64, path: &Path) -> Option<(&File, u64)> {
        let (_, start) = self.places.get(path)?.iter().find(|(contents, _)| number < *contents)?;
        Some((self.file.as_ref()?, *start))
    }
}

/// Where contents come from.
struct Sources<'t> {
    tree: &'t Dir,
    rescued: Rescued,
    /// The directory that was opened last.
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

/// Writes stretches of a file that begins at `start` of `file`.
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
