//! Shared parts of the codec's tests: archives built block by block, and streams of changes in memory.

mod cases;
mod encoding;
mod oracles;
mod properties;
mod tar_split;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::header::{BLOCK_BYTES, Ustar};
use super::pax::push_record;
use super::{Decoded, Encoder, Limits, MtimePrecision, decode};
use crate::changeset::{Change, Sink};
use crate::error::Result;
use crate::tree::{Device, Meta, Node, Timestamp, Xattrs};

/// An archive under construction.
#[derive(Clone, Default)]
struct Archive(Vec<u8>);

impl Archive {
    /// Appends a header with its content; `edit` changes the block before its checksum is computed.
    fn edited(mut self, kind: u8, name: &[u8], content: &[u8], edit: impl FnOnce(&mut [u8; BLOCK_BYTES])) -> Self {
        let mut block = Ustar {
            prefix: b"",
            name: &name[..name.len().min(100)],
            link: b"",
            kind,
            mode: 0o644,
            uid: 1,
            gid: 2,
            size: content.len() as u64,
            mtime: 3,
            device: Device::default(),
        }
        .block();
        edit(&mut block);
        seal(&mut block);
        self.0.extend_from_slice(&block);
        self.raw(content)
    }

    fn entry(self, kind: u8, name: &str, content: &[u8]) -> Self {
        self.edited(kind, name.as_bytes(), content, |_| {})
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, b"")
    }

    fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.edited(kind, name.as_bytes(), b"", |block| {
            block[157..157 + target.len()].copy_from_slice(target.as_bytes())
        })
    }

    fn device(self, kind: u8, name: &str, major: &str, minor: &str) -> Self {
        self.edited(kind, name.as_bytes(), b"", |block| {
            block[329..329 + major.len()].copy_from_slice(major.as_bytes());
            block[337..337 + minor.len()].copy_from_slice(minor.as_bytes());
        })
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            push_record(&mut body, key.as_bytes(), value);
        }
        self.entry(b'x', "pax", &body)
    }

    /// Appends bytes and their padding.
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK_BYTES), 0);
        self
    }

    fn end(self) -> Vec<u8> {
        self.raw(&[0; 2 * BLOCK_BYTES]).0
    }
}

/// Writes the correct checksum.
fn seal(block: &mut [u8; BLOCK_BYTES]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A stream of changes with the contents of its files.
type Stream = Vec<(Change, Vec<u8>)>;

fn read(archive: &[u8]) -> Result<Stream> {
    read_within(archive, &Limits::default()).map(|(stream, _)| stream)
}

fn read_within(archive: &[u8], limits: &Limits) -> Result<(Stream, Decoded)> {
    let mut stream = Stream::new();
    let mut sink = |change: &Change, data: &mut dyn Read| {
        let mut content = Vec::new();
        data.read_to_end(&mut content).map_err(|error| error.downcast().expect("an error of ours"))?;
        stream.push((change.clone(), content));
        Ok(())
    };
    let decoded = decode(&mut &archive[..], limits, &mut sink)?;
    Ok((stream, decoded))
}

/// Encodes `stream`, where every ancestor is described by [`ancestor`] and every link's target by [`target`].
fn written(stream: &Stream, precision: MtimePrecision) -> Result<Vec<u8>> {
    let puts: Vec<(PathBuf, Meta)> = stream
        .iter()
        .filter_map(|(change, _)| match change {
            Change::Put { path, meta, .. } => Some((path.clone(), meta.clone())),
            _ => None,
        })
        .collect();
    let mut describe = |path: &Path| {
        Ok(puts.iter().find(|(put, _)| put == path).map_or_else(|| dir(0o1777), |(_, meta)| meta.clone()))
    };
    let mut encoder = Encoder::new(Vec::new(), precision, &mut describe);
    for (change, content) in stream {
        encoder.change(change, &mut &content[..])?;
    }
    encoder.finish()
}

fn write(stream: &Stream) -> Result<Vec<u8>> {
    written(stream, MtimePrecision::Nanoseconds)
}

fn meta(node: Node) -> Meta {
    Meta { node, mode: 0o644, uid: 1, gid: 2, mtime: Timestamp { seconds: 3, nanos: 0 }, xattrs: Xattrs::new() }
}

fn dir(mode: u32) -> Meta {
    Meta { mode, ..meta(Node::Dir) }
}

fn put(path: impl Into<PathBuf>, meta: Meta) -> (Change, Vec<u8>) {
    (Change::Put { path: path.into(), existed: false, meta }, Vec::new())
}

fn file(path: impl Into<PathBuf>, content: impl AsRef<[u8]>) -> (Change, Vec<u8>) {
    let content = content.as_ref().to_vec();
    let meta = meta(Node::File { size: content.len() as u64 });
    (Change::Put { path: path.into(), existed: false, meta }, content)
}

fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> (Change, Vec<u8>) {
    (Change::Link { path: path.into(), target: target.into(), existed: false }, Vec::new())
}

fn remove(path: impl Into<PathBuf>) -> (Change, Vec<u8>) {
    (Change::Remove { path: path.into() }, Vec::new())
}

fn opaque(path: impl Into<PathBuf>) -> (Change, Vec<u8>) {
    (Change::Opaque { path: path.into() }, Vec::new())
}

/// A sink that reads nothing, so that the decoder skips all content.
fn ignore() -> impl FnMut(&Change, &mut dyn Read) -> Result<()> {
    |_: &Change, _: &mut dyn Read| Ok(())
}

/// A reader of that many bytes that leaves the buffer unchanged, so that 8 GiB cost nothing.
struct Anything(u64);

impl Read for Anything {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.0).unwrap_or(usize::MAX).min(buffer.len());
        self.0 -= count as u64;
        Ok(count)
    }
}
