//! The ioctls of btrfs: subvolumes, snapshots, and the search in its trees.
//!
//! Every function takes descriptors and returns values. Buffers filled by the kernel are parsed with checked bounds;
//! data that does not parse is `EPROTO`. Items are little-endian as on disk, search headers are native.
//!
//! Invariant: no path of more than one component is ever resolved. A directory inside a subvolume is opened by its
//! inode number ([`open_dir`]), so neither its depth nor a link on the way matters.
//!
//! # References
//! `linux/btrfs.h`, `linux/btrfs_tree.h`; `ioctl-btrfs(2)`. `GET_SUBVOL_INFO` needs Linux 4.18, `SNAP_DESTROY_V2` 5.7.

use std::ffi::{CStr, OsStr, OsString, c_char};
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use linux_raw_sys::btrfs as raw;
use linux_raw_sys::ioctl as op;
use rustix::io::Errno;
use rustix::ioctl::{Getter, Setter, Updater, ioctl};

use super::check;

/// Inode number of the root directory of every subvolume: the first inode number that a file can have.
pub(crate) const ROOT_INODE: u64 = raw::BTRFS_FIRST_FREE_OBJECTID as u64;
/// Last inode number that a file can have; larger numbers belong to the file system's own objects.
pub(crate) const LAST_INODE: u64 = raw::BTRFS_LAST_FREE_OBJECTID as i64 as u64;
/// Number of the tree that lists all trees.
const ROOT_TREE: u64 = raw::BTRFS_ROOT_TREE_OBJECTID as u64;
/// Type of the item that holds the attributes of an inode.
pub(crate) const INODE_ITEM: u8 = raw::BTRFS_INODE_ITEM_KEY as u8;
/// Type of the item that says where a part of a file lies.
pub(crate) const EXTENT_DATA: u8 = raw::BTRFS_EXTENT_DATA_KEY as u8;
/// Type of the item that holds the names of an inode in the directory that its key names.
pub(crate) const INODE_REF: u8 = raw::BTRFS_INODE_REF_KEY as u8;
/// Type of the item for names that do not fit in [`INODE_REF`].
pub(crate) const INODE_EXTREF: u8 = raw::BTRFS_INODE_EXTREF_KEY as u8;
/// Type of the item for a name in a directory, in order of creation.
pub(crate) const DIR_INDEX: u8 = raw::BTRFS_DIR_INDEX_KEY as u8;
/// Type of the item that describes a tree.
const ROOT_ITEM: u8 = raw::BTRFS_ROOT_ITEM_KEY as u8;
/// Type of the item by which a subvolume refers to a subvolume inside it.
const ROOT_REF: u8 = raw::BTRFS_ROOT_REF_KEY as u8;

/// `FILEID_BTRFS_WITHOUT_PARENT`: type of a btrfs file handle without the parent directory.
const HANDLE_TYPE: libc::c_int = 0x4d;

/// Buffer size of one search: an item is smaller than a tree node, and the largest node has 64 KiB.
const SEARCH_BYTES: usize = 64 * 1024;
/// Length of a search header: objectid, offset and transid of 8 bytes, type and length of 4.
const HEADER_BYTES: usize = size_of::<raw::btrfs_ioctl_search_header>();

/// Returns the argument of the subvolume ioctls. A name that does not fit is `ENAMETOOLONG`.
fn volume_args(name: &OsStr, source: i64, flags: u32) -> Result<raw::btrfs_ioctl_vol_args_v2, Errno> {
    const NAME_BYTES: usize = raw::BTRFS_SUBVOL_NAME_MAX as usize + 1;
    let bytes = name.as_bytes();
    if bytes.len() >= NAME_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let mut field: [c_char; NAME_BYTES] = [0; NAME_BYTES];
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = from.cast_signed() as c_char;
    }
    Ok(raw::btrfs_ioctl_vol_args_v2 {
        fd: source,
        transid: 0,
        flags: flags.into(),
        __bindgen_anon_1: raw::btrfs_ioctl_vol_args_v2__bindgen_ty_1 { unused: [0; 4] },
        __bindgen_anon_2: raw::btrfs_ioctl_vol_args_v2__bindgen_ty_2 { name: field },
    })
}

