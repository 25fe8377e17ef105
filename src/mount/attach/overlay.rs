//! Overlay mounts with one call for each layer: `lowerdir+` of Linux 6.8 and later.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount,
};

use super::description::Overlay;
use super::options::Attributes;
use super::{change, check_writable, context, explain, legacy};
use crate::error::{Context, Result};
use crate::mount::Access;

/// Maximum length of a string for `fsconfig`, in bytes.
const STRING_BYTES_MAX: usize = 255;

/// Creates an overlay mount, detached.
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

/// Returns true if the kernel takes layers one by one. Before 6.5 overlayfs accepted any option until the mount was
/// created, so this also checks that an invalid option is refused.
pub(in crate::mount) fn layers_one_by_one() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Ok(context) = context("overlay") else { return false };
        fsconfig_set_flag(&context, "strata-no-such-option").is_err()
            && fsconfig_set_string(&context, "lowerdir+", "/").is_ok()
    })
}

/// Creates the mount with the calls of Linux 6.8 and later.
pub(super) fn add_layers(overlay: &Overlay) -> Result<OwnedFd> {
    let context = context("overlay")?;
    let because = |errno| explain::overlay(overlay, errno, &context);
    fsconfig_set_string(&context, "source", "overlay").map_err(because)?;
    let upper = overlay.upper.iter().flat_map(|upper| [("upperdir", &upper.dir), ("workdir", &upper.work)]);
    for (key, dir) in overlay.lower.iter().map(|dir| ("lowerdir+", dir)).chain(upper) {
        match add_layer(&context, key, dir) {
            // A path that does not fit needs a descriptor, which Linux takes since 6.13; on older kernels it is mounted
            // with `mount(2)`.
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

/// Returns true if the path can be passed as a string: short enough, and without a backslash, which overlayfs treats as
/// an escape.
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
