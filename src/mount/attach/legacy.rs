//! Overlay mounts by one option string for `mount(2)`: for kernels that do not take layers one by one, and for layers
//! that are detached mounts, which only new kernels take.
//!
//! A thread with a mount namespace of its own mounts the overlay there and takes a detached copy of it; the namespace
//! ends with the thread. The kernel silently cuts an option string at a page, so layers whose paths are too long
//! together are given by short symbolic links.
//!
//! # References
//! `mount(2)`; kernel document `filesystems/overlayfs.rst`, "Multiple lower layers" (escapes).

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree};

use super::description::Overlay;
use super::{explain, new, place};
use crate::error::{Context, Error, Result};

/// Maximum length of the option string in bytes: a page, less the final NUL.
const OPTIONS_BYTES_MAX: usize = 4095;

/// Mount point in the thread's namespace: it exists on every machine, and no layer lies in it.
const MOUNT_POINT: &str = "/proc";

/// Lower directories of an overlay.
#[derive(Debug)]
pub(super) enum Layer {
    /// A directory.
    Path(PathBuf),
    /// Several directories below the root of a detached mount.
    Below { mount: OwnedFd, paths: Vec<PathBuf> },
}

/// Creates an overlay mount, detached.
pub(super) fn make(overlay: &Overlay) -> Result<OwnedFd> {
    make_of(overlay, &overlay.lower.iter().map(|dir| Layer::Path(dir.clone())).collect::<Vec<_>>())
}

/// Creates an overlay mount like [`make`], with `layers` in the place of the lower directories of `overlay`, which are
/// named in messages.
pub(super) fn make_of(overlay: &Overlay, layers: &[Layer]) -> Result<OwnedFd> {
    std::thread::scope(|scope| scope.spawn(|| in_own_namespace(overlay, layers)).join())
        .unwrap_or_else(|_| Err(Error::invalid("the thread that mounts an overlay stopped")))
}

/// Creates the overlay. Must run on a thread of its own, because it changes the thread's mounts and working directory.
fn in_own_namespace(overlay: &Overlay, layers: &[Layer]) -> Result<OwnedFd> {
    let links = new("tmpfs", &[("source", Some("strata-layers"))])?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .at("make a mount namespace for", overlay.shown())?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at("make private", "/")?;
    place(&links, Path::new(MOUNT_POINT))?;
    rustix::process::chdir(MOUNT_POINT).at("change directory to", MOUNT_POINT)?;
    rustix::fs::mkdir("merged", rustix::fs::Mode::RWXU).at("make directory", MOUNT_POINT)?;

    let dirs = directories(layers)?;
    let mut options = option_string(overlay, dirs.iter().map(|dir| escaped(dir, b":,\\")));
    if options.len() > OPTIONS_BYTES_MAX {
        for (number, dir) in dirs.iter().enumerate() {
            rustix::fs::symlink(dir, number.to_string()).at("make link to", dir)?;
        }
        options = option_string(overlay, (0..dirs.len()).map(|number| number.to_string().into_bytes()));
    }
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(Error::unsupported(format!(
            "the options of the overlay of {} take {} bytes, and this kernel takes {OPTIONS_BYTES_MAX}: use shorter paths",
            overlay.shown().display(),
            options.len()
        )));
    }
    let options = CString::new(options).map_err(|_| Error::invalid("the path of a layer contains a NUL byte"))?;
    mount("overlay", "merged", "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|errno| explain::overlay_errno(overlay, errno, ""))?;
    open_tree(CWD, "merged", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .at("take a copy of the overlay of", overlay.shown())
}

/// The paths of `layers`, of which detached mounts are attached below the working directory.
fn directories(layers: &[Layer]) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        match layer {
            Layer::Path(path) => dirs.push(path.clone()),
            Layer::Below { mount, paths } => {
                let point = Path::new(MOUNT_POINT).join(format!("layer{number}"));
                rustix::fs::mkdir(&point, rustix::fs::Mode::RWXU).at("make directory", &point)?;
                place(mount, &point)?;
                dirs.extend(paths.iter().map(|path| point.join(path)));
            }
        }
    }
    Ok(dirs)
}

fn option_string(overlay: &Overlay, lower: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut options = b"lowerdir=".to_vec();
    options.extend(lower.collect::<Vec<_>>().join(&b':'));
    if let Some(upper) = &overlay.upper {
        for (key, dir) in [("upperdir", &upper.dir), ("workdir", &upper.work)] {
            options.extend(format!(",{key}=").into_bytes());
            options.extend(escaped(dir, b",\\"));
        }
    }
    let mut rest = String::new();
    for option in &overlay.options {
        let _ = write!(rest, ",{option}");
    }
    options.extend(rest.into_bytes());
    options
}

fn escaped(path: &Path, special: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text
}
