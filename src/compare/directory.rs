//! The floor: the same work in a plain directory, without snapshots.
//!
//! No snapshotter on the same file system can be faster. Work that a plain directory cannot do (a snapshot, a layer, a
//! diff) has no floor. The directories are made once and used by every round, so each workload undoes its changes.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::image::Image;
use super::measure::Timer;
use super::workload::{self, Base, Floor, Needs, Sizes, Workload};
use super::{Subject, SubjectProfile, large_file, small_file};
use crate::changeset::Sink;
use crate::changeset::apply::Applier;
use crate::error::{Context, Result};
use crate::mount::{Access, Mount, Mounted};
use crate::tree::Dir;
use crate::tree::walk::remove_all;

/// Plain directories, one for each [`Base`] that workloads start from.
pub struct DirectorySubject<'a> {
    profile: SubjectProfile<'a>,
    dir: PathBuf,
    target: PathBuf,
    image: &'a Image,
    sizes: Sizes,
}

impl<'a> DirectorySubject<'a> {
    /// Creates the directories below `dir`, an empty directory. Workloads bind them at `target`, another empty
    /// directory.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn new(
        profile: SubjectProfile<'a>,
        dir: PathBuf,
        target: PathBuf,
        image: &'a Image,
        sizes: Sizes,
    ) -> Result<Self> {
        let floor = Self { profile, dir, target, image, sizes };
        floor.fill(Base::Image, &mut |sink| image.produce(sink))?;
        floor.fill(Base::Small, &mut small_file)?;
        Ok(floor)
    }

    fn fill(&self, base: Base, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<()> {
        self.write(base.name(), produce)
    }

    /// Writes the tree that `produce` makes into the new directory `name`.
    fn write(&self, name: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<()> {
        let above = Dir::open(&self.dir)?;
        above.make_dir(name)?;
        let mut applier = Applier::new(above.open_dir(name)?);
        produce(&mut applier)?;
        applier.finish().map(drop)
    }
}

fn sync(dir: &Path) -> Result<()> {
    let opened = rustix::fs::open(dir, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", dir)?;
    rustix::fs::syncfs(opened).at("sync the file system of", dir)
}

impl Floor for DirectorySubject<'_> {
    fn drop_caches(&self) -> Result<()> {
        self.profile.drop_caches()
    }

    fn image(&self) -> &Image {
        self.image
    }

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn open(&self, base: Base) -> Result<Dir> {
        Dir::open(self.dir.join(base.name()))
    }

    fn unpack(&self, timer: &mut Timer) -> Result<()> {
        let name = "unpacked";
        timer.start_cost()?;
        timer.time("unpack", || {
            self.write(name, &mut |sink| self.image.produce(sink))?;
            sync(&self.dir)
        })?;
        timer.stop_cost()?;
        remove_all(&Dir::open(&self.dir)?, name)
    }

    fn bind(&self, round: u64, timer: &mut Timer) -> Result<()> {
        let mount = Mount::Bind { source: self.dir.join(Base::Image.name()), access: Access::ReadWrite };
        timer.start_cost()?;
        let mounted = timer.time("mount", || Mounted::new(&[mount], &self.target))?;
        let written = timer.time("write", || workload::write(&Dir::open(mounted.path())?, self.image, round));
        timer.stop_cost()?;
        let cleared = written.and_then(|()| workload::unwrite(&Dir::open(mounted.path())?));
        let unmounted = timer.time("unmount", || mounted.unmount());
        cleared.and(unmounted)
    }
}

impl Subject for DirectorySubject<'_> {
    fn profile(&self) -> &SubjectProfile<'_> {
        &self.profile
    }

    fn does(&self, workload: &Workload) -> bool {
        workload.has_floor()
    }

    fn begin(&self, workload: &Workload) -> Result<()> {
        if workload.needs() != Needs::Large {
            return Ok(());
        }
        let bytes = self.sizes.large_bytes;
        self.fill(Base::Large, &mut |sink| large_file(bytes, sink))?;
        sync(&self.dir)
    }

    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()> {
        workload.run_in_directory(self, round, timer)
    }

    fn end(&self, workload: &Workload) -> Result<()> {
        if workload.needs() != Needs::Large {
            return Ok(());
        }
        remove_all(&Dir::open(&self.dir)?, Base::Large.name())
    }
}

impl std::fmt::Debug for DirectorySubject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectorySubject")
            .field("profile", &self.profile)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}
