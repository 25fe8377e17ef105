//! Layers, trees and edits as lines of text, for short and exact examples.
//!
//! An entry of a layer, or an inode of a tree:
//!
//! ```text
//! d PATH   f PATH "CONTENT"   l PATH -> TARGET   h PATH -> TARGET   c|b PATH dev=1:3   p PATH
//! =X PATH                                                    an entry of the type X, whatever that is
//! ```
//!
//! Further words follow where a value is not the default: the mode in octal (default `755` for directories, `777` for
//! links, `644` for others), the owner (`0:0`), the mtime (`@0`, `@-1.5`) and extended attributes (`user.a=b`). An
//! entry can also have PAX records (`pax:KEY=VALUE`), a different size in the header (`size=9`), and `gnu` for long
//! names in the GNU format. The root is `.`, and a whiteout is written like any other entry. In words, `\xHH` stands
//! for a byte and `{n*255}` for that many letters.
//!
//! An edit is written like a shell command: `write`, `mkdir`, `chmod`, `mv` and so on ([`edit`]).

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::conformance::ops::{Edit, FileContent};
use crate::error::{Context, Error, Result};
use crate::id::Digest;
use crate::tree::memory::{Inode, Tree};
use crate::tree::text::{escape, unescape};
use crate::tree::{Device, FileType, Meta, Node, Timestamp, Xattrs};

/// Maximum length of a name or a link target in a header.
const FIELD_BYTES: usize = 100;

const SCHILY_XATTR: &str = "SCHILY.xattr.";

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// A parsed line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NotationEntry {
    /// Type byte of the tar header.
    kind: u8,
    path: Vec<u8>,
    target: Vec<u8>,
    content: Vec<u8>,
    mode: Option<u32>,
    owner: (u64, u64),
    mtime: Timestamp,
    device: Device,
    xattrs: Xattrs,
    records: Vec<(String, Vec<u8>)>,
    size: Option<u64>,
    gnu: bool,
}

/// NotationEntry types that have a letter.
const KINDS: [(u8, &str); 7] =
    [(b'0', "f"), (b'1', "h"), (b'2', "l"), (b'3', "c"), (b'4', "b"), (b'5', "d"), (b'6', "p")];

fn wrong(word: &str) -> Error {
    Error::invalid(format!("{word:?} in a line of the notation"))
}

