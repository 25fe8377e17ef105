//! Overlay mounts, one layer per call: `lowerdir+` of Linux 6.8 and later.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount,
};

use super::options::Attributes;
use super::{change, check_writable, context, explain, legacy};
use crate::error::{Context, Error, Result};
use crate::mount::{Access, LOWER_MAX, OVERLAY_OPTIONS, Upper};

/// What our own mounts have beyond [`OVERLAY_OPTIONS`]: the remaining options with a default that differs from kernel
/// to kernel. With `xino=auto` a file keeps one device number even where the layers lie on several file systems.
const OWN_OPTIONS: [&str; 3] = ["metacopy=off", "nfs_export=off", "xino=auto"];

/// The longest string that `fsconfig` takes, in bytes.
const STRING_BYTES_MAX: usize = 255;

/// An overlay mount as it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overlay {
    /// The lower directories, the nearest to the top first.
    pub(super) lower: Vec<PathBuf>,
    /// The writable part.
    pub(super) upper: Option<Upper>,
    /// All other options: `name` or `name=value`.
    pub(super) options: Vec<String>,
}

impl Overlay {
    /// An overlay of a backend of ours.
    pub(super) fn own(lower: &[PathBuf], upper: Option<&Upper>, userxattr: bool) -> Self {
        let mut options: Vec<String> = OVERLAY_OPTIONS.iter().chain(&OWN_OPTIONS).map(ToString::to_string).collect();
        if userxattr {
            options.push("userxattr".to_owned());
        }
        Self { lower: lower.to_vec(), upper: upper.cloned(), options }
    }

    /// Every directory that it is made of, with what it is called in messages.
    pub(super) fn dirs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let upper = self.upper.iter();
        let writable = upper.flat_map(|upper| [("upper", upper.dir.as_path()), ("work", upper.work.as_path())]);
        writable.chain(self.lower.iter().map(|dir| ("lower", dir.as_path())))
    }

    /// The directory by which messages name the mount.
    pub(super) fn shown(&self) -> &Path {
        self.dirs().next().map_or(Path::new("overlay"), |(_, dir)| dir)
    }

    /// What the kernel does not take, or takes for something else.
    fn check(&self) -> Result<()> {
        if self.lower.is_empty() {
            return Err(Error::invalid("an overlay mount needs a lower directory"));
        }
        if self.lower.len() > LOWER_MAX {
            return Err(Error::precondition(format!(
                "{} lower directories are more than the {LOWER_MAX} that one overlay mount can have",
                self.lower.len()
            )));
        }
        if self.upper.is_none() && self.lower.len() == 1 {
            return Err(Error::invalid(format!(
                "an overlay of {} alone, without an upper: bind it instead",
                self.shown().display()
            )));
        }
        match self.dirs().find(|(_, dir)| !dir.is_absolute()) {
            None => Ok(()),
            Some((role, dir)) => {
                Err(Error::invalid(format!("the {role} directory {:?} is not an absolute path", dir.display())))
            }
        }
    }
}

/// Makes an overlay mount, detached.
pub(super) fn make(overlay: &Overlay, attributes: &Attributes) -> Result<OwnedFd> {
    overlay.check()?;
    let mount = if layers_one_by_one() { add_layers(overlay) } else { legacy::make(overlay) }?;
    if *attributes != Attributes::default() {
        change(&mount, attributes, overlay.shown())?;
    }
    if let (Some(upper), Access::ReadWrite) = (&overlay.upper, attributes.access) {
        check_writable(&mount, || explain::read_only(upper))?;
    }
    Ok(mount)
}

/// Whether the kernel takes layers one by one. Before 6.5 overlayfs took any option until the mount was made, so a
/// nonsense option must be refused as well.
pub(in crate::mount) fn layers_one_by_one() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Ok(context) = context("overlay") else { return false };
        fsconfig_set_flag(&context, "strata-no-such-option").is_err()
            && fsconfig_set_string(&context, "lowerdir+", "/").is_ok()
    })
}

/// Makes the mount with the calls of Linux 6.8 and later.
pub(super) fn add_layers(overlay: &Overlay) -> Result<OwnedFd> {
    let context = context("overlay")?;
    let because = |errno| explain::overlay(overlay, errno, &context);
    fsconfig_set_string(&context, "source", "overlay").map_err(because)?;
    let upper = overlay.upper.iter().flat_map(|upper| [("upperdir", &upper.dir), ("workdir", &upper.work)]);
    for (key, dir) in overlay.lower.iter().map(|dir| ("lowerdir+", dir)).chain(upper) {
        match add_layer(&context, key, dir) {
            // Linux takes descriptors since 6.13, and such paths in no other way.
            Err(Errno::INVAL | Errno::BADF) if !fits_a_string(dir) => return legacy::make(overlay),
            answer => answer.map_err(because)?,
        }
    }
    for option in &overlay.options {
        let set = match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, option.as_str()),
        };
        if let Err(errno) = set {
            let operation = format!("set the option {option:?} of the overlay of");
            return Err(errno).at(&explain::logged(&context, &operation), overlay.shown());
        }
    }
    fsconfig_create(&context).map_err(because)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(because)
}

/// Whether the path can be given as a string: short enough, and without the character by which overlayfs escapes.
fn fits_a_string(dir: &Path) -> bool {
    let bytes = dir.as_os_str().as_bytes();
    bytes.len() <= STRING_BYTES_MAX && !bytes.contains(&b'\\')
}

fn add_layer(context: &OwnedFd, key: &str, dir: &Path) -> Result<(), Errno> {
    if fits_a_string(dir) {
        return fsconfig_set_string(context, key, dir.as_os_str());
    }
    let layer = rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fsconfig_set_fd(context, key, &layer)
}
