//! Directories to measure in: on new file systems in memory, or in a directory that the user names.

use std::path::{Path, PathBuf};

use strata::backend::{Strategy, StrategyOptions};
use strata::backends::{self, BTRFS, Config};
use strata::compare::SnapshotterSubject;
use strata::compare::image::Image;
pub use strata::mount::scratch::FsType;
use strata::mount::scratch::{Scratch, private_namespace};
use strata::store::Store;
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

/// Environment variable with a directory of a real file system.
const DIR_VARIABLE: &str = "STRATA_BENCH_DIR";

/// Size of the file system, for the parents and two copies of the large one.
const SIZE_BYTES: u64 = 4 << 30;

/// A directory on a file system of a known type, removed on drop.
pub struct BenchDir {
    pub fs: FsType,
    dir: PathBuf,
    _scratch: Option<Scratch>,
}

impl BenchDir {
    /// Creates a directory on `fs`.
    ///
    /// # Errors
    /// `Unsupported` if the file system cannot be created, or differs from that of the user's directory.
    pub fn new(fs: FsType) -> Result<Self> {
        private_namespace()?;
        let Some(real) = real_dir() else {
            let scratch = Scratch::new(fs, SIZE_BYTES)?;
            return Ok(Self { fs, dir: scratch.path().to_owned(), _scratch: Some(scratch) });
        };
        if fs_of(&real) != Some(fs) {
            return Err(Error::unsupported(format!("{DIR_VARIABLE}={} is not on {fs}", real.display())));
        }
        let dir = real.join(format!("strata-bench-{}", std::process::id()));
        let made = std::fs::create_dir(&dir);
        made.map_err(|error| Error::precondition(format!("{}: {error}", dir.display())))?;
        Ok(Self { fs, dir, _scratch: None })
    }

    /// Returns the directory `name`, created if it is missing.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).expect("make a directory to measure in");
        dir
    }

    /// Opens or creates the store `name`.
    pub fn store(&self, name: &str, backend: Strategy, clone: CloneMode) -> Result<Store> {
        let root = self.dir.join(name);
        backends::open(&Config { backend: Some(backend), options: clone.into(), ..Config::new(root) })
    }

    /// Writes `image` into `store` and returns the store as a subject.
    pub fn subject<'a>(&self, store: &'a Store, image: &'a Image) -> Result<SnapshotterSubject<'a>> {
        let name = store.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = self.dir(&format!("mount-{name}"));
        SnapshotterSubject::new(name.as_str(), store, image, target)
    }
}

impl Drop for BenchDir {
    fn drop(&mut self) {
        if self._scratch.is_none() {
            // Printed to the user, who can tell from the path what the directory is.
            if let Err(error) = clear(&self.dir) {
                eprintln!("{} is left: {error}", self.dir.display());
            }
        }
    }
}

fn clear(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let root = entry.path();
        // Subvolumes cannot be removed by `unlink`.
        if let Ok(backend) = (BTRFS.open)(&root, &StrategyOptions::from(CloneMode::Auto)) {
            for id in backend.inventory()? {
                backend.remove(id)?;
            }
        }
    }
    std::fs::remove_dir_all(dir).map_err(|error| Error::precondition(error.to_string()))
}

/// Returns a sentence about the file systems.
pub fn description() -> String {
    match real_dir() {
        Some(dir) => format!("file system: that of {}", dir.display()),
        None => format!("file systems: fresh, on loop devices over files in memory ({DIR_VARIABLE} names a real one)"),
    }
}

fn real_dir() -> Option<PathBuf> {
    std::env::var_os(DIR_VARIABLE).map(PathBuf::from)
}

fn fs_of(dir: &Path) -> Option<FsType> {
    let magic = rustix::fs::statfs(dir).ok()?.f_type;
    match magic {
        libc::EXT4_SUPER_MAGIC => Some(FsType::Ext4),
        libc::XFS_SUPER_MAGIC => Some(FsType::Xfs),
        libc::BTRFS_SUPER_MAGIC => Some(FsType::Btrfs),
        _ => None,
    }
}