/// Expands the escapes in a word.
fn bytes(word: &str) -> Result<Vec<u8>> {
    let mut expanded = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('{') {
        let (repeat, after) = after.split_once('}').ok_or_else(|| wrong(word))?;
        let (text, count) = repeat.split_once('*').ok_or_else(|| wrong(word))?;
        expanded.push_str(before);
        expanded.push_str(&text.repeat(number(count)?));
        rest = after;
    }
    unescape(&(expanded + rest))
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T> {
    word.parse().map_err(|_| wrong(word))
}

fn pair<T: std::str::FromStr>(word: &str) -> Result<(T, T)> {
    let (left, right) = word.split_once(':').ok_or_else(|| wrong(word))?;
    Ok((number(left)?, number(right)?))
}

fn time(word: &str) -> Result<Timestamp> {
    let (seconds, fraction) = word.split_once('.').unwrap_or((word, ""));
    let nanos = number::<u32>(&format!("{fraction:0<9}"))?;
    let whole: i64 = number(seconds)?;
    Ok(if word.starts_with('-') && nanos > 0 {
        Timestamp { seconds: whole - 1, nanos: NANOS_PER_SECOND - nanos }
    } else {
        Timestamp { seconds: whole, nanos }
    })
}

impl NotationEntry {
    fn parse(line: &str) -> Result<Self> {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let byte = match (KINDS.iter().find(|(_, letter)| *letter == kind), kind.as_bytes()) {
            (Some((byte, _)), _) => *byte,
            (None, [b'=', byte]) => *byte,
            _ => return Err(wrong(line)),
        };
        let path = words.next().ok_or_else(|| wrong(line))?;
        let mut entry = Self { kind: byte, path: bytes(path)?, ..Self::default() };
        while let Some(word) = words.next() {
            entry.take(word, &mut words)?;
        }
        Ok(entry)
    }

    fn take<'a>(&mut self, word: &str, rest: &mut impl Iterator<Item = &'a str>) -> Result<()> {
        if word == "->" {
            self.target = bytes(rest.next().ok_or_else(|| wrong(word))?)?;
        } else if word == "gnu" {
            self.gnu = true;
        } else if let Some(text) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
            self.content = bytes(text)?;
        } else if let Some(text) = word.strip_prefix('@') {
            self.mtime = time(text)?;
        } else if let Some(text) = word.strip_prefix("dev=") {
            let (major, minor) = pair(text)?;
            self.device = Device { major, minor };
        } else if let Some(text) = word.strip_prefix("size=") {
            self.size = Some(number(text)?);
        } else if let Some(record) = word.strip_prefix("pax:") {
            let (key, value) = record.split_once('=').ok_or_else(|| wrong(word))?;
            self.records.push((key.to_owned(), bytes(value)?));
        } else if let Some((name, value)) = word.split_once('=') {
            self.xattrs.insert(bytes(name)?, bytes(value)?);
        } else if word.contains(':') {
            self.owner = pair(word)?;
        } else {
            self.mode = Some(u32::from_str_radix(word, 8).map_err(|_| wrong(word))?);
        }
        Ok(())
    }

    fn mode(&self) -> u32 {
        self.mode.unwrap_or(match self.kind {
            b'5' => 0o755,
            b'2' => 0o777,
            _ => 0o644,
        })
    }

    /// Returns the explicit PAX records, then those for values that do not fit in the header.
    fn all_records(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut records = self.records.clone();
        let given = |key: &str| self.records.iter().any(|(given, _)| given == key);
        for (key, value) in [("path", self.path_in_archive()), ("linkpath", self.target.clone())] {
            if value.len() > FIELD_BYTES && !self.gnu && !given(key) {
                records.push((key.to_owned(), value));
            }
        }
        if self.mtime.seconds < 0 || self.mtime.nanos > 0 {
            records.push(("mtime".to_owned(), print_time(self.mtime).into_bytes()));
        }
        for (name, value) in &self.xattrs {
            let name = String::from_utf8(name.clone()).map_err(|_| Error::invalid("the name of an attribute"))?;
            records.push((format!("{SCHILY_XATTR}{name}"), value.clone()));
        }
        Ok(records)
    }

    /// Returns the path as written in an archive: with a final slash for a directory.
    fn path_in_archive(&self) -> Vec<u8> {
        let slash: &[u8] = if self.kind == b'5' && !self.path.ends_with(b"/") { b"/" } else { b"" };
        [&self.path[..], slash].concat()
    }

    fn append(&self, archive: &mut tar::Builder<Vec<u8>>) -> Result<()> {
        let records = self.all_records()?;
        if !records.is_empty() {
            let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            archive.append_pax_extensions(records).at("write", "layer")?;
        }
        let (path, target) = (self.path_in_archive(), self.target.clone());
        for (kind, long) in [(b'L', &path), (b'K', &target)] {
            if self.gnu && long.len() > FIELD_BYTES {
                let header = header(kind, b"././@LongLink", long.len() as u64 + 1);
                archive.append(&sealed(header), &[&long[..], b"\0"].concat()[..]).at("write", "layer")?;
            }
        }
        let mut header = header(self.kind, &path, self.size.unwrap_or(self.content.len() as u64));
        header.set_mode(self.mode());
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(u64::try_from(self.mtime.seconds).unwrap_or(0));
        fill(&mut header.as_old_mut().linkname, &target);
        header
            .set_device_major(self.device.major)
            .and_then(|()| header.set_device_minor(self.device.minor))
            .at("write", "layer")?;
        archive.append(&sealed(header), &self.content[..]).at("write", "layer")
    }

    /// Returns the inode that the line describes in a tree.
    fn inode(&self) -> Result<Inode> {
        let id = |id: u64| u32::try_from(id).map_err(|_| Error::invalid("an owner"));
        let node = match self.kind {
            b'0' => Node::File { size: self.content.len() as u64 },
            b'2' => Node::Symlink { target: self.target.clone() },
            b'3' => Node::Char(self.device),
            b'4' => Node::Block(self.device),
            b'5' => Node::Dir,
            b'6' => Node::Fifo,
            other => return Err(wrong(&char::from(other).to_string())),
        };
        let content = (self.kind == b'0').then(|| Digest::of(&self.content));
        let (uid, gid) = (id(self.owner.0)?, id(self.owner.1)?);
        let meta = Meta { node, mode: self.mode(), uid, gid, mtime: self.mtime, xattrs: self.xattrs.clone() };
        Ok(Inode { meta, content })
    }

    fn print(&self) -> String {
        let kind = KINDS
            .iter()
            .find(|(byte, _)| *byte == self.kind)
            .map_or_else(|| format!("={}", char::from(self.kind)), |(_, letter)| (*letter).to_owned());
        let mut words = vec![kind, escape(&self.path)];
        if !self.target.is_empty() {
            words.extend(["->".to_owned(), escape(&self.target)]);
        }
        if self.kind == b'0' {
            words.push(format!("\"{}\"", escape(&self.content)));
        }
        words.extend(
            (self.device != Device::default()).then(|| format!("dev={}:{}", self.device.major, self.device.minor)),
        );
        let usual = Self { kind: self.kind, ..Self::default() }.mode();
        words.extend((self.mode() != usual).then(|| format!("{:o}", self.mode())));
        words.extend((self.owner != (0, 0)).then(|| format!("{}:{}", self.owner.0, self.owner.1)));
        words.extend((self.mtime != Timestamp::EPOCH).then(|| format!("@{}", print_time(self.mtime))));
        words.extend(self.xattrs.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))));
        words.join(" ")
    }
}

