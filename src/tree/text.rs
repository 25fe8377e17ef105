//! The canonical text of a tree: equal trees have equal text, on every strategy and file system.
//!
//! Each inode is one line, at its first name in canonical order. The columns are [`COLUMNS`], separated by one space;
//! `-` stands for a column that does not apply:
//!
//! ```text
//! d 0755 0 0 - 1700000000.000000000 - - . - - -
//! f 4755 0 0 5 1700000000.500000000 - sha256:2cf2...9824 bin/su - security.capability=\x01\x00 bin/sudo,sbin/su
//! l 0777 0 0 2 -0.500000000 - - bin/sh su - -
//! c 0666 0 0 - 1700000000.000000000 1:3 - dev/null - - -
//! ```
//!
//! - *type*: [`super::FileType::letter`]; *mode*: four octal digits; *uid*, *gid*: decimal.
//! - *size*: of regular files and symbolic links only, because the size of a directory depends on its file system.
//! - *time*: of the last modification, seconds since 1970 as a decimal number with nine places.
//! - *device*: major and minor number; *content*: the digest of a regular file's bytes.
//! - *path*: relative, the root is `.`; *target*: of a symbolic link.
//! - *xattrs*: portable ones as `name=value`, by name; *links*: the other names of the inode. Both joined by commas.
//!
//! Bytes other than printable ASCII, the space, `\` and `,` (in attribute names also `=`) are written as `\xHH`, and a
//! name that is just `-` as `\x2d`. So any bytes can be written and read again: `parse(print(t)) == t`, and [`parse`]
//! accepts only text that [`print()`] can produce.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::memory::{Inode, Named, Tree};
use super::{Device, Meta, Node, Timestamp, Xattrs};
use crate::error::{Error, Result};
use crate::id::Digest;

/// Names of the columns.
pub const COLUMNS: [&str; 12] =
    ["type", "mode", "uid", "gid", "size", "time", "device", "content", "path", "target", "xattrs", "links"];

/// Text of a column that does not apply.
const NONE: &str = "-";

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Returns the text of `tree`.
pub fn print(tree: &Tree) -> String {
    let mut text = String::new();
    for named in tree.iter().filter(Named::is_first) {
        text.push_str(&columns(&named).join(" "));
        text.push('\n');
    }
    text
}

/// Returns the digest of the text of `tree`.
pub fn digest(tree: &Tree) -> Digest {
    Digest::of(print(tree).as_bytes())
}

/// Parses the output of [`print()`].
///
/// # Errors
/// `InvalidArgument` that names the line and the mistake, including a non-canonical form or order.
pub fn parse(text: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut links = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = parse_line(line).map_err(|error| at_line(number, error))?;
        tree.put(&line.path, line.inode).map_err(|error| at_line(number, error))?;
        links.extend(line.links.into_iter().map(|link| (number, link, line.path.clone())));
    }
    for (number, link, path) in links {
        tree.link(link, path).map_err(|error| at_line(number, error))?;
    }
    let canonical = print(&tree);
    if canonical == text {
        return Ok(tree);
    }
    let same = canonical.split('\n').zip(text.split('\n')).take_while(|(ours, theirs)| ours == theirs).count();
    Err(Error::invalid(format!("line {} of a tree is not canonical, misplaced or missing", same + 1)))
}

/// Wraps any error in a line as an error of the text.
fn at_line(number: usize, error: Error) -> Error {
    Error::invalid(format!("line {number} of a tree")).with_source(error)
}

/// Returns the columns of one name's line, in the order of [`COLUMNS`]. The links are all other names of the inode.
pub fn columns(named: &Named<'_>) -> [String; 12] {
    let Inode { meta, content } = named.inode;
    let none = || NONE.to_owned();
    let size = match &meta.node {
        Node::File { size } => size.to_string(),
        Node::Symlink { target } => target.len().to_string(),
        _ => none(),
    };
    let device = match &meta.node {
        Node::Char(device) | Node::Block(device) => format!("{}:{}", device.major, device.minor),
        _ => none(),
    };
    let target = match &meta.node {
        Node::Symlink { target } => word(target),
        _ => none(),
    };
    [
        meta.node.file_type().letter().to_string(),
        format!("{:04o}", meta.mode),
        meta.uid.to_string(),
        meta.gid.to_string(),
        size,
        print_time(meta.mtime),
        device,
        content.map_or_else(none, |digest| digest.to_string()),
        print_path(named.path),
        target,
        list(
            meta.xattrs.iter().map(|(name, value)| format!("{}={}", escape(name).replace('=', r"\x3d"), escape(value))),
        ),
        list(named.names.iter().filter(|name| *name != named.path).map(|name| print_path(name))),
    ]
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { NONE.to_owned() } else { words.join(",") }
}

