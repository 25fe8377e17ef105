//! Changes and trees as lines of text, for tests: the same notation for input and output.
//!
//! ```text
//! d PATH   f PATH "CONTENT"   l PATH -> TARGET   c|b PATH dev=1:3   p PATH     an inode
//! h PATH -> TARGET   - PATH   ! PATH                                           hard link, remove, opaque
//! ```
//! Further words follow where a value is not the default: mode in octal (default `755` for directories, `777` for
//! links, `644` for others), owner (`0:0`), mtime (`@0`), attributes (`user.a=b`). The root is `.`. A printed change
//! begins with `+` if the path is new, with `~` if it existed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::apply::{Applied, Applier};
use super::{Candidates, Change, Sink};
use crate::error::Result;
use crate::tree::{Device, Dir, FileType, Meta, Node, Timestamp, walk};

/// Creates and opens a directory at `path`.
pub(super) fn fresh(path: impl AsRef<Path>) -> Dir {
    fs::create_dir(&path).expect("make a directory");
    Dir::open(path).expect("open a directory")
}

fn pair(text: &str) -> (u32, u32) {
    let (left, right) = text.split_once(':').expect("a pair");
    (left.parse().expect("a number"), right.parse().expect("a number"))
}

fn path(text: &str) -> PathBuf {
    if text == "." { PathBuf::new() } else { PathBuf::from(text) }
}

/// Parses a line into a change and the content of its file.
pub(super) fn parse(line: &str) -> (Change, Vec<u8>) {
    let mut words = line.split_whitespace();
    let (kind, place) = (words.next().expect("a kind"), path(words.next().expect("a path")));
    let (mut meta, mut content, mut target, mut device) =
        (Meta::implied_dir(), Vec::new(), String::new(), Device::default());
    meta.mode = default_mode(kind);
    while let Some(word) = words.next() {
        if word == "->" {
            target = words.next().expect("a target").to_owned();
        } else if let Some(seconds) = word.strip_prefix('@') {
            let (seconds, nanos) = seconds.split_once('.').unwrap_or((seconds, "0"));
            meta.mtime = Timestamp { seconds: seconds.parse().expect("s"), nanos: nanos.parse().expect("ns") };
        } else if let Some(number) = word.strip_prefix("dev=") {
            let (major, minor) = pair(number);
            device = Device { major, minor };
        } else if word.starts_with('"') {
            content = word.trim_matches('"').as_bytes().to_vec();
        } else if let Some((name, value)) = word.split_once('=') {
            meta.xattrs.insert(name.into(), value.into());
        } else if word.contains(':') {
            (meta.uid, meta.gid) = pair(word);
        } else {
            meta.mode = u32::from_str_radix(word, 8).expect("a mode");
        }
    }
    meta.node = match kind {
        "d" => Node::Dir,
        "f" => Node::File { size: content.len() as u64 },
        "l" => Node::Symlink { target: target.into_bytes() },
        "c" => Node::Char(device),
        "b" => Node::Block(device),
        "p" => Node::Fifo,
        "s" => Node::Socket,
        "h" => return (Change::Link { path: place, target: path(&target), existed: false }, content),
        "-" => return (Change::Remove { path: place }, content),
        "!" => return (Change::Opaque { path: place }, content),
        kind => panic!("unknown kind {kind}"),
    };
    (Change::Put { path: place, existed: false, meta }, content)
}

fn default_mode(kind: &str) -> u32 {
    match kind {
        "d" => 0o755,
        "l" => 0o777,
        _ => 0o644,
    }
}

/// Applies lines to a tree.
pub(super) fn apply(root: &Dir, lines: &[&str]) -> Result<Applied> {
    apply_by(Applier::new(root.try_clone()?), lines)
}

/// Applies lines through the given applier.
pub(super) fn apply_by(mut applier: Applier, lines: &[&str]) -> Result<Applied> {
    for line in lines {
        let (change, content) = parse(line);
        applier.change(&change, &mut content.as_slice())?;
    }
    applier.finish()
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        ".".to_owned()
    } else {
        OsStr::from_bytes(path.as_os_str().as_bytes()).to_string_lossy().into_owned()
    }
}

/// Returns the line of an inode.
fn line(path: &Path, meta: &Meta, content: &[u8]) -> String {
    let kind = meta.node.file_type().letter().to_string();
    let mut words = vec![kind.clone(), shown(path)];
    match &meta.node {
        Node::File { .. } => words.push(format!("\"{}\"", String::from_utf8_lossy(content))),
        Node::Symlink { target } => words.push(format!("-> {}", String::from_utf8_lossy(target))),
        Node::Char(device) | Node::Block(device) => words.push(format!("dev={}:{}", device.major, device.minor)),
        Node::Dir | Node::Fifo | Node::Socket => {}
    }
    if meta.mode != default_mode(&kind) {
        words.push(format!("{:o}", meta.mode));
    }
    if (meta.uid, meta.gid) != (0, 0) {
        words.push(format!("{}:{}", meta.uid, meta.gid));
    }
    if meta.mtime != Timestamp::EPOCH {
        let nanos = if meta.mtime.nanos == 0 { String::new() } else { format!(".{}", meta.mtime.nanos) };
        words.push(format!("@{}{nanos}", meta.mtime.seconds));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    words.extend(meta.xattrs.iter().map(|(name, value)| format!("{}={}", text(name), text(value))));
    words.join(" ")
}

/// Returns the lines of a tree; a root with default attributes has none.
pub(super) fn show(root: &Dir) -> Vec<String> {
    let (mut lines, mut names) = (Vec::new(), HashMap::new());
    walk::walk(root, |entry| {
        let meta = entry.dir.meta(entry.name, &entry.stat)?;
        let first = names.entry((entry.stat.dev, entry.stat.ino)).or_insert_with(|| entry.path.to_owned());
        if first != entry.path {
            lines.push(format!("h {} -> {}", shown(entry.path), shown(first)));
            return Ok(());
        }
        let mut content = Vec::new();
        if entry.stat.file_type == FileType::File {
            entry.dir.open_file(entry.name)?.read_to_end(&mut content).expect("read");
        }
        if !entry.path.as_os_str().is_empty() || meta != Meta::implied_dir() {
            lines.push(line(entry.path, &meta, &content));
        }
        Ok(())
    })
    .expect("walk");
    lines
}

/// Returns the lines of the changes between two trees.
pub(super) fn changes(old: Option<&Dir>, new: &Dir) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut sink = |change: &Change, data: &mut dyn Read| {
        let sign = |existed: bool| if existed { '~' } else { '+' };
        lines.push(match change {
            Change::Put { path, existed, meta } => {
                let mut content = Vec::new();
                data.read_to_end(&mut content).expect("read");
                format!("{} {}", sign(*existed), line(path, meta, &content))
            }
            Change::Link { path, target, existed } => {
                format!("{} h {} -> {}", sign(*existed), shown(path), shown(target))
            }
            Change::Remove { path } => format!("- {}", shown(path)),
            Change::Opaque { path } => format!("! {}", shown(path)),
        });
        Ok(())
    };
    super::diff::diff(old, new, Candidates::All, &mut sink)?;
    Ok(lines)
}
