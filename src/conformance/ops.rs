//! Operations on snapshots and on the trees in them, as values.
//!
//! The same values drive the model and every strategy. An edit works by names below an open directory, sets the times
//! of everything it touches to the script's time, and moves directories as `mv` does. So its result depends neither on
//! the clock nor on the strategy.

mod parse;

use std::fmt;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::tree::copy::{self, CloneMode};
use crate::tree::text::{escape, print_path};
use crate::tree::{Device, Dir, FileType, Timestamp, walk};

/// Name of the attribute that holds an access control list.
pub const ACL: &[u8] = b"system.posix_acl_access";

/// Returns an [`ACL`] value that gives these permissions to the owner, the user 1000, the group, the mask and all
/// others.
///
/// # References
/// Linux, `include/uapi/linux/posix_acl_xattr.h`: version 2, then entries of tag, permissions and id.
pub(super) fn access_list(permissions: [u16; 5]) -> Vec<u8> {
    const ENTRIES: [(u16, u32); 5] =
        [(0x01, u32::MAX), (0x02, 1000), (0x04, u32::MAX), (0x10, u32::MAX), (0x20, u32::MAX)];
    let mut value = 2u32.to_le_bytes().to_vec();
    for ((tag, id), bits) in ENTRIES.into_iter().zip(permissions) {
        value.extend(tag.to_le_bytes());
        value.extend(bits.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// One operation of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates an active snapshot.
    Prepare {
        /// Key of the snapshot.
        key: String,
        /// Name of the parent; empty without a parent.
        parent: String,
    },
    /// Creates a view.
    View {
        /// Key of the view.
        key: String,
        /// Name of the parent; empty without a parent.
        parent: String,
    },
    /// Commits an active snapshot.
    Commit {
        /// Name of the committed snapshot.
        name: String,
        /// Key of the active snapshot.
        key: String,
    },
    /// Removes a snapshot.
    Remove {
        /// Key or name of the snapshot.
        key: String,
    },
    /// Changes the tree of an active snapshot.
    Edit {
        /// Key of the snapshot.
        key: String,
        /// The change.
        edit: Edit,
        /// Time that every touched inode gets.
        time: Timestamp,
    },
}

/// File content that is generated from a seed, so that a script can name it briefly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileContent {
    /// Seed of the bytes.
    pub seed: u8,
    /// Number of bytes.
    pub length: u32,
}

impl FileContent {
    /// Returns the bytes. Every fourth seed gives zeros only, because holes and zeros must be treated alike.
    pub fn bytes(self) -> Vec<u8> {
        let step = if self.seed.is_multiple_of(4) { 0 } else { self.seed };
        (0..self.length).map(|at| (at as u8).wrapping_mul(step).wrapping_add(step)).collect()
    }
}

/// One change of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Creates a file, or replaces the content of an existing file.
    Write(PathBuf, FileContent),
    /// Appends bytes to a file.
    Append(PathBuf, FileContent),
    /// Truncates or extends a file.
    Truncate(PathBuf, u32),
    /// Opens a file for writing and closes it again: no change.
    Open(PathBuf),
    /// Writes a file's content over itself and restores the time: no change.
    Rewrite(PathBuf),
    /// Creates a directory.
    MakeDir(PathBuf),
    /// Creates a symbolic link.
    Symlink(PathBuf, Vec<u8>),
    /// Creates a device, fifo or socket.
    MakeNode(PathBuf, FileType, Device),
    /// Creates a hard link.
    Link {
        /// Existing name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
    },
    /// Removes a name and everything below it.
    Remove(PathBuf),
    /// Moves as `mv` does, replacing an existing target.
    Rename {
        /// Old path.
        from: PathBuf,
        /// New path.
        to: PathBuf,
    },
    /// Exchanges two names.
    Exchange(PathBuf, PathBuf),
    /// Sets the mode.
    Chmod(PathBuf, u32),
    /// Sets the owner, and then the mode again, because the kernel may clear mode bits when the owner changes.
    Chown(PathBuf, u32, u32, u32),
    /// Sets the modification time to the script's time.
    Touch(PathBuf),
    /// Sets an extended attribute.
    SetXattr(PathBuf, Vec<u8>, Vec<u8>),
    /// Removes an extended attribute.
    RemoveXattr(PathBuf, Vec<u8>),
}