/// Returns the path in tree text; the root is `.`.
pub fn print_path(path: &Path) -> String {
    match path.as_os_str().as_bytes() {
        b"" => ".".to_owned(),
        path => word(path),
    }
}

/// Escapes a word, including one that would read as an empty column.
fn word(bytes: &[u8]) -> String {
    if bytes == NONE.as_bytes() { r"\x2d".to_owned() } else { escape(bytes) }
}

/// Writes any bytes as printable ASCII without spaces and commas; [`unescape`] reverses it.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' | b',' => drop(write!(text, "\\x{byte:02x}")),
            0x21..=0x7e => text.push(char::from(*byte)),
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text
}

/// Reverses [`escape`].
///
/// # Errors
/// `InvalidArgument` for a `\` that does not begin `\xHH`.
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('\\');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let code = part.strip_prefix('x').and_then(|part| part.get(..2));
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        let (Some(byte), Some(rest)) = (byte, part.get(3..)) else {
            return Err(Error::invalid(format!("{text:?} has a backslash that begins no escape")));
        };
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}

struct Line {
    path: PathBuf,
    inode: Inode,
    links: Vec<PathBuf>,
}

fn parse_line(line: &str) -> Result<Line> {
    let columns: Vec<&str> = line.split(' ').collect();
    let [kind, mode, uid, gid, size, time, device, content, path, target, xattrs, links] = columns[..] else {
        return Err(Error::invalid(format!("{} columns where {} belong", columns.len(), COLUMNS.len())));
    };
    let node = match kind {
        "f" => Node::File { size: number(size, "size")? },
        "d" => Node::Dir,
        "l" => Node::Symlink { target: unescape(target)? },
        "c" => Node::Char(parse_device(device)?),
        "b" => Node::Block(parse_device(device)?),
        "p" => Node::Fifo,
        "s" => Node::Socket,
        _ => return Err(Error::invalid(format!("{kind:?} is no type"))),
    };
    let meta = Meta {
        node,
        mode: u32::from_str_radix(mode, 8).map_err(|_| Error::invalid(format!("{mode:?} is no mode")))?,
        uid: number(uid, "uid")?,
        gid: number(gid, "gid")?,
        mtime: parse_time(time)?,
        xattrs: parse_xattrs(xattrs)?,
    };
    let content = optional(content).map(str::parse).transpose()?;
    let links = optional(links).map_or_else(|| Ok(Vec::new()), |links| links.split(',').map(parse_path).collect());
    Ok(Line { path: parse_path(path)?, inode: Inode { meta, content }, links: links? })
}

fn optional(column: &str) -> Option<&str> {
    (column != NONE).then_some(column)
}

fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| Error::invalid(format!("{text:?} is no {what}")))
}

fn parse_path(text: &str) -> Result<PathBuf> {
    match text {
        "." => Ok(PathBuf::new()),
        text => Ok(PathBuf::from(OsStr::from_bytes(&unescape(text)?))),
    }
}

fn parse_device(text: &str) -> Result<Device> {
    let (major, minor) = text.split_once(':').ok_or_else(|| Error::invalid(format!("{text:?} is no device")))?;
    Ok(Device { major: number(major, "device")?, minor: number(minor, "device")? })
}

fn parse_xattrs(text: &str) -> Result<Xattrs> {
    let Some(text) = optional(text) else { return Ok(Xattrs::new()) };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').ok_or_else(|| Error::invalid(format!("{pair:?} has no value")))?;
        Ok((unescape(name)?, unescape(value)?))
    };
    text.split(',').map(pair).collect()
}

/// Formats seconds as a signed decimal number: `-0.5` is half a second before 1970.
fn print_time(time: Timestamp) -> String {
    let nanos = i128::from(time.seconds) * NANOS_PER_SECOND + i128::from(time.nanos);
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let second = NANOS_PER_SECOND.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / second, nanos % second)
}

fn parse_time(text: &str) -> Result<Timestamp> {
    let wrong = || Error::invalid(format!("{text:?} is no time"));
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (seconds, fraction) = digits.split_once('.').ok_or_else(wrong)?;
    let fraction: u32 = fraction.parse().map_err(|_| wrong())?;
    let seconds: u64 = seconds.parse().map_err(|_| wrong())?;
    let nanos = sign * (i128::from(seconds) * NANOS_PER_SECOND + i128::from(fraction));
    Ok(Timestamp {
        seconds: i64::try_from(nanos.div_euclid(NANOS_PER_SECOND)).map_err(|_| wrong())?,
        nanos: u32::try_from(nanos.rem_euclid(NANOS_PER_SECOND)).map_err(|_| wrong())?,
    })
}

#[cfg(test)]
mod tests;
