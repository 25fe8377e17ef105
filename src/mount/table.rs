//! Which mounts of the caller's mount namespace use a directory.
//!
//! One read of `mountinfo` answers for any number of mounts; asking for each by `statmount(2)` was measured slower.
//!
//! Invariant: the table is that of the calling thread (`/proc/thread-self`), which may have a namespace of its own.
//!
//! # References
//! `proc_pid_mountinfo(5)`; kernel: `fs/proc_namespace.c`, `ovl_show_options` (how overlayfs shows its directories).

mod text;

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};

/// What the kernel puts behind the root of a mount whose directory was removed.
const DELETED: &[u8] = b"//deleted";

/// One mount of the namespace.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// Its number; another mount may get it later.
    id: u64,
    /// The device of its file system, `major:minor`. All subvolumes of a btrfs have the same here.
    device: &'a [u8],
    /// What of its file system it shows, as a path in that; `None` if that directory was removed.
    root: Option<PathBuf>,
    /// Where it is mounted, as seen from the caller's root directory.
    point: PathBuf,
    /// The type of its file system.
    fstype: &'a [u8],
    /// The options of its file system as they are in the table.
    options: &'a [u8],
}

/// The mount points, each once and sorted, of the mounts that use the directory `dir`: that show it or something below
/// it elsewhere, that are mounted on it or below, and overlays of which it is or contains an upper, work or lower
/// directory. A directory that does not exist has no users.
///
/// Mounts in other namespaces are not seen, nor are layers that an overlay was given by a path relative to its
/// mounter's working directory.
///
/// # Errors
/// What the system calls report.
pub fn users_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let Some(used) = Used::find(dir)? else { return Ok(Vec::new()) };
    let table = text::read()?;
    let entries: Vec<_> = table.split(|byte| *byte == b'\n').filter_map(parse).collect();
    // The path of `dir` within its file system. A detached mount is in no table.
    let below = entries.iter().find(|entry| entry.id == used.mount_id).and_then(|holder| {
        let rest = used.path.strip_prefix(&holder.point).ok()?;
        Some((holder.device, holder.root.as_ref()?.join(rest)))
    });
    let is_shown = |entry: &Entry<'_>| {
        let Some((device, path)) = &below else { return false };
        entry.device == *device && entry.root.as_ref().is_some_and(|root| root.starts_with(path))
    };
    let mut users: Vec<_> = entries
        .iter()
        .filter(|entry| is_shown(entry) || entry.point.starts_with(&used.path) || used.is_layer_of(entry))
        .map(|entry| entry.point.clone())
        .collect();
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

/// The options of the file system that `dir` lies on, as the kernel shows them; `None` for a detached mount.
///
/// # Errors
/// What the system calls report.
pub fn options_of(dir: &Path) -> Result<Option<String>> {
    let Some(used) = Used::find(dir)? else { return Ok(None) };
    let table = text::read()?;
    let mut entries = table.split(|byte| *byte == b'\n').filter_map(parse);
    let holder = entries.find(|entry| entry.id == used.mount_id);
    Ok(holder.map(|entry| String::from_utf8_lossy(entry.options).into_owned()))
}

/// A directory that somebody may use.
struct Used {
    /// Its path from the caller's root directory, without links.
    path: PathBuf,
    mount_id: u64,
    identity: (u32, u32, u64),
}

impl Used {
    fn find(dir: &Path) -> Result<Option<Self>> {
        let fd = match rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            fd => fd.at("open", dir)?,
        };
        let stat =
            rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID).at("stat", dir)?;
        let link = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
        let path = rustix::fs::readlink(&link, Vec::new()).at("resolve", dir)?;
        let identity = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
        Ok(Some(Self { path: OsString::from_vec(path.into_bytes()).into(), mount_id: stat.stx_mnt_id, identity }))
    }

    /// Whether `entry` is an overlay with a directory in or below this one.
    fn is_layer_of(&self, entry: &Entry<'_>) -> bool {
        entry.fstype == b"overlay" && layers(entry.options).any(|layer| self.holds(&layer))
    }

    /// Whether `path` is this directory or below it. Another spelling of it, through a link or a bind, ends alike.
    fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.path)
            || path.is_absolute()
                && path.ancestors().any(|part| part.file_name() == self.path.file_name() && self.is_at(part))
    }

    fn is_at(&self, path: &Path) -> bool {
        rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::INO)
            .is_ok_and(|stat| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino) == self.identity)
    }
}

/// Reads one line of `mountinfo`; `None` for an empty one, or one of a form that no kernel writes.
///
/// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/root rw,errors=continue`
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = fields.next()?;
    let root = unescape(fields.next()?);
    let point = path(unescape(fields.next()?));
    fields.find(|field| *field == b"-")?;
    let fstype = fields.next()?;
    let _source = fields.next()?;
    let options = fields.next()?;
    let root = (!root.ends_with(DELETED)).then(|| path(root));
    Some(Entry { id, device, root, point, fstype, options })
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// The directories of an overlay, by its options.
fn layers(options: &[u8]) -> impl Iterator<Item = PathBuf> {
    options.split(|byte| *byte == b',').flat_map(|option| {
        let Some(at) = option.iter().position(|byte| *byte == b'=') else { return Vec::new() };
        let value = unescape(&option[at + 1..]);
        match &option[..at] {
            b"upperdir" | b"workdir" | b"lowerdir+" | b"datadir+" => vec![path(value)],
            b"lowerdir" => split_layers(&value),
            _ => Vec::new(),
        }
    })
}

/// The parts of `lowerdir=a:b`, in which a backslash stands before a colon or backslash of a name.
fn split_layers(list: &[u8]) -> Vec<PathBuf> {
    let mut parts = vec![Vec::new()];
    let mut bytes = list.iter();
    while let Some(byte) = bytes.next() {
        match (byte, parts.last_mut()) {
            (b'\\', Some(part)) => part.extend(bytes.next()),
            (b':', _) | (_, None) => parts.push(Vec::new()),
            (byte, Some(part)) => part.push(*byte),
        }
    }
    parts.into_iter().filter(|part| !part.is_empty()).map(path).collect()
}

/// Undoes the octal escapes of the table: a backslash and three digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => plain.push(*first),
        }
    }
    plain
}

#[cfg(test)]
mod tests;