impl Edit {
    /// Returns the paths that the edit names.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Write(path, _)
            | Self::Append(path, _)
            | Self::Truncate(path, _)
            | Self::Open(path)
            | Self::Rewrite(path)
            | Self::MakeDir(path)
            | Self::Symlink(path, _)
            | Self::MakeNode(path, ..)
            | Self::Remove(path)
            | Self::Chmod(path, _)
            | Self::Chown(path, ..)
            | Self::Touch(path)
            | Self::SetXattr(path, ..)
            | Self::RemoveXattr(path, _) => vec![path],
            Self::Link { from, to } | Self::Rename { from, to } | Self::Exchange(from, to) => vec![from, to],
        }
    }
}

/// Prints one line of a script; [`Op::from_str`](std::str::FromStr) parses it.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &str| word(name.as_bytes());
        match self {
            Self::Prepare { key, parent } => write!(f, "prepare {} {}", shown(key), shown(parent)),
            Self::View { key, parent } => write!(f, "view {} {}", shown(key), shown(parent)),
            Self::Commit { name, key } => write!(f, "commit {} {}", shown(name), shown(key)),
            Self::Remove { key } => write!(f, "rm {}", shown(key)),
            Self::Edit { key, edit, time } => {
                write!(f, "in {} at {}.{:09}: {edit}", shown(key), time.seconds, time.nanos)
            }
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = print_path;
        match self {
            Self::Write(path, content) => write!(f, "write {} {} bytes of {}", p(path), content.length, content.seed),
            Self::Append(path, content) => {
                write!(f, "append {} {} bytes of {}", p(path), content.length, content.seed)
            }
            Self::Truncate(path, size) => write!(f, "truncate {} {size}", p(path)),
            Self::Open(path) => write!(f, "open {} for writing", p(path)),
            Self::Rewrite(path) => write!(f, "rewrite {}", p(path)),
            Self::MakeDir(path) => write!(f, "mkdir {}", p(path)),
            Self::Symlink(path, target) => write!(f, "ln -s {} {}", word(target), p(path)),
            Self::MakeNode(path, file_type, device) => {
                write!(f, "mknod {} {} {}:{}", p(path), file_type.letter(), device.major, device.minor)
            }
            Self::Link { from, to } => write!(f, "ln {} {}", p(from), p(to)),
            Self::Remove(path) => write!(f, "rm -r {}", p(path)),
            Self::Rename { from, to } => write!(f, "mv {} {}", p(from), p(to)),
            Self::Exchange(a, b) => write!(f, "exchange {} {}", p(a), p(b)),
            Self::Chmod(path, mode) => write!(f, "chmod {mode:o} {}", p(path)),
            Self::Chown(path, uid, gid, mode) => write!(f, "chown {uid}:{gid} {} (mode {mode:o})", p(path)),
            Self::Touch(path) => write!(f, "touch {}", p(path)),
            Self::SetXattr(path, name, value) => {
                write!(f, "setfattr {} {} {}", word(name), word(value), p(path))
            }
            Self::RemoveXattr(path, name) => write!(f, "setfattr -x {} {}", word(name), p(path)),
        }
    }
}

/// Printed for an empty string.
const NOTHING: &str = "-";

fn word(bytes: &[u8]) -> String {
    match bytes {
        b"" => NOTHING.to_owned(),
        b"-" => r"\x2d".to_owned(),
        bytes => escape(bytes),
    }
}

/// Target of an edit: an open parent directory and the last name of the path.
struct EditTarget {
    dir: Dir,
    name: std::ffi::OsString,
}

impl EditTarget {
    /// Walks from `root` to the parent directory of `path`, through directories only.
    fn find(root: &Dir, path: &Path) -> Result<Self> {
        let name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
        let mut dir = root.try_clone()?;
        for component in path.parent().into_iter().flat_map(Path::iter) {
            dir = dir.open_dir(component)?;
        }
        Ok(Self { dir, name })
    }

