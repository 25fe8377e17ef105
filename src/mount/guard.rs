//! Mounts that are unmounted on drop.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use linux_raw_sys::general::MOUNT_ATTR_NODEV;
use rustix::fs::{Mode, OFlags};

use super::attach::attach_volatile;
use super::{Mount, attach, unmount};
use crate::error::{Context, Result};
use crate::sys;

/// Mounts at a directory, unmounted on drop.
///
/// Drop ignores errors; call [`Self::unmount`] to see them. A busy mount stays mounted, because a lazy unmount would
/// hide a process that goes on writing.
#[derive(Debug)]
#[must_use = "dropping it unmounts"]
pub struct Mounted {
    target: PathBuf,
    /// Number of mounts at the target.
    layers: usize,
    /// Marks that the kernel leaves in the work directories of volatile overlays.
    marks: Vec<PathBuf>,
}

impl Mounted {
    /// Attaches `mounts` at the directory `target`, in order.
    ///
    /// # Errors
    /// As [`attach`].
    pub fn new(mounts: &[Mount], target: impl Into<PathBuf>) -> Result<Self> {
        let target = target.into();
        attach(mounts, &target)?;
        Ok(Self { target, layers: mounts.len(), marks: Vec::new() })
    }

    /// Attaches `mounts` like [`Self::new`], with volatile overlays: no write to an overlay and no unmount waits for
    /// the disk. Use it where written data need not survive a power cut, or is synced as a whole later. After a crash
    /// the upper cannot be mounted again.
    ///
    /// # Errors
    /// As [`attach`].
    ///
    /// # References
    /// Kernel document `filesystems/overlayfs.rst`, "Volatile mount".
    pub fn new_volatile(mounts: &[Mount], target: impl Into<PathBuf>) -> Result<Self> {
        let target = target.into();
        attach_volatile(mounts, &target)?;
        let marks = mounts.iter().filter_map(Mount::upper).map(|upper| upper.work.join("work/incompat"));
        Ok(Self { target, layers: mounts.len(), marks: marks.collect() })
    }

    /// Makes every device node in the mount, and in what is mounted below, impossible to open, whatever its mode is.
    ///
    /// # Errors
    /// Errors of the system calls.
    ///
    /// # References
    /// `mount_setattr(2)`, `MOUNT_ATTR_NODEV`.
    pub fn refuse_devices(&self) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mount = rustix::fs::open(&self.target, flags, Mode::empty()).at("open the mount at", &self.target)?;
        sys::mount::set_attributes(mount.as_fd(), MOUNT_ATTR_NODEV, 0)
            .at("refuse devices in the mount at", &self.target)
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Unmounts everything.
    ///
    /// # Errors
    /// As [`unmount`]; then the mount stays mounted.
    pub fn unmount(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        while self.layers > 0 {
            // The count is taken first, so that drop does not try again after a failure.
            let left = std::mem::take(&mut self.layers) - 1;
            unmount(&self.target)?;
            self.layers = left;
        }
        std::mem::take(&mut self.marks).iter().try_for_each(|mark| remove_mark(mark))
    }
}

fn remove_mark(mark: &Path) -> Result<()> {
    match fs::remove_dir_all(mark) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.at("remove the mark of a volatile mount", mark),
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.take_down();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::mount::scratch::FsType;
    use crate::mount::{Access, Upper};
    use crate::testing;

    #[test]
    fn lasts_as_long_as_the_value() {
        let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
        let [one, two, target] = ["one", "two", "target"].map(|name| scratch.path().join(name));
        for dir in [&one, &two, &target] {
            fs::create_dir(dir).expect("mkdir");
        }
        let bind = |source: &PathBuf| Mount::Bind { source: source.clone(), access: Access::ReadWrite };
        let mounted = Mounted::new(&[bind(&one), bind(&two)], &target).expect("mount");
        fs::write(mounted.path().join("f"), "x").expect("write");
        assert!(two.join("f").exists(), "the last mount covers the others");
        drop(mounted);
        assert_eq!(fs::read_dir(&target).expect("read").count(), 0);
        assert_eq!(unmount(&target).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    }

    #[test]
    fn a_volatile_mount_leaves_no_mark() {
        let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
        let [lower, upper, work, target] = ["lower", "upper", "work", "target"].map(|name| scratch.path().join(name));
        for dir in [&lower, &upper, &work, &target] {
            fs::create_dir(dir).expect("mkdir");
        }
        let upper = Some(Upper { dir: upper, work });
        let mounts = [Mount::Overlay { lower: vec![lower], upper, userxattr: false }];
        let is_volatile = || {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("the mount table");
            let line = table.lines().find(|line| line.contains(&*target.to_string_lossy())).expect("it is mounted");
            line.contains("volatile")
        };
        for _ in 0..2 {
            let mounted = Mounted::new_volatile(&mounts, &target).expect("mount");
            fs::write(mounted.path().join("f"), "x").expect("write");
            assert!(is_volatile());
            mounted.unmount().expect("unmount");
            let mounted = Mounted::new(&mounts, &target).expect("nothing keeps it from being mounted again");
            assert!(mounted.path().join("f").exists() && !is_volatile());
        }
    }

    #[test]
    fn busy_is_an_error_and_stays_mounted() {
        let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
        let [one, target] = ["one", "target"].map(|name| scratch.path().join(name));
        for dir in [&one, &target] {
            fs::create_dir(dir).expect("mkdir");
        }
        let mounts = [Mount::Bind { source: one, access: Access::ReadWrite }];
        let mounted = Mounted::new(&mounts, &target).expect("mount");
        let file = fs::File::create(target.join("f")).expect("create");
        let error = mounted.unmount().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains(&*target.to_string_lossy()), "{error}");
        assert!(target.join("f").exists());
        drop(file);
        unmount(&target).expect("nobody uses it any more");
        assert!(!target.join("f").exists());
    }
}