/// Creates the empty subvolume `name` in `dir`. It is on disk after the next commit of the file system.
pub(crate) fn create_subvolume(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let args = volume_args(name, 0, 0)?;
    // SAFETY: the opcode takes this structure, only reads it, and no flag says that it holds a pointer.
    unsafe { ioctl(dir, Setter::<{ op::BTRFS_IOC_SUBVOL_CREATE_V2 }, _>::new(args)) }
}

/// Makes `name` in `dir` a snapshot of the subvolume `source` in its state at this moment, on disk when the call
/// returns.
pub(crate) fn snapshot(dir: BorrowedFd<'_>, name: &OsStr, source: BorrowedFd<'_>, frozen: bool) -> Result<(), Errno> {
    let flags = if frozen { raw::BTRFS_SUBVOL_RDONLY } else { 0 };
    let args = volume_args(name, source.as_raw_fd().into(), flags)?;
    // SAFETY: the opcode takes this structure, only reads it, and no flag says that it holds a pointer; the descriptor
    // in it is borrowed for the whole call.
    unsafe { ioctl(dir, Setter::<{ op::BTRFS_IOC_SNAP_CREATE_V2 }, _>::new(args)) }
}

/// Destroys the subvolume `name` in `dir`, even if it is read-only or in use. `ENOTEMPTY` if it contains subvolumes,
/// `EINVAL` for a plain directory, `ENOTDIR` for anything else, `EROFS` in a read-only subvolume.
pub(crate) fn destroy(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let args = volume_args(name, 0, 0)?;
    // SAFETY: the opcode takes this structure, only reads it, and no flag says that it holds a pointer.
    unsafe { ioctl(dir, Setter::<{ op::BTRFS_IOC_SNAP_DESTROY_V2 }, _>::new(args)) }
}

/// Has the kernel begin to commit the file system of `any`, and to free what was destroyed; waits for neither.
pub(crate) fn start_commit(any: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the opcode writes one 64-bit word, the number of the transaction.
    let _transaction: u64 = unsafe { ioctl(any, Getter::<{ op::BTRFS_IOC_START_SYNC }, u64>::new()) }?;
    Ok(())
}

/// Returns true if the subvolume with the root directory `root` is read-only.
pub(crate) fn is_read_only(root: BorrowedFd<'_>) -> Result<bool, Errno> {
    // SAFETY: the opcode writes one 64-bit word.
    let flags: u64 = unsafe { ioctl(root, Getter::<{ op::BTRFS_IOC_SUBVOL_GETFLAGS }, u64>::new()) }?;
    Ok(flags & u64::from(raw::BTRFS_SUBVOL_RDONLY) != 0)
}

/// Makes the subvolume with the root directory `root` writable.
pub(crate) fn make_writable(root: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the opcode reads one 64-bit word.
    unsafe { ioctl(root, Setter::<{ op::BTRFS_IOC_SUBVOL_SETFLAGS }, u64>::new(0)) }
}

/// Properties of a subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subvolume {
    /// Number of its tree; never used twice.
    pub(crate) id: u64,
    /// Transaction that made it. Nothing in a read-only snapshot is newer.
    pub(crate) made_in: u64,
    /// Transaction that last changed an inode in it.
    pub(crate) changed_in: u64,
}

/// Returns the properties of the subvolume that contains `inside`.
pub(crate) fn subvolume(inside: BorrowedFd<'_>) -> Result<Subvolume, Errno> {
    type Info = raw::btrfs_ioctl_get_subvol_info_args;
    // SAFETY: the opcode writes the whole structure, in which every bit pattern is valid.
    let info: Info = unsafe { ioctl(inside, Getter::<{ op::BTRFS_IOC_GET_SUBVOL_INFO }, Info>::new()) }?;
    Ok(Subvolume { id: info.treeid, made_in: info.otransid, changed_in: info.ctransid })
}

