//! Operations as values: what a script does to snapshots and to the trees in them.
//!
//! The same values drive the model and every strategy. An edit is done by name beneath an open directory, sets the
//! times of all that it touches from the script, and moves directories as `mv` does, so that its result depends on
//! neither the clock nor the strategy.

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

/// The attribute that holds an access control list.
pub const ACL: &[u8] = b"system.posix_acl_access";

/// The value of [`ACL`] that gives these permissions to the owner, the user 1000, the group, the mask and all others.
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

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes an active snapshot.
    Prepare {
        /// Its key.
        key: String,
        /// Its parent, or nothing.
        parent: String,
    },
    /// Makes a view.
    View {
        /// Its key.
        key: String,
        /// Its parent, or nothing.
        parent: String,
    },
    /// Commits an active snapshot.
    Commit {
        /// Its new name.
        name: String,
        /// Its key.
        key: String,
    },
    /// Removes a snapshot.
    Remove {
        /// Its key or name.
        key: String,
    },
    /// Changes the tree of an active snapshot.
    Edit {
        /// Its key.
        key: String,
        /// How.
        edit: Edit,
        /// The time that everything it touches gets.
        time: Timestamp,
    },
}

/// Bytes that are cheap to name: a function of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which bytes.
    pub seed: u8,
    /// How many.
    pub length: u32,
}

impl Content {
    /// The bytes. Every fourth seed is all zeros: holes and data must not be told apart.
    pub fn bytes(self) -> Vec<u8> {
        let step = if self.seed.is_multiple_of(4) { 0 } else { self.seed };
        (0..self.length).map(|at| (at as u8).wrapping_mul(step).wrapping_add(step)).collect()
    }
}

/// One change of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Makes a file, or replaces the bytes of the one that is there.
    Write(PathBuf, Content),
    /// Adds bytes to the end of a file.
    Append(PathBuf, Content),
    /// Cuts or extends a file.
    Truncate(PathBuf, u32),
    /// Opens a file for writing and closes it again: no change.
    Open(PathBuf),
    /// Writes a file's own bytes over it and gives its time back: no change.
    Rewrite(PathBuf),
    /// Makes a directory.
    MakeDir(PathBuf),
    /// Makes a symbolic link.
    Symlink(PathBuf, Vec<u8>),
    /// Makes a device, fifo or socket.
    MakeNode(PathBuf, FileType, Device),
    /// Gives an inode another name.
    Link {
        /// Its name so far.
        from: PathBuf,
        /// The new one.
        to: PathBuf,
    },
    /// Removes a name and all below it.
    Remove(PathBuf),
    /// Moves, as mv does: what is at the target goes.
    Rename {
        /// From where.
        from: PathBuf,
        /// To where.
        to: PathBuf,
    },
    /// Two names change places.
    Exchange(PathBuf, PathBuf),
    /// Sets the mode.
    Chmod(PathBuf, u32),
    /// Sets the owner, and the mode again, which the kernel may have cut.
    Chown(PathBuf, u32, u32, u32),
    /// Sets the time, to the script's.
    Touch(PathBuf),
    /// Sets an extended attribute.
    SetXattr(PathBuf, Vec<u8>, Vec<u8>),
    /// Removes an extended attribute.
    RemoveXattr(PathBuf, Vec<u8>),
}

impl Edit {
    /// The paths that it names.
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

/// One line of a script; [`Op::from_str`](std::str::FromStr) reads it.
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

/// Stands for no bytes at all.
const NOTHING: &str = "-";

fn word(bytes: &[u8]) -> String {
    match bytes {
        b"" => NOTHING.to_owned(),
        b"-" => r"\x2d".to_owned(),
        bytes => escape(bytes),
    }
}

/// Where a path ends: the directory that holds its last name.
struct Place {
    dir: Dir,
    name: std::ffi::OsString,
}

impl Place {
    /// Walks from `root` through directories only.
    fn find(root: &Dir, path: &Path) -> Result<Self> {
        let name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
        let mut dir = root.try_clone()?;
        for component in path.parent().into_iter().flat_map(Path::iter) {
            dir = dir.open_dir(component)?;
        }
        Ok(Self { dir, name })
    }

