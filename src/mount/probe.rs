//! Tests of the features of this kernel, this user and this file system.
//!
//! Version numbers are not reliable, because distributions port features back, and containers and security modules
//! remove them. So every answer comes from trying the feature. Answers about the kernel are kept for the life of the
//! process; answers about a directory are not.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general::BTRFS_SUPER_MAGIC;
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Access, IdMap, MappedPart, Mount, Upper, attach};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// Name prefix of the directories in which features are tried. A crash can leave such a directory behind.
pub const TRIAL_PREFIX: &str = ".strata-probe-";

/// Inode number of the initial user namespace (`PROC_USER_INIT_INO` in the kernel's `proc_ns.h`). Its ID map does not
/// identify it: another namespace can map every ID to itself too.
const INITIAL_INODE: u64 = 0xEFFF_FFFD;

/// Number of bytes that are cloned to test reflinks: at least a block of any file system.
const BLOCK_BYTES: usize = 64 * 1024;

/// Availability of a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Available {
    /// The feature was tried and works.
    Yes,
    /// The feature was tried and does not work, for this reason.
    No(String),
}

/// One tested feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// A short stable name.
    pub name: &'static str,
    /// Description in one line.
    pub meaning: &'static str,
    /// Consequence of the feature missing.
    pub matters_to: &'static str,
    /// Availability of the feature.
    pub available: Available,
}

/// Results of all tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The features, in reading order.
    pub features: Vec<Feature>,
}

impl Report {
    /// Returns the feature of that name.
    pub fn get(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|feature| feature.name == name)
    }
}

/// Tests everything that strata depends on. Features of the file system are tried in the directory `root`, which is
/// left unchanged.
pub fn probe(root: &Path) -> Report {
    let mut features = kernel().to_vec();
    features.extend([
        feature(
            "upper",
            "the root's file system can hold the writable part of an overlay",
            "the overlay backend",
            upper(root),
        ),
        feature("reflink", "files of the root can share their blocks", "the speed of the copy backend", reflink(root)),
        feature(
            "id-map",
            "mounts of the root can show files with other owners (Linux 5.12; tmpfs 6.3)",
            "containers in user namespaces behind containerd",
            id_map(root),
        ),
        feature("btrfs", "the root is on btrfs", "the btrfs backend", btrfs(root)),
    ]);
    Report { features }
}

fn feature(name: &'static str, meaning: &'static str, matters_to: &'static str, tried: Result<()>) -> Feature {
    let available = tried.map_or_else(|error| Available::No(error.chain()), |()| Available::Yes);
    Feature { name, meaning, matters_to, available }
}

/// Tests the features that do not depend on a directory.
fn kernel() -> &'static [Feature] {
    static ANSWERS: OnceLock<Vec<Feature>> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        vec![
            feature(
                "initial-user-namespace",
                "this process is in the machine's first user namespace",
                "btrfs, device nodes and trusted attributes; elsewhere overlays use userxattr",
                initial_user_namespace(),
            ),
            feature("overlay", "the kernel and this user can mount overlays", "the overlay backend", overlay()),
            feature(
                "lowerdir-add",
                "overlayfs takes layers one by one (Linux 6.8)",
                "nothing: without it the layers of high stacks are given by short links",
                layers_one_by_one(),
            ),
            feature(
                "mount-setattr",
                "mounts can be made read-only with all below (Linux 5.12)",
                "every bind mount, so all backends",
                mount_attributes(),
            ),
            feature(
                "fchmodat2",
                "modes can be set without opening (Linux 6.6)",
                "nothing: without it /proc is used",
                mode_by_descriptor(),
            ),
            feature(
                "xattrat",
                "extended attributes are reached by directory and name (Linux 6.13)",
                "speed: without it /proc is used",
                sys::xattr::has_at_calls().at("list the attributes of", "."),
            ),
            feature(
                "loop",
                "files can be block devices",
                "compare and conformance on other file systems",
                loop_devices(),
            ),
        ]
    })
}