/// Returns the size of the nodes of the tree `id` in bytes, including shared nodes, as of the last commit of the file
/// system.
pub(crate) fn tree_bytes(any: BorrowedFd<'_>, id: u64) -> Result<u64, Errno> {
    let first = Key { object: id, kind: ROOT_ITEM, offset: 0 };
    let mut search = Search::new(any, ROOT_TREE, first..=Key { offset: u64::MAX, ..first }, 0);
    match search.next_item()? {
        Some(item) => item.u64_at(offset_of!(raw::btrfs_root_item, bytes_used)),
        None => Err(Errno::NOENT),
    }
}

/// Returns the path of the directory `inode` from the root of the subvolume `tree`, for messages. `ENAMETOOLONG` beyond
/// 4 KiB.
pub(crate) fn dir_path(any: BorrowedFd<'_>, tree: u64, inode: u64) -> Result<PathBuf, Errno> {
    let mut args = raw::btrfs_ioctl_ino_lookup_args { treeid: tree, objectid: inode, name: [0; 4080] };
    // SAFETY: the opcode reads and writes this structure, in which every bit pattern is valid.
    unsafe { ioctl(any, Updater::<{ op::BTRFS_IOC_INO_LOOKUP }, _>::new(&mut args)) }?;
    let bytes = args.name.map(|c| c as u8);
    let path = CStr::from_bytes_until_nul(&bytes).map_err(|_| Errno::PROTO)?;
    Ok(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

/// Opens the directory `inode` of the subvolume `tree` on the file system of `any`. Needs `CAP_DAC_READ_SEARCH`.
pub(crate) fn open_dir(any: BorrowedFd<'_>, tree: u64, inode: u64) -> Result<OwnedFd, Errno> {
    /// `struct file_handle` and the packed `struct btrfs_fid` up to its `gen`.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: libc::c_int,
        fid: [u8; FID_BYTES],
    }
    const FID_BYTES: usize = 20;
    let generation = inode_generation(any, tree, inode)? as u32;
    let mut fid = [0; FID_BYTES];
    fid[..8].copy_from_slice(&inode.to_ne_bytes());
    fid[8..16].copy_from_slice(&tree.to_ne_bytes());
    fid[16..].copy_from_slice(&generation.to_ne_bytes());
    let handle = Handle { bytes: FID_BYTES as u32, kind: HANDLE_TYPE, fid };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the handle lives through the call, and its first word says how many bytes follow the second.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_by_handle_at, any.as_raw_fd(), &raw const handle, flags) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::PROTO)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the transaction that made `inode`, which is part of its file handle.
fn inode_generation(any: BorrowedFd<'_>, tree: u64, inode: u64) -> Result<u64, Errno> {
    let key = Key { object: inode, kind: INODE_ITEM, offset: 0 };
    let mut search = Search::new(any, tree, key..=key, 0);
    match search.next_item()? {
        Some(item) => item.inode_generation(),
        None => Err(Errno::NOENT),
    }
}

/// A subvolume inside another, with the directory and the name under which it is found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nested {
    /// The subvolume that contains it.
    pub(crate) outer: u64,
    /// Number of its own tree.
    pub(crate) id: u64,
    /// Inode of the directory that holds it.
    pub(crate) dir: u64,
    /// Name in that directory.
    pub(crate) name: OsString,
}

/// Returns the subvolumes directly inside the subvolume `outer`, by their root references.
pub(crate) fn nested(any: BorrowedFd<'_>, outer: u64) -> Result<Vec<Nested>, Errno> {
    let first = Key { object: outer, kind: ROOT_REF, offset: 0 };
    let last = Key { offset: u64::MAX, ..first };
    let mut search = Search::new(any, ROOT_TREE, first..=last, 0);
    let mut found = Vec::new();
    while let Some(item) = search.next_item()? {
        let length = item.bytes_at(offset_of!(raw::btrfs_root_ref, name_len))?;
        let name = item.slice(size_of::<raw::btrfs_root_ref>(), u16::from_le_bytes(length).into())?;
        found.push(Nested {
            outer,
            id: item.key.offset,
            dir: item.u64_at(offset_of!(raw::btrfs_root_ref, dirid))?,
            name: OsString::from_vec(name.to_vec()),
        });
    }
    Ok(found)
}