    /// Sets the owner 0:0 on a new inode, because a set-group-id directory gives it another group, and then sets the
    /// mode.
    fn own(&self, mode: Option<u32>) -> Result<()> {
        self.dir.set_owner(&self.name, 0, 0)?;
        mode.map_or(Ok(()), |mode| self.dir.set_mode(&self.name, mode))
    }

    fn stamp(&self, time: Timestamp) -> Result<()> {
        self.dir.set_mtime(&self.name, time)
    }

    fn stamp_parent(&self, time: Timestamp) -> Result<()> {
        self.dir.set_mtime("", time)
    }

    fn stamp_both(&self, time: Timestamp) -> Result<()> {
        self.stamp(time)?;
        self.stamp_parent(time)
    }
}

/// Performs `edit` on the tree at `root`.
///
/// # Errors
/// Errors of the system calls. The model rejects impossible edits beforehand, so any error is a finding.
pub fn perform(root: &Dir, edit: &Edit, time: Timestamp) -> Result<()> {
    let place = EditTarget::find(root, edit.paths()[0])?;
    match edit {
        Edit::Write(..) | Edit::Append(..) | Edit::Truncate(..) | Edit::Open(_) | Edit::Rewrite(_) => {
            edit_content(&place, edit, time)
        }
        Edit::Chmod(..) | Edit::Chown(..) | Edit::Touch(_) | Edit::SetXattr(..) | Edit::RemoveXattr(..) => {
            edit_attributes(&place, edit, time)
        }
        Edit::Link { to, .. } | Edit::Rename { to, .. } | Edit::Exchange(_, to) => {
            edit_two_names(&place, &EditTarget::find(root, to)?, edit, time)
        }
        Edit::MakeDir(_) | Edit::Symlink(..) | Edit::MakeNode(..) | Edit::Remove(_) => edit_name(&place, edit, time),
    }
}

fn edit_content(place: &EditTarget, edit: &Edit, time: Timestamp) -> Result<()> {
    let shown = || place.dir.shown_at(&place.name);
    match edit {
        Edit::Write(_, content) => return write(place, *content, time),
        Edit::Append(_, content) => {
            let mut file = open_for_writing(place)?;
            file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(&content.bytes())).at("append to", shown())?;
        }
        Edit::Truncate(_, size) => open_for_writing(place)?.set_len((*size).into()).at("truncate", shown())?,
        Edit::Rewrite(_) => return rewrite(place),
        _ => return open_for_writing(place).map(drop),
    }
    place.stamp(time)
}

fn edit_attributes(place: &EditTarget, edit: &Edit, time: Timestamp) -> Result<()> {
    let EditTarget { dir, name } = place;
    match edit {
        Edit::Chmod(_, mode) => dir.set_mode(name, *mode),
        Edit::Chown(_, uid, gid, mode) => {
            let link = dir.stat(name)?.file_type == FileType::Symlink;
            dir.set_owner(name, *uid, *gid)?;
            if link { Ok(()) } else { dir.set_mode(name, *mode) }
        }
        Edit::SetXattr(_, attribute, value) => dir.set_xattr(name, attribute, value),
        Edit::RemoveXattr(_, attribute) => {
            let mut xattrs = dir.xattrs(name)?;
            xattrs.remove(attribute);
            dir.set_xattrs(name, &xattrs)
        }
        _ => place.stamp(time),
    }
}

fn edit_two_names(from: &EditTarget, to: &EditTarget, edit: &Edit, time: Timestamp) -> Result<()> {
    match edit {
        Edit::Link { .. } => {
            to.dir.make_link(&from.dir, &from.name, &to.name)?;
            to.stamp_parent(time)
        }
        Edit::Rename { .. } => {
            move_over(from, to)?;
            from.stamp_parent(time)?;
            to.stamp_parent(time)
        }
        _ => {
            exchange(from, to)?;
            // xfs sets the mtime of an exchanged directory, because it rewrites the directory's `..`.
            from.stamp_both(time)?;
            to.stamp_both(time)
        }
    }
}

