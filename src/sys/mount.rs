//! Loop devices, and the attributes of mounts.
//!
//! # References
//! `loop(4)`; `mount_setattr(2)`, Linux 5.12.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use linux_raw_sys::general::{MOUNT_ATTR_IDMAP, mount_attr};
use linux_raw_sys::loop_device::{LOOP_CONFIGURE, LOOP_CTL_GET_FREE, loop_config, loop_info64};
use rustix::io::Errno;

use super::check;

/// `LO_FLAGS_AUTOCLEAR`: the device detaches from its file when its last user closes it.
const LOOP_AUTOCLEAR: u32 = 4;

/// Returns the number of a loop device that is free at the moment; the kernel creates one if there is none.
pub(crate) fn loop_free_number(control: BorrowedFd<'_>) -> Result<usize, Errno> {
    // SAFETY: the request takes no argument, and the descriptor is borrowed for the whole call.
    check(libc::c_long::from(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE.into()) }))
}

/// Attaches `image` to `device` until the device's last user closes it; `EBUSY` if another process took the device
/// first.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<(), Errno> {
    let config = loop_config {
        // A borrowed descriptor is never negative.
        fd: image.as_raw_fd().unsigned_abs(),
        block_size: 0,
        info: loop_info64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: 0,
            lo_sizelimit: 0,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: LOOP_AUTOCLEAR,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        },
        __reserved: [0; 8],
    };
    // SAFETY: the kernel only reads the `loop_config`, which lives through the call; both descriptors are borrowed.
    let returned = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE.into(), &raw const config) };
    check(libc::c_long::from(returned)).map(drop)
}

/// Sets the attributes `set` and clears `clear` (`MOUNT_ATTR_*`) on the mount `mount` and all mounts below it, and
/// makes all of them private.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, set: u32, clear: u32) -> Result<(), Errno> {
    let attributes =
        mount_attr { attr_set: set.into(), attr_clr: clear.into(), propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set_attr(mount, libc::AT_RECURSIVE, &attributes)
}

/// Has the detached mount `mount`, without the mounts below it, translate ids as the user namespace `namespace` does.
pub(crate) fn set_id_map(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = mount_attr {
        attr_set: MOUNT_ATTR_IDMAP.into(),
        attr_clr: 0,
        propagation: 0,
        // A borrowed descriptor is never negative.
        userns_fd: namespace.as_raw_fd().unsigned_abs().into(),
    };
    set_attr(mount, 0, &attributes)
}

fn set_attr(mount: BorrowedFd<'_>, flags: i32, attributes: &mount_attr) -> Result<(), Errno> {
    // SAFETY: the path is a static NUL-terminated string, and the kernel only reads the `mount_attr` of the size given.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            ptr::from_ref(attributes),
            size_of::<mount_attr>(),
        )
    };
    check(returned).map(drop)
}
