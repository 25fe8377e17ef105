//! The two layers below every content case.

use std::io::{Seek as _, SeekFrom, Write as _};

use crate::conformance::ops::{self, ACL};
use crate::error::{Context as _, ErrorKind, Result};
use crate::tree::{Device, Dir, FileType, Timestamp, walk};

/// Functions that fill the layers, the lowest layer first.
pub(super) const LAYERS: [fn(&Dir) -> Result<()>; 2] = [lower, upper];

/// Modification time of all files in the layers.
pub(super) const TIME: Timestamp = Timestamp { seconds: 1_600_000_000, nanos: 123_456_789 };

/// Names of the attribute on `file`: the second is used in a user namespace, where `trusted` attributes are not
/// permitted.
const NOTES: [&[u8]; 2] = [b"trusted.note", b"user.note"];

/// Value of that attribute.
pub(super) const NOTE_VALUE: &[u8] = b"kept";

/// Owners of `shared/mine` and `shared/theirs`.
pub(super) const USERS: [u32; 2] = [1000, 1001];

/// Name of the attribute that holds the capabilities of a program.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// `cap_net_raw+ep`, in version 2 of the format.
pub(super) const CAPABILITY_VALUE: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Length of `sparse`; only [`ISLAND_BYTES`] of it are data.
pub(super) const SPARSE_BYTES: u64 = 8 << 20;

/// Offset of the data in `sparse`.
pub(super) const ISLAND: u64 = 4 << 20;

/// Length of the data in `sparse`.
pub(super) const ISLAND_BYTES: u64 = 4096;

/// Device number of `null`, where devices are permitted.
pub(super) const NULL: Device = Device { major: 1, minor: 3 };

/// Returns the content of `file`, in which all pages differ.
pub(super) fn bytes() -> Vec<u8> {
    (0..70_000_u32).map(|at| (at / 251 + at) as u8).collect()
}

/// Returns the value of the fixture's attribute on the file at `path`.
pub(super) fn note(root: &Dir, path: &str) -> Result<Option<Vec<u8>>> {
    let xattrs = root.xattrs(path)?;
    Ok(NOTES.iter().find_map(|name| xattrs.get(*name)).cloned())
}

/// Returns `name` with the prefix (`trusted` or `user`) of the attribute that `file` has.
pub(super) fn attribute(root: &Dir, name: &str) -> Result<String> {
    let trusted = root.xattrs("file")?.contains_key(NOTES[0]);
    Ok(format!("{}.{name}", if trusted { "trusted" } else { "user" }))
}

/// Returns the result of `first`, or of `second` if `first` is not permitted, as in a user namespace.
fn permitted(first: Result<()>, second: impl FnOnce() -> Result<()>) -> Result<()> {
    match first {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => second(),
        done => done,
    }
}

/// Returns an access control list that gives the user 1000 more rights than the group.
pub(super) fn access_list() -> Vec<u8> {
    ops::access_list([6, 6, 4, 6, 4])
}

fn file(dir: &Dir, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    dir.create_file(name)?.write_all(bytes).at("write", name)?;
    dir.set_mode(name, mode)
}

fn subdir(dir: &Dir, name: &str) -> Result<Dir> {
    dir.make_dir(name)?;
    dir.set_mode(name, 0o755)?;
    dir.open_dir(name)
}

fn lower(root: &Dir) -> Result<()> {
    file(root, "file", &bytes(), 0o640)?;
    root.set_owner("file", 1, 2)?;
    permitted(root.set_xattr("file", NOTES[0], NOTE_VALUE), || root.set_xattr("file", NOTES[1], NOTE_VALUE))?;
    file(root, "other", b"other", 0o644)?;
    file(root, "listed", b"listed", 0o664)?;
    root.set_xattr("listed", ACL, &access_list())?;
    file(root, "capable", b"capable", 0o755)?;
    root.set_xattr("capable", CAPABILITY, &CAPABILITY_VALUE)?;
    file(root, "suid", b"suid", 0o4755)?;
    file(root, "pair-a", b"pair", 0o644)?;
    root.make_link(root, "pair-a", "pair-b")?;
    root.make_symlink(b"file", "link")?;
    root.make_symlink(b"nowhere", "dangling")?;
    let fifo = |name: &str| root.make_node(FileType::Fifo, Device::default(), name);
    fifo("fifo")?;
    permitted(root.make_node(FileType::Char, NULL, "null"), || fifo("null"))?;
    let mut sparse = root.create_file("sparse")?;
    sparse.set_len(SPARSE_BYTES).at("resize", "sparse")?;
    sparse.seek(SeekFrom::Start(ISLAND)).at("seek in", "sparse")?;
    sparse.write_all(&[7; ISLAND_BYTES as usize]).at("write", "sparse")?;
    let dir = subdir(root, "dir")?;
    file(&dir, "inner", b"inner", 0o644)?;
    let deep = subdir(&subdir(&dir, "sub")?, "deep")?;
    file(&deep, "leaf", b"leaf", 0o600)?;
    root.set_owner("dir", 3, 4)?;
    root.set_mode("dir", 0o750)?;
    file(&subdir(root, "gone")?, "hidden", b"hidden", 0o644)?;
    file(&subdir(root, "opaque")?, "old", b"old", 0o644)?;
    let full = subdir(root, "full")?;
    ["a", "b", "c"].into_iter().try_for_each(|name| file(&full, name, name.as_bytes(), 0o644))?;
    subdir(root, "empty")?;
    let shared = subdir(root, "shared")?;
    for (name, user) in ["mine", "theirs"].into_iter().zip(USERS) {
        file(&shared, name, name.as_bytes(), 0o666)?;
        shared.set_owner(name, user, user)?;
    }
    root.set_mode("shared", 0o1777)?;
    ["file", "other", "listed", "capable", "suid", "sparse", "dir"]
        .into_iter()
        .try_for_each(|name| root.set_mtime(name, TIME))
}

fn upper(root: &Dir) -> Result<()> {
    walk::remove_all(root, "gone")?;
    walk::remove_all(root, "opaque")?;
    file(&subdir(root, "opaque")?, "new", b"new", 0o644)?;
    file(&root.open_dir("dir")?, "second", b"second", 0o644)?;
    root.set_mtime("dir", TIME)
}