    /// Gives what was just made the owner 0:0, whatever a set-group-id directory gave it, and its mode.
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

/// Does `edit` to the tree at `root`.
///
/// # Errors
/// What the system calls report: a script makes only edits that its model says are possible.
pub fn perform(root: &Dir, edit: &Edit, time: Timestamp) -> Result<()> {
    let paths = edit.paths();
    let place = Place::find(root, paths[0])?;
    match edit {
        Edit::Write(_, content) => write(&place, *content, time),
        Edit::Append(_, content) => {
            let mut file = open_for_writing(&place)?;
            file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(&content.bytes())).at("append to", paths[0])?;
            place.stamp(time)
        }
        Edit::Truncate(_, size) => {
            open_for_writing(&place)?.set_len((*size).into()).at("truncate", paths[0])?;
            place.stamp(time)
        }
        Edit::Open(_) => open_for_writing(&place).map(drop),
        Edit::Rewrite(_) => rewrite(&place),
        Edit::MakeDir(_) => {
            place.dir.make_dir(&place.name)?;
            place.own(Some(0o755))?;
            place.stamp_both(time)
        }
        Edit::Symlink(_, target) => {
            place.dir.make_symlink(target, &place.name)?;
            place.own(None)?;
            place.stamp_both(time)
        }
        Edit::MakeNode(_, file_type, device) => {
            place.dir.make_node(*file_type, *device, &place.name)?;
            place.own(Some(0o640))?;
            place.stamp_both(time)
        }
        Edit::Link { to, .. } => {
            let to = Place::find(root, to)?;
            to.dir.make_link(&place.dir, &place.name, &to.name)?;
            to.stamp_parent(time)
        }
        Edit::Remove(_) => {
            walk::remove_all(&place.dir, &place.name)?;
            place.stamp_parent(time)
        }
        Edit::Rename { to, .. } => {
            let to = Place::find(root, to)?;
            move_over(&place, &to)?;
            place.stamp_parent(time)?;
            to.stamp_parent(time)
        }
        Edit::Exchange(_, with) => {
            let with = Place::find(root, with)?;
            exchange(&place, &with)?;
            // xfs gives a directory that is exchanged a new mtime, since its `..` is written.
            place.stamp_both(time)?;
            with.stamp_both(time)
        }
        Edit::Chmod(_, mode) => place.dir.set_mode(&place.name, *mode),
        Edit::Chown(_, uid, gid, mode) => {
            let link = place.dir.stat(&place.name)?.file_type == FileType::Symlink;
            place.dir.set_owner(&place.name, *uid, *gid)?;
            if link { Ok(()) } else { place.dir.set_mode(&place.name, *mode) }
        }
        Edit::Touch(_) => place.stamp(time),
        Edit::SetXattr(_, name, value) => place.dir.set_xattr(&place.name, name, value),
        Edit::RemoveXattr(_, name) => {
            let mut xattrs = place.dir.xattrs(&place.name)?;
            xattrs.remove(name);
            place.dir.set_xattrs(&place.name, &xattrs)
        }
    }
}

fn open_for_writing(place: &Place) -> Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&place.dir, &place.name, flags, Mode::empty())
        .map(Into::into)
        .at("open for writing", place.dir.shown_at(&place.name))
}

fn write(place: &Place, content: Content, time: Timestamp) -> Result<()> {
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

fn rewrite(place: &Place) -> Result<()> {
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

/// `rename`, and where the file system will not move a directory, a copy, as mv makes it. A directory keeps its mtime:
/// overlayfs moves one to a name that a lower has by exchanging it with the whiteout, which xfs takes for a change of
/// it.
fn move_over(from: &Place, to: &Place) -> Result<()> {
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

/// `RENAME_EXCHANGE`, and where the file system will not, three moves.
fn exchange(a: &Place, b: &Place) -> Result<()> {
    match rustix::fs::renameat_with(&a.dir, &a.name, &b.dir, &b.name, RenameFlags::EXCHANGE) {
        Err(Errno::XDEV | Errno::INVAL) => {}
        done => return done.at("exchange", a.dir.shown_at(&a.name)),
    }
    let aside = Place { dir: a.dir.try_clone()?, name: "exchange.tmp".into() };
    if aside.dir.stat_if_any(&aside.name)?.is_some() {
        return Err(Error::already_exists("exchange.tmp"));
    }
    move_over(a, &aside)?;
    move_over(b, a)?;
    move_over(&aside, b)
}