fn print_time(time: Timestamp) -> String {
    let (sign, whole, nanos) = if time.seconds < 0 && time.nanos > 0 {
        ("-", (time.seconds + 1).unsigned_abs(), NANOS_PER_SECOND - time.nanos)
    } else {
        (if time.seconds < 0 { "-" } else { "" }, time.seconds.unsigned_abs(), time.nanos)
    };
    format!("{sign}{whole}.{nanos:09}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn fill(field: &mut [u8], bytes: &[u8]) {
    field.iter_mut().zip(bytes).for_each(|(field, byte)| *field = *byte);
}

fn header(kind: u8, path: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    fill(&mut header.as_old_mut().name, path);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header
}

fn sealed(mut header: tar::Header) -> tar::Header {
    header.set_cksum();
    header
}

/// Returns an archive with these entries.
///
/// # Errors
/// `InvalidArgument` for an invalid line.
pub fn archive(lines: &[&str]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for line in lines {
        NotationEntry::parse(line)?.append(&mut archive)?;
    }
    archive.into_inner().at("write", "layer")
}

/// Returns a tree with these inodes; a root without a line gets the default attributes.
///
/// # Errors
/// `InvalidArgument` for an invalid line, or for an inode without a parent directory.
pub fn tree(lines: &[&str]) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut links = Vec::new();
    for line in lines {
        let entry = NotationEntry::parse(line)?;
        let path = path(&entry.path);
        if entry.kind == b'1' {
            links.push((path, self::path(&entry.target)));
        } else {
            tree.put(path, entry.inode()?)?;
        }
    }
    links.into_iter().try_for_each(|(path, target)| tree.link(path, target))?;
    Ok(tree)
}

