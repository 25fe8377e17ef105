//! Where is measured: fresh file systems in memory, or a directory that the user names.

use std::path::{Path, PathBuf};

use strata::backend::{Strategy, StrategyOptions};
use strata::backends::{self, BTRFS, Config};
use strata::compare::Subject;
use strata::compare::image::Image;
pub use strata::mount::scratch::FsType;
use strata::mount::scratch::{Scratch, private_namespace};
use strata::store::Store;
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

/// The variable with a directory of a real file system.
const DIR_VARIABLE: &str = "STRATA_BENCH_DIR";

/// Room for the parents and two copies of the large one.
const SIZE_BYTES: u64 = 4 << 30;

/// A directory on a file system of a known type, which goes again.
pub struct Place {
    pub fs: FsType,
    dir: PathBuf,
    _scratch: Option<Scratch>,
}

impl Place {
    /// A place on `fs`.
    ///
    /// # Errors
    /// `Unsupported` if there can be none, or not where the user wants it.
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

    /// A directory `name`, made if it is missing.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).expect("make a directory to measure in");
        dir
    }

    /// The store `name`.
    pub fn store(&self, name: &str, backend: Strategy, clone: CloneMode) -> Result<Store> {
        let root = self.dir.join(name);
        backends::open(&Config { backend: Some(backend), options: clone.into(), ..Config::new(root) })
    }

    /// `store` as a subject, with `image` in it.
    pub fn subject<'a>(&self, store: &'a Store, image: &'a Image) -> Result<Subject<'a>> {
        let name = store.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = self.dir(&format!("mount-{name}"));
        Subject::new(name.as_str(), store, image, target)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self._scratch.is_none() {
            // A person is watching, and the directory says whose it is.
            if let Err(error) = clear(&self.dir) {
                eprintln!("{} is left: {error}", self.dir.display());
            }
        }
    }
}

fn clear(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let root = entry.path();
        // Subvolumes cannot be unlinked.
        if let Ok(backend) = (BTRFS.open)(&root, &StrategyOptions::from(CloneMode::Auto)) {
            for id in backend.inventory()? {
                backend.remove(id)?;
            }
        }
    }
    std::fs::remove_dir_all(dir).map_err(|error| Error::precondition(error.to_string()))
}

/// What is measured on, in a sentence.
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