/// Position of an item in its tree; keys are ordered field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The object that the item describes: an inode or a tree.
    pub(crate) object: u64,
    /// Type of the item.
    pub(crate) kind: u8,
    /// Offset, whose meaning depends on the type.
    pub(crate) offset: u64,
}

impl Key {
    /// Returns the smallest key after this one.
    fn successor(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Self { offset, ..self });
        }
        if let Some(kind) = self.kind.checked_add(1) {
            return Some(Self { kind, offset: 0, ..self });
        }
        self.object.checked_add(1).map(|object| Self { object, kind: 0, offset: 0 })
    }
}

/// One item that a [`Search`] found.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    /// Key of the item.
    pub(crate) key: Key,
    content: &'a [u8],
}

/// Transactions that made and changed an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    /// Transaction that made it.
    pub(crate) made_in: u64,
    /// Transaction that changed it last; for a directory also changes of its names.
    pub(crate) changed_in: u64,
    /// True for a directory.
    pub(crate) is_dir: bool,
}

/// Location of a part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// In the tree itself.
    Inline {
        /// Stored length, after compression.
        stored: u64,
    },
    /// In a separate extent, which other parts of this or other files can refer to as well.
    Regular {
        /// Address on the file system.
        address: u64,
        /// Allocated length, after compression.
        allocated: u64,
    },
    /// A hole without data.
    Hole,
}

impl Item<'_> {
    fn slice(&self, at: usize, length: usize) -> Result<&[u8], Errno> {
        at.checked_add(length).and_then(|end| self.content.get(at..end)).ok_or(Errno::PROTO)
    }

    fn bytes_at<const N: usize>(&self, at: usize) -> Result<[u8; N], Errno> {
        self.slice(at, N)?.try_into().map_err(|_| Errno::PROTO)
    }

    fn u64_at(&self, at: usize) -> Result<u64, Errno> {
        self.bytes_at(at).map(u64::from_le_bytes)
    }

    /// Returns, for an [`INODE_ITEM`], the transaction that made the inode.
    pub(crate) fn inode_generation(&self) -> Result<u64, Errno> {
        self.u64_at(offset_of!(raw::btrfs_inode_item, generation))
    }

    /// Returns, for an [`INODE_ITEM`], the fields that show whether the inode changed.
    pub(crate) fn inode(&self) -> Result<Inode, Errno> {
        type Layout = raw::btrfs_inode_item;
        let mode = u32::from_le_bytes(self.bytes_at(offset_of!(Layout, mode))?);
        Ok(Inode {
            made_in: self.inode_generation()?,
            changed_in: self.u64_at(offset_of!(Layout, transid))?,
            is_dir: mode & libc::S_IFMT == libc::S_IFDIR,
        })
    }

    /// Returns, for a [`DIR_INDEX`], the name and the key of the inode it refers to.
    pub(crate) fn dir_entry(&self) -> Result<(OsString, Key), Errno> {
        type Layout = raw::btrfs_dir_item;
        let length = self.bytes_at(offset_of!(Layout, name_len))?;
        let name = self.slice(size_of::<Layout>(), u16::from_le_bytes(length).into())?;
        let at = |field: usize| offset_of!(Layout, location) + field;
        let [kind] = self.bytes_at(at(offset_of!(raw::btrfs_disk_key, type_)))?;
        let object = self.u64_at(at(offset_of!(raw::btrfs_disk_key, objectid)))?;
        let offset = self.u64_at(at(offset_of!(raw::btrfs_disk_key, offset)))?;
        Ok((OsString::from_vec(name.to_vec()), Key { object, kind, offset }))
    }

    /// Returns, for an [`INODE_REF`] or [`INODE_EXTREF`], the directories and the names in them; empty for any other
    /// item.
    pub(crate) fn references(&self) -> Result<Vec<(u64, OsString)>, Errno> {
        let (fixed, length_at) = match self.key.kind {
            INODE_REF => (size_of::<raw::btrfs_inode_ref>(), offset_of!(raw::btrfs_inode_ref, name_len)),
            INODE_EXTREF => (size_of::<raw::btrfs_inode_extref>(), offset_of!(raw::btrfs_inode_extref, name_len)),
            _ => return Ok(Vec::new()),
        };
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.content.len() {
            let dir = match self.key.kind {
                INODE_REF => self.key.offset,
                _ => self.u64_at(at + offset_of!(raw::btrfs_inode_extref, parent_objectid))?,
            };
            let length = usize::from(u16::from_le_bytes(self.bytes_at(at + length_at)?));
            found.push((dir, OsString::from_vec(self.slice(at + fixed, length)?.to_vec())));
            at += fixed + length;
        }
        Ok(found)
    }

    /// Returns, for an [`EXTENT_DATA`], the transaction that wrote it, and its location.
    pub(crate) fn extent(&self) -> Result<(u64, Extent), Errno> {
        type Layout = raw::btrfs_file_extent_item;
        let generation = self.u64_at(offset_of!(Layout, generation))?;
        let [kind] = self.bytes_at(offset_of!(Layout, type_))?;
        if u32::from(kind) == raw::BTRFS_FILE_EXTENT_INLINE as u32 {
            let stored = self.content.len().saturating_sub(offset_of!(Layout, disk_bytenr)) as u64;
            return Ok((generation, Extent::Inline { stored }));
        }
        let address = self.u64_at(offset_of!(Layout, disk_bytenr))?;
        let allocated = self.u64_at(offset_of!(Layout, disk_num_bytes))?;
        let extent = if address == 0 { Extent::Hole } else { Extent::Regular { address, allocated } };
        Ok((generation, extent))
    }
}