fn path(bytes: &[u8]) -> PathBuf {
    let bytes = if bytes == b"." { b"" } else { bytes };
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// Returns the lines of an archive, read by the `tar` crate instead of strata's own reader. Whiteouts appear as files.
///
/// # Errors
/// `DataLoss` if the bytes are not an archive.
pub fn entries(archive: &[u8]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in tar::Archive::new(archive).entries().at("read", "layer")? {
        lines.push(read(&mut entry.at("read", "layer")?).at("read", "layer")?.print());
    }
    Ok(lines)
}

fn read(entry: &mut tar::Entry<'_, &[u8]>) -> std::io::Result<NotationEntry> {
    let header = entry.header();
    let path = entry.path_bytes();
    let clean = match path.strip_suffix(b"/").unwrap_or(&path) {
        b"." | b"" => b".",
        clean => clean,
    };
    let mut found = NotationEntry {
        kind: header.entry_type().as_byte(),
        path: clean.to_vec(),
        target: entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default(),
        mode: Some(header.mode()?),
        owner: (header.uid()?, header.gid()?),
        mtime: Timestamp { seconds: i64::try_from(header.mtime()?).unwrap_or(i64::MAX), nanos: 0 },
        device: Device { major: header.device_major()?.unwrap_or(0), minor: header.device_minor()?.unwrap_or(0) },
        ..NotationEntry::default()
    };
    if let Some(records) = entry.pax_extensions()? {
        for record in records {
            let record = record?;
            let key = String::from_utf8_lossy(record.key_bytes()).into_owned();
            if let Some(name) = key.strip_prefix(SCHILY_XATTR) {
                found.xattrs.insert(name.into(), record.value_bytes().to_vec());
            } else if key == "mtime" {
                found.mtime = time(&String::from_utf8_lossy(record.value_bytes()))?;
            }
        }
    }
    entry.read_to_end(&mut found.content)?;
    Ok(found)
}

/// Parses an edit: `write PATH "C"` (one character), `open`, `rewrite`, `touch`, `mkdir`, `rm PATH`, `symlink TARGET
/// PATH`, `mknod c PATH 1:3`, `mknod s PATH`, `ln`, `mv`, `exchange FROM TO`, `chmod MODE PATH`, `chown UID:GID MODE
/// PATH`, `setfattr NAME=VALUE PATH`, `rmfattr NAME PATH`.
///
/// # Errors
/// `InvalidArgument` for any other line.
pub fn edit(line: &str) -> Result<Edit> {
    let words: Vec<&str> = line.split(' ').collect();
    let at = |word: &str| bytes(word).map(|bytes| path(&bytes));
    let octal = |word: &str| u32::from_str_radix(word, 8).map_err(|_| wrong(line));
    Ok(match words[..] {
        ["write", path, content] => Edit::Write(at(path)?, character(content)?),
        ["open", path] => Edit::Open(at(path)?),
        ["rewrite", path] => Edit::Rewrite(at(path)?),
        ["touch", path] => Edit::Touch(at(path)?),
        ["mkdir", path] => Edit::MakeDir(at(path)?),
        ["rm", path] => Edit::Remove(at(path)?),
        ["symlink", target, path] => Edit::Symlink(at(path)?, bytes(target)?),
        ["mknod", "c", path, device] => {
            let (major, minor) = pair(device)?;
            Edit::MakeNode(at(path)?, FileType::Char, Device { major, minor })
        }
        ["mknod", "s", path] => Edit::MakeNode(at(path)?, FileType::Socket, Device::default()),
        ["ln", from, to] => Edit::Link { from: at(from)?, to: at(to)? },
        ["mv", from, to] => Edit::Rename { from: at(from)?, to: at(to)? },
        ["exchange", one, other] => Edit::Exchange(at(one)?, at(other)?),
        ["chmod", mode, path] => Edit::Chmod(at(path)?, octal(mode)?),
        ["chown", owner, mode, path] => {
            let (uid, gid) = pair(owner)?;
            Edit::Chown(at(path)?, uid, gid, octal(mode)?)
        }
        ["setfattr", attribute, path] => {
            let (name, value) = attribute.split_once('=').ok_or_else(|| wrong(line))?;
            Edit::SetXattr(at(path)?, bytes(name)?, bytes(value)?)
        }
        ["rmfattr", name, path] => Edit::RemoveXattr(at(path)?, bytes(name)?),
        _ => return Err(wrong(line)),
    })
}

/// Parses content of one character, which is stored as the seed that generates it.
fn character(word: &str) -> Result<FileContent> {
    let content = match bytes(word.trim_matches('"'))?[..] {
        [seed] => FileContent { seed, length: 1 },
        _ => return Err(wrong(word)),
    };
    // Seeds that generate zeros do not generate the character.
    if content.bytes() == [content.seed] { Ok(content) } else { Err(wrong(word)) }
}

/// Returns true if the archive has an entry whose name begins with `.wh.`.
///
/// # Errors
/// As for [`entries`].
pub fn has_whiteouts(archive: &[u8]) -> Result<bool> {
    let is_whiteout = |path: &Path| path.iter().any(|name| name.as_bytes().starts_with(b".wh."));
    for entry in tar::Archive::new(archive).entries().at("read", "layer")? {
        let entry = entry.at("read", "layer")?;
        if is_whiteout(&path(&entry.path_bytes())) {
            return Ok(true);
        }
    }
    Ok(false)
}
