//! File trees: node types, attributes, and names below a directory descriptor.
//!
//! Paths inside a tree are relative and clean: no leading `/`, no `.` or `..`; the root is the empty path. `Path`
//! orders them component by component, which is the canonical order of a change stream. Names are bytes.
//!
//! Invariant: no function here resolves more than one component of a tree's path at a time, and none follows a link
//! inside a tree.

mod attributes;
pub mod copy;
pub mod difference;
mod dir;
pub mod memory;
pub(crate) mod mount_points;
mod names;
pub mod partial;
pub(crate) mod resolve;
#[cfg(test)]
pub(crate) mod sample;
pub mod text;
pub mod walk;

#[cfg(feature = "lab")]
pub(crate) use attributes::NOT_MAPPED;
pub use dir::Dir;
pub use names::{IntoNames, Name, Names};

use std::collections::BTreeMap;
use std::fmt;

/// Permission bits, set-id bits and sticky bit of a mode.
pub const MODE_MASK: u32 = 0o7777;

/// Extended attributes by name, sorted.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Returns true if an extended attribute belongs to the tree, and not to the machine or the strategy that holds it.
///
/// Comparing, layers and tree text all use this list. Excluded are overlayfs's own state, SELinux labels (set by the
/// host's policy), NFSv4 ACLs (a view of the server's), btrfs properties (`btrfs.compression`, inherited from the
/// store's location), and the second names under which xfs lists POSIX ACLs.
pub fn xattr_is_portable(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 4] = [b"trusted.overlay.", b"user.overlay.", b"trusted.SGI_ACL_", b"btrfs."];
    const NAMES: [&[u8]; 2] = [b"security.selinux", b"system.nfs4_acl"];
    !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !NAMES.contains(&name)
}

/// A time as file systems store it: seconds since 1970, possibly negative, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since the epoch, rounded down.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z: the time of directories that no layer describes.
    pub const EPOCH: Self = Self { seconds: 0, nanos: 0 };
}

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Number of the driver: 12 bits on Linux.
    pub major: u32,
    /// Number of the driver's device: 20 bits on Linux.
    pub minor: u32,
}

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
}

impl FileType {
    /// Returns the letter that tree text and `ls -l` use.
    pub fn letter(self) -> char {
        match self {
            Self::File => 'f',
            Self::Dir => 'd',
            Self::Symlink => 'l',
            Self::Char => 'c',
            Self::Block => 'b',
            Self::Fifo => 'p',
            Self::Socket => 's',
        }
    }

    pub(crate) fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Dir,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFCHR => Self::Char,
            libc::S_IFBLK => Self::Block,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "regular file",
            Self::Dir => "directory",
            Self::Symlink => "symbolic link",
            Self::Char => "character device",
            Self::Block => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        })
    }
}

/// Type of an inode, with the data that belongs to the type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file of `size` bytes.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Target path, as any bytes.
        target: Vec<u8>,
    },
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
    /// A unix socket: part of trees and copies, never of a layer.
    Socket,
}

impl Node {
    /// Returns the type without its data.
    pub fn file_type(&self) -> FileType {
        match self {
            Self::File { .. } => FileType::File,
            Self::Dir => FileType::Dir,
            Self::Symlink { .. } => FileType::Symlink,
            Self::Char(_) => FileType::Char,
            Self::Block(_) => FileType::Block,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
        }
    }
}

/// Everything that a tree records about one inode, except the content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Type of the inode, with its data.
    pub node: Node,
    /// Permissions, set-id and sticky bits: [`MODE_MASK`].
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Time of the last modification of the content.
    pub mtime: Timestamp,
    /// Portable extended attributes ([`xattr_is_portable`]).
    pub xattrs: Xattrs,
}

impl Meta {
    /// Returns the attributes of a directory that no layer describes: 0755, owner 0:0, mtime 0.
    pub fn implied_dir() -> Self {
        Self { node: Node::Dir, mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::EPOCH, xattrs: Xattrs::new() }
    }
}

/// Result of `statx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Type of the inode.
    pub file_type: FileType,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes; meaningful for files and symbolic links.
    pub size: u64,
    /// Allocated space in bytes.
    pub allocated: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Change time.
    pub ctime: Timestamp,
    /// Device number, for device nodes.
    pub device: Device,
    /// Device of the file system.
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// Number of hard links.
    pub nlink: u32,
}