/// The argument of `TREE_SEARCH_V2` with its buffer.
#[repr(C)]
struct SearchArgs {
    key: raw::btrfs_ioctl_search_key,
    buffer_bytes: u64,
    buffer: [u8; SEARCH_BYTES],
}

/// The items of one tree between two keys, in order. Needs `CAP_SYS_ADMIN` in the initial user namespace.
///
/// Keys are compared as a whole, as the kernel does: between (256, inode item, 0) and (300, inode item, 0) lie all
/// items of the inodes in between, of every type. Changes that are only in memory (data not yet allocated, delayed
/// directory entries and inode updates) are not found; a snapshot has none of these.
pub(crate) struct Search<'a> {
    any: BorrowedFd<'a>,
    args: Box<SearchArgs>,
    last: Key,
    /// First key of the next ioctl; `None` if nothing is left.
    next: Option<Key>,
    /// Number of items in the buffer that were not returned yet, and the offset of the first of them.
    left: u32,
    at: usize,
}

impl<'a> Search<'a> {
    /// Searches `tree`, on the file system of `any`, for `keys`. Parts of the tree that no transaction from `since` on
    /// has changed are skipped without being read.
    pub(crate) fn new(any: BorrowedFd<'a>, tree: u64, keys: std::ops::RangeInclusive<Key>, since: u64) -> Self {
        let (first, last) = keys.into_inner();
        let key = raw::btrfs_ioctl_search_key {
            tree_id: tree,
            min_objectid: first.object,
            max_objectid: last.object,
            min_offset: first.offset,
            max_offset: last.offset,
            min_transid: since,
            max_transid: u64::MAX,
            min_type: first.kind.into(),
            max_type: last.kind.into(),
            nr_items: 0,
            unused: 0,
            unused1: 0,
            unused2: 0,
            unused3: 0,
            unused4: 0,
        };
        let args = Box::new(SearchArgs { key, buffer_bytes: SEARCH_BYTES as u64, buffer: [0; SEARCH_BYTES] });
        Self { any, args, last, next: Some(first), left: 0, at: 0 }
    }