/// Returns true if the caller is in a user namespace other than the initial one.
///
/// # Errors
/// `Io` if `/proc` is not mounted.
pub fn in_user_namespace() -> Result<bool> {
    let path = "/proc/self/ns/user";
    Ok(fs::metadata(path).at("stat", path)?.ino() != INITIAL_INODE)
}

/// Tests whether the file system of `dir` can hold the writable part of an overlay: mounts a detached overlay there,
/// deletes files through it, and checks the whiteouts in the upper.
///
/// # Errors
/// `Unsupported` with the reason and the cure; `PermissionDenied` if the user may not mount; errors of the file system.
pub fn upper(dir: &Path) -> Result<()> {
    let userxattr = in_user_namespace()?;
    let trial = Trial::new(dir)?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| trial.path.join(name));
    for made in [&lower, &upper, &work, &lower.join("gone"), &lower.join("replaced")] {
        fs::create_dir(made).at("make directory", made)?;
    }
    if !tells_types(&trial.path)? {
        return Err(no_upper(dir, "does not tell the types of directory entries (d_type; on xfs: ftype=1)"));
    }
    let layers = Upper { dir: upper.clone(), work };
    let mount = attach::volatile(&[lower], &layers, userxattr).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ResourceExhausted => error,
        _ => no_upper(dir, "is refused by overlayfs").with_source(error),
    })?;
    let merged = PathBuf::from(format!("/proc/thread-self/fd/{}", mount.as_raw_fd()));
    let [gone, replaced] = ["gone", "replaced"].map(|name| merged.join(name));
    fs::remove_dir(&gone).map_err(|error| no_upper(dir, "cannot hold a whiteout").with_source(error))?;
    fs::remove_dir(&replaced).map_err(|error| no_upper(dir, "cannot hold a whiteout").with_source(error))?;
    fs::create_dir(&replaced).map_err(|error| no_upper(dir, "cannot hold an opaque directory").with_source(error))?;
    drop(mount);

    let whiteout = fs::symlink_metadata(upper.join("gone")).at("stat", upper.join("gone"))?;
    if !(whiteout.file_type().is_char_device() && whiteout.rdev() == 0) {
        return Err(no_upper(dir, "does not keep whiteouts (character devices 0:0)"));
    }
    let opaque = if userxattr { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" };
    let mut value = [0; 1];
    match rustix::fs::lgetxattr(upper.join("replaced"), opaque, &mut value) {
        Ok(1) if value == *b"y" => Ok(()),
        _ => Err(no_upper(dir, "does not keep overlayfs's extended attributes")),
    }
}

fn no_upper(dir: &Path, why: &str) -> Error {
    Error::unsupported(format!(
        "the file system of {} {why}, so it cannot hold the writable part of an overlay: use one on ext4, xfs, btrfs or \
         tmpfs (in a container: a volume), or the copy backend",
        dir.display()
    ))
}

/// Tests whether files in `dir` can share blocks.
///
/// # Errors
/// `Unsupported`; errors of the file system.
pub fn reflink(dir: &Path) -> Result<()> {
    let trial = Trial::new(dir)?;
    let [from, to] = ["from", "to"].map(|name| trial.path.join(name));
    fs::write(&from, vec![1; BLOCK_BYTES]).at("write", &from)?;
    let source = fs::File::open(&from).at("open", &from)?;
    let target = fs::File::create_new(&to).at("create", &to)?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::XDEV) => Err(Error::unsupported(format!(
            "the file system of {} cannot share blocks between files: btrfs, and xfs with reflink=1, can",
            dir.display()
        ))),
        answer => answer.at("share blocks in", dir),
    }
}

/// Tests whether `dir` is on btrfs.
///
/// # Errors
/// `Unsupported` if it is not; errors of `statfs`.
pub fn btrfs(dir: &Path) -> Result<()> {
    let magic = rustix::fs::statfs(dir).at("stat", dir)?.f_type;
    if magic == i64::from(BTRFS_SUPER_MAGIC) {
        Ok(())
    } else {
        Err(Error::unsupported(format!("{} is not on btrfs", dir.display())))
    }
}

