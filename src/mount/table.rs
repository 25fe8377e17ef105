//! Finds the mounts of the caller's mount namespace that use a directory.
//!
//! One read of `mountinfo` answers for any number of mounts; calling `statmount(2)` for each was measured slower.
//!
//! Invariant: the table is that of the calling thread (`/proc/thread-self`), which may have a mount namespace of its
//! own.
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

/// Suffix that the kernel appends to the root of a mount whose directory was removed.
const DELETED: &[u8] = b"//deleted";

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
struct MountEntry<'a> {
    /// ID of the mount; the kernel may give it to another mount after an unmount.
    id: u64,
    /// Device of the file system, `major:minor`. All subvolumes of a btrfs have the same device here.
    device: &'a [u8],
    /// Path, within the file system, of the directory that the mount shows; `None` if that directory was removed.
    root: Option<PathBuf>,
    /// Mount point, as seen from the caller's root directory.
    point: PathBuf,
    /// Type of the file system.
    fstype: &'a [u8],
    /// Options of the file system as written in the table.
    options: &'a [u8],
}

/// Returns the mount points of all mounts that use the directory `dir`, sorted and without duplicates. A mount uses
/// `dir` if it shows `dir` or a directory below it elsewhere, if its mount point is `dir` or below it, or if it is an
/// overlay with an upper, work or lower directory that is `dir` or below it. A directory that does not exist has no
/// users.
///
/// Not found are mounts in other namespaces, and overlays whose layers were given as paths relative to the working
/// directory of the mounting process.
///
/// # Errors
/// Errors of the system calls.
pub fn users_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let Some(used) = UsedDir::find(dir)? else { return Ok(Vec::new()) };
    let table = text::read()?;
    let entries: Vec<_> = table.split(|byte| *byte == b'\n').filter_map(parse).collect();
    // Path of `dir` within its file system. A detached mount is not in the table.
    let below = entries.iter().find(|entry| entry.id == used.mount_id).and_then(|holder| {
        let rest = used.path.strip_prefix(&holder.point).ok()?;
        Some((holder.device, holder.root.as_ref()?.join(rest)))
    });
    let is_shown = |entry: &MountEntry<'_>| {
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

/// Returns the options of the file system that holds `dir`, as the kernel shows them; `None` for a detached mount.
///
/// # Errors
/// Errors of the system calls.
pub fn options_of(dir: &Path) -> Result<Option<String>> {
    let Some(used) = UsedDir::find(dir)? else { return Ok(None) };
    let table = text::read()?;
    let mut entries = table.split(|byte| *byte == b'\n').filter_map(parse);
    let holder = entries.find(|entry| entry.id == used.mount_id);
    Ok(holder.map(|entry| String::from_utf8_lossy(entry.options).into_owned()))
}

/// A directory whose users are looked for.
struct UsedDir {
    /// Path from the caller's root directory, without links.
    path: PathBuf,
    mount_id: u64,
    identity: (u32, u32, u64),
}

impl UsedDir {
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

    /// Returns true if `entry` is an overlay with a directory that is this one or below it.
    fn is_layer_of(&self, entry: &MountEntry<'_>) -> bool {
        entry.fstype == b"overlay" && layers(entry.options).any(|layer| self.holds(&layer))
    }

    /// Returns true if `path` is this directory or below it. A different path to the directory, through a link or a
    /// bind mount, is recognised by its last component and its inode.
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

/// Parses one line of `mountinfo`; returns `None` for an empty line or an unknown form.
///
/// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/root rw,errors=continue`
fn parse(line: &[u8]) -> Option<MountEntry<'_>> {
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
    Some(MountEntry { id, device, root, point, fstype, options })
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Returns the directories of an overlay from its options.
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

/// Splits `lowerdir=a:b`, where a backslash escapes a colon or a backslash in a name.
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

/// Decodes the octal escapes of the table: a backslash and three digits.
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
