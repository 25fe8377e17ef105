//! The properties that the fuzz targets check, and what these share: streams in memory, archives whose checksums are
//! right. `cargo test --test fuzz` checks the same properties on the corpus and on mutations of it.
//!
//! An input is an archive, nothing else: so the corpus can be read by any tar, and any layer is a seed.

pub mod apply;
mod canonical;
pub mod decode;
pub mod differential;
pub mod round_trip;

pub use canonical::canonical;

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use strata::Result;
use strata::changeset::Change;
use strata::changeset::tar::{Decoded, Encoder, Limits, MtimePrecision, decode};
use strata::tree::{Device, Meta, Node};

/// A stream of changes with the contents of its files.
pub type Stream = Vec<(Change, Vec<u8>)>;

/// Limits that an input of a few kilobytes can reach.
pub const TIGHT: Limits = Limits {
    entries: 20,
    layers: 20,
    total_bytes: 1 << 20,
    pax_bytes: 4096,
    xattr_bytes: 200,
    path_bytes: 1000,
    path_depth: 50,
    sparse_segments: 100,
    trailing_bytes: 2048,
    padding_bytes: 4096,
};

const BLOCK_BYTES: usize = 512;

/// Makes the checksums right of all blocks that look like headers. Without it hardly any mutation would get past them.
pub fn seal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(BLOCK_BYTES).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Decodes an archive.
pub fn read(archive: &[u8], limits: &Limits) -> Result<(Stream, Decoded)> {
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

/// Encodes a canonical stream. Ancestors that it does not bring are 0755 0:0.
pub fn write(stream: &Stream) -> Result<Vec<u8>> {
    let mut describe = |path: &Path| {
        let described = stream.iter().find_map(|(change, _)| match change {
            Change::Put { path: put, meta, .. } if put == path => Some(meta.clone()),
            _ => None,
        });
        Ok(described.unwrap_or_else(Meta::implied_dir))
    };
    let mut encoder = Encoder::new(Vec::new(), MtimePrecision::Nanoseconds, &mut describe);
    for (change, content) in stream {
        strata::changeset::Sink::change(&mut encoder, change, &mut &content[..])?;
    }
    encoder.finish()
}

/// The paths of a change: its own, and a link's target.
pub fn paths(change: &Change) -> Vec<&Path> {
    match change {
        Change::Link { path, target, .. } => vec![path, target],
        change => vec![change.path()],
    }
}

/// Panics unless a decoded stream keeps to the limits and holds nothing that a sink must not see.
pub fn assert_sane(archive: &[u8], stream: &Stream, decoded: &Decoded, limits: &Limits) {
    assert!(decoded.entries <= limits.entries && stream.len() as u64 <= decoded.entries);
    assert_eq!(decoded.bytes, archive.len() as u64);
    assert!(decoded.trailing_bytes <= limits.padding_bytes);
    assert!(stream.iter().map(|(_, content)| content.len() as u64).sum::<u64>() <= limits.total_bytes);
    for (change, content) in stream {
        paths(change).into_iter().for_each(assert_clean);
        let Change::Put { path, meta, existed: false } = change else { continue };
        assert!(meta.mode <= 0o7777 && meta.uid != u32::MAX && meta.gid != u32::MAX);
        assert!(meta.mtime.nanos < 1_000_000_000);
        assert!(meta.node == Node::Dir || !path.as_os_str().is_empty());
        match &meta.node {
            Node::File { size } => assert_eq!(*size, content.len() as u64),
            Node::Char(device) | Node::Block(device) => assert_ne!(*device, Device::default()),
            Node::Symlink { target } => assert!(!target.is_empty() && !target.contains(&0)),
            Node::Socket => panic!("a socket"),
            _ => assert!(content.is_empty()),
        }
    }
}

fn assert_clean(path: &Path) {
    let bytes = path.as_os_str().as_bytes();
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.starts_with(b".wh.");
    assert!(bytes.is_empty() || bytes.split(|byte| *byte == b'/').all(is_name), "{path:?}");
    assert!(!bytes.contains(&0), "{path:?}");
}