fn edit_name(place: &EditTarget, edit: &Edit, time: Timestamp) -> Result<()> {
    let EditTarget { dir, name } = place;
    let mode = match edit {
        Edit::MakeDir(_) => dir.make_dir(name).map(|()| Some(0o755))?,
        Edit::Symlink(_, target) => dir.make_symlink(target, name).map(|()| None)?,
        Edit::MakeNode(_, file_type, device) => dir.make_node(*file_type, *device, name).map(|()| Some(0o640))?,
        _ => {
            walk::remove_all(dir, name)?;
            return place.stamp_parent(time);
        }
    };
    place.own(mode)?;
    place.stamp_both(time)
}

fn open_for_writing(place: &EditTarget) -> Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&place.dir, &place.name, flags, Mode::empty())
        .map(Into::into)
        .at("open for writing", place.dir.shown_at(&place.name))
}

fn write(place: &EditTarget, content: FileContent, time: Timestamp) -> Result<()> {
    let found = place.dir.stat_if_any(&place.name)?.is_some();
    let mut file = if found { open_for_writing(place)? } else { place.dir.create_file(&place.name)? };
    let shown = place.dir.shown_at(&place.name);
    file.set_len(0).and_then(|()| file.write_all(&content.bytes())).at("write", shown)?;
    if found {
        return place.stamp(time);
    }
    place.own(Some(0o644))?;
    place.stamp_both(time)
}

fn rewrite(place: &EditTarget) -> Result<()> {
    use std::io::Read as _;
    let shown = place.dir.shown_at(&place.name);
    let before = place.dir.stat(&place.name)?;
    let mut file = open_for_writing(place)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .and_then(|_| file.rewind())
        .and_then(|()| file.write_all(&bytes))
        .at("rewrite", shown)?;
    place.dir.set_mode(&place.name, before.mode)?;
    place.stamp(before.mtime)
}

/// Renames; if the file system refuses to rename a directory, copies and removes it as `mv` does. The directory's mtime
/// is restored: overlayfs renames to a name that exists in a lower layer by exchanging with the whiteout, and xfs
/// counts that as a change of the directory.
fn move_over(from: &EditTarget, to: &EditTarget) -> Result<()> {
    let before = from.dir.stat(&from.name)?;
    let directory = before.file_type == FileType::Dir;
    if to.dir.stat_if_any(&to.name)?.is_some_and(|stat| directory || stat.file_type == FileType::Dir) {
        walk::remove_all(&to.dir, &to.name)?;
    }
    match rustix::fs::renameat(&from.dir, &from.name, &to.dir, &to.name) {
        Err(Errno::XDEV) if directory => {}
        Ok(()) if directory => return to.dir.open_dir(&to.name)?.set_mtime("", before.mtime),
        moved => return moved.at("rename", from.dir.shown_at(&from.name)),
    }
    to.dir.make_dir(&to.name)?;
    copy_dir(&from.dir.open_dir(&from.name)?, &to.dir.open_dir(&to.name)?)?;
    walk::remove_all(&from.dir, &from.name)
}

fn copy_dir(from: &Dir, to: &Dir) -> Result<()> {
    copy::copy(from, to, copy::Options::new(CloneMode::Auto)).map(drop)
}

/// Exchanges with `RENAME_EXCHANGE`, or with three renames if the file system does not support that.
fn exchange(a: &EditTarget, b: &EditTarget) -> Result<()> {
    match rustix::fs::renameat_with(&a.dir, &a.name, &b.dir, &b.name, RenameFlags::EXCHANGE) {
        Err(Errno::XDEV | Errno::INVAL) => {}
        done => return done.at("exchange", a.dir.shown_at(&a.name)),
    }
    let aside = EditTarget { dir: a.dir.try_clone()?, name: "exchange.tmp".into() };
    if aside.dir.stat_if_any(&aside.name)?.is_some() {
        return Err(Error::already_exists("exchange.tmp"));
    }
    move_over(a, &aside)?;
    move_over(b, a)?;
    move_over(&aside, b)
}