    /// Returns the next item, or `None` after the last.
    pub(crate) fn next_item(&mut self) -> Result<Option<Item<'_>>, Errno> {
        while self.left == 0 {
            match self.next {
                Some(first) => self.read(first)?,
                None => return Ok(None),
            }
        }
        let (key, length) = self.header()?;
        let from = self.at + HEADER_BYTES;
        self.at = from.checked_add(length).ok_or(Errno::PROTO)?;
        self.left -= 1;
        self.next = if key < self.last { key.successor() } else { None };
        let content = self.args.buffer.get(from..self.at).ok_or(Errno::PROTO)?;
        Ok(Some(Item { key, content }))
    }

    /// Fills the buffer with the items from `first` on.
    fn read(&mut self, first: Key) -> Result<(), Errno> {
        self.args.key.min_objectid = first.object;
        self.args.key.min_type = first.kind.into();
        self.args.key.min_offset = first.offset;
        self.args.key.nr_items = u32::MAX;
        // SAFETY: the opcode reads and writes this structure; the kernel writes at most `buffer_bytes` behind its fixed
        // part, and that many bytes are there.
        unsafe { ioctl(self.any, Updater::<{ op::BTRFS_IOC_TREE_SEARCH_V2 }, _>::new(&mut *self.args)) }?;
        self.left = self.args.key.nr_items;
        self.at = 0;
        // A call returns early for a full buffer as well as at the end of the range; only a result without items shows
        // the end.
        self.next = None;
        Ok(())
    }

    /// Returns the key of the item at `at`, and the length of its content.
    fn header(&self) -> Result<(Key, usize), Errno> {
        type Layout = raw::btrfs_ioctl_search_header;
        let header = self.at.checked_add(HEADER_BYTES).and_then(|end| self.args.buffer.get(self.at..end));
        let header = header.ok_or(Errno::PROTO)?;
        let word = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(Errno::PROTO);
        let half = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(Errno::PROTO);
        let kind = u8::try_from(half(offset_of!(Layout, type_))?).map_err(|_| Errno::PROTO)?;
        let length = usize::try_from(half(offset_of!(Layout, len))?).map_err(|_| Errno::PROTO)?;
        let object = word(offset_of!(Layout, objectid))?;
        Ok((Key { object, kind, offset: word(offset_of!(Layout, offset))? }, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_carry() {
        let key = |object, kind, offset| Key { object, kind, offset };
        assert_eq!(key(1, 2, 3).successor(), Some(key(1, 2, 4)));
        assert_eq!(key(1, 2, u64::MAX).successor(), Some(key(1, 3, 0)));
        assert_eq!(key(1, u8::MAX, u64::MAX).successor(), Some(key(2, 0, 0)));
        assert_eq!(key(u64::MAX, u8::MAX, u64::MAX).successor(), None);
    }

    #[test]
    fn short_items_are_errors() {
        let key = Key { object: ROOT_INODE, kind: EXTENT_DATA, offset: 0 };
        let mut content = [0; size_of::<raw::btrfs_file_extent_item>()];
        content[offset_of!(raw::btrfs_file_extent_item, type_)] = raw::BTRFS_FILE_EXTENT_REG as u8;
        assert_eq!(Item { key, content: &content }.extent(), Ok((0, Extent::Hole)));
        for length in 0..offset_of!(raw::btrfs_file_extent_item, offset) {
            assert_eq!(Item { key, content: &content[..length] }.extent(), Err(Errno::PROTO), "{length}");
        }
        let item = Item { key, content: &[0; 7] };
        assert_eq!(item.inode_generation(), Err(Errno::PROTO));
        assert_eq!(item.slice(usize::MAX, 2), Err(Errno::PROTO));
    }

    #[test]
    fn names_have_to_fit() {
        let name = |length: usize| OsString::from("n".repeat(length));
        assert!(volume_args(&name(raw::BTRFS_SUBVOL_NAME_MAX as usize), 0, 0).is_ok());
        assert!(volume_args(&name(raw::BTRFS_SUBVOL_NAME_MAX as usize + 1), 0, 0).is_err());
    }
}
