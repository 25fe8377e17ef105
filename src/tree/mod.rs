//! What a file tree is: node types, attributes, names beneath a directory descriptor.
//!
//! Paths inside a tree are relative and clean: no leading `/`, no `.` or `..`, the root is the empty path. `Path`
//! orders them component by component, which is the canonical order of a change stream. Names are bytes.
//!
//! Invariant: no function here resolves more than one component of a tree's path at a time, and none follows a link
//! that stands in a tree.

pub mod copy;
pub mod difference;
mod dir;
pub mod memory;
#[cfg(test)]
pub(crate) mod sample;
pub mod text;
pub mod walk;

#[cfg(feature = "lab")]
pub(crate) use dir::NOT_MAPPED;
pub use dir::{Dir, Name};

use std::collections::BTreeMap;
use std::fmt;

/// The permission bits, set-id bits and sticky bit of a mode.
pub const MODE_MASK: u32 = 0o7777;

/// Extended attributes by name, sorted.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether an extended attribute belongs to the tree, and not to the machine or the strategy that holds it.
///
/// One list for comparing, for layers and for tree text. What does not travel: overlayfs's own state, SELinux labels
/// (set by the host's policy), NFSv4 ACLs (a view of the server's), btrfs's properties (`btrfs.compression`, inherited
/// from where the store lies), and the second names under which xfs lists POSIX ACLs.
pub fn xattr_is_portable(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 4] = [b"trusted.overlay.", b"user.overlay.", b"trusted.SGI_ACL_", b"btrfs."];
    const NAMES: [&[u8]; 2] = [b"security.selinux", b"system.nfs4_acl"];
    !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !NAMES.contains(&name)
}

/// A moment as file systems keep it: seconds since 1970, which may be negative, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since the epoch, rounded down.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z: the time of what nobody described.
    pub const EPOCH: Self = Self { seconds: 0, nanos: 0 };
}

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Which driver: 12 bits on Linux.
    pub major: u32,
    /// Which of the driver's devices: 20 bits on Linux.
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
    /// The letter of tree text and of `ls -l`.
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

/// What an inode is, apart from its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file of `size` bytes.
    File {
        /// Its length in bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points, any bytes.
        target: Vec<u8>,
    },
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
    /// A unix socket: kept in trees and copies, never in a layer.
    Socket,
}

impl Node {
    /// Its type alone.
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

/// Everything a tree says of one inode, except the bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Type and what goes with it.
    pub node: Node,
    /// Permissions, set-id and sticky bits: [`MODE_MASK`].
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// When its content changed last.
    pub mtime: Timestamp,
    /// Portable extended attributes ([`xattr_is_portable`]).
    pub xattrs: Xattrs,
}

impl Meta {
    /// A directory that nobody described: 0755, owner 0:0, mtime 0.
    pub fn implied_dir() -> Self {
        Self { node: Node::Dir, mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::EPOCH, xattrs: Xattrs::new() }
    }
}

/// What `statx` says of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its type.
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
    /// The device it is, for device nodes.
    pub device: Device,
    /// The file system it lies on.
    pub dev: (u32, u32),
    /// Its inode number.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u32,
}
