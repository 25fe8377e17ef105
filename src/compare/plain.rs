//! The floor: the same work in a plain directory, without snapshots.
//!
//! Nobody can be faster who uses the same file system. What a plain directory cannot do (a snapshot, a layer, a diff)
//! has no floor. The directory is made once and used over and over, so workloads leave it as they need it.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::image::Image;
use super::measure::Timer;
use super::workload::{self, Base, Floor, Needs, Sizes, Workload};
use super::{Contestant, Entry, large_file, small_file};
use crate::changeset::Sink;
use crate::changeset::apply::Applier;
use crate::error::{Context, Result};
use crate::mount::{Access, Mount, Mounted};
use crate::tree::Dir;
use crate::tree::walk::remove_all;

/// Plain directories with what the bases of workloads hold.
pub struct Plain<'a> {
    entry: Entry<'a>,
    dir: PathBuf,
    target: PathBuf,
    image: &'a Image,
    sizes: Sizes,
}

impl<'a> Plain<'a> {
    /// Makes them below `dir`, an empty directory. It is bound at `target`, another empty one.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn new(entry: Entry<'a>, dir: PathBuf, target: PathBuf, image: &'a Image, sizes: Sizes) -> Result<Self> {
        let floor = Self { entry, dir, target, image, sizes };
        floor.fill(Base::Image, &mut |sink| image.produce(sink))?;
        floor.fill(Base::Small, &mut small_file)?;
        Ok(floor)
    }

    fn fill(&self, base: Base, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<()> {
        self.write(base.name(), produce)
    }

    /// Writes what `produce` gives into the new directory `name`.
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

impl Floor for Plain<'_> {
    fn chill(&self) -> Result<()> {
        self.entry.chill()
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
        timer.tare()?;
        timer.time("unpack", || {
            self.write(name, &mut |sink| self.image.produce(sink))?;
            sync(&self.dir)
        })?;
        timer.weigh()?;
        remove_all(&Dir::open(&self.dir)?, name)
    }

    fn bind(&self, round: u64, timer: &mut Timer) -> Result<()> {
        let mount = Mount::Bind { source: self.dir.join(Base::Image.name()), access: Access::ReadWrite };
        timer.tare()?;
        let mounted = timer.time("mount", || Mounted::new(&[mount], &self.target))?;
        let written = timer.time("write", || workload::write(&Dir::open(mounted.path())?, self.image, round));
        timer.weigh()?;
        let cleared = written.and_then(|()| workload::unwrite(&Dir::open(mounted.path())?));
        let unmounted = timer.time("unmount", || mounted.unmount());
        cleared.and(unmounted)
    }
}

impl Contestant for Plain<'_> {
    fn entry(&self) -> &Entry<'_> {
        &self.entry
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
        workload.run_plainly(self, round, timer)
    }

    fn end(&self, workload: &Workload) -> Result<()> {
        if workload.needs() != Needs::Large {
            return Ok(());
        }
        remove_all(&Dir::open(&self.dir)?, Base::Large.name())
    }
}

impl std::fmt::Debug for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain").field("entry", &self.entry).field("dir", &self.dir).finish_non_exhaustive()
    }
}