/// Tests whether a mount of `dir` can translate owners.
///
/// # Errors
/// `FailedPrecondition` with the reason.
fn id_map(dir: &Path) -> Result<()> {
    let mount = Mount::Bind { source: dir.to_owned(), access: Access::ReadOnly };
    attach::detached(&[mount.mapped(IdMap::parse("0:1:1", "0:1:1")?, MappedPart::Lower)]).map(drop)
}

fn initial_user_namespace() -> Result<()> {
    if in_user_namespace()? { Err(Error::unsupported("it is in another one")) } else { Ok(()) }
}

fn overlay() -> Result<()> {
    attach::context("overlay").map(drop)
}

fn layers_one_by_one() -> Result<()> {
    if attach::layers_one_by_one() { Ok(()) } else { Err(Error::unsupported("overlayfs does not know lowerdir+")) }
}

fn mount_attributes() -> Result<()> {
    let mount = attach::new("tmpfs", &[])?;
    sys::mount::set_attributes(mount.as_fd(), linux_raw_sys::general::MOUNT_ATTR_RDONLY, 0)
        .at("make read-only", "a mount")
}

fn mode_by_descriptor() -> Result<()> {
    let file = rustix::fs::memfd_create("strata-probe", MemfdFlags::CLOEXEC).at("make", "a file in memory")?;
    sys::chmod_fd(file.as_fd(), 0o600).at("set the mode of", "a file in memory")
}

fn loop_devices() -> Result<()> {
    let path = "/dev/loop-control";
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", path).map(drop)
}

/// Returns true if the entries of `dir`, a directory that is not empty, have file types.
fn tells_types(dir: &Path) -> Result<bool> {
    let fd =
        rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", dir)?;
    for entry in rustix::fs::Dir::new(fd).at("read directory", dir)? {
        if entry.at("read directory", dir)?.file_type() == FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory for trying features, removed on drop. Its name begins with a dot and says what it is. Only a kill during
/// the milliseconds of a test leaves it behind.
struct Trial {
    path: PathBuf,
}

impl Trial {
    fn new(dir: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("{TRIAL_PREFIX}{}-{number}", std::process::id()));
        let path = dir.join(name);
        fs::create_dir(&path).at("make directory", &path)?;
        Ok(Self { path })
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // If the removal fails, the name of the directory tells users what it is.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Mounted;
    use crate::mount::scratch::FsType;
    use crate::testing;

    #[test]
    fn each_file_system_as_it_is() {
        for fs_type in FsType::ALL {
            let Some(scratch) = testing::scratch(fs_type) else { continue };
            let before = fs::read_dir(scratch.path()).expect("read").count();
            let report = probe(scratch.path());
            let is_there = |name: &str| report.get(name).map(|feature| feature.available.clone() == Available::Yes);
            assert_eq!(is_there("overlay"), Some(true), "{report:?}");
            assert_eq!(is_there("upper"), Some(true), "{report:?}");
            let shares = matches!(fs_type, FsType::Xfs | FsType::Btrfs);
            assert_eq!(is_there("reflink"), Some(shares), "{fs_type} {report:?}");
            assert_eq!(is_there("id-map"), Some(true), "{fs_type} {report:?}");
            assert_eq!(is_there("btrfs"), Some(fs_type == FsType::Btrfs), "{fs_type} {report:?}");
            assert_eq!(fs::read_dir(scratch.path()).expect("read").count(), before, "{fs_type}");
        }
    }

    #[test]
    fn no_upper_on_an_overlay() {
        let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
        let at = |name: &str| {
            let dir = scratch.path().join(name);
            fs::create_dir(&dir).expect("mkdir");
            dir
        };
        let mount = Mount::Overlay {
            lower: vec![at("lower")],
            upper: Some(Upper { dir: at("upper"), work: at("work") }),
            userxattr: false,
        };
        let mounted = Mounted::new(&[mount], at("merged")).expect("mount");
        let error = upper(mounted.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("copy backend"), "{error}");
        assert_eq!(fs::read_dir(mounted.path()).expect("read").count(), 0);
    }

    #[test]
    fn nothing_on_proc() {
        assert!(upper(Path::new("/proc")).is_err());
        assert!(reflink(Path::new("/proc")).is_err());
    }
}
