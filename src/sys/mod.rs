//! System calls that neither rustix nor nix wraps, or not safely: the only unsafe code of the crate.
//!
//! Every function here is one system call with typed arguments and the kernel's errno; what a failure means to a user
//! is said by the callers, which know the path and the operation.

pub(crate) mod btrfs;
#[cfg(feature = "lab")]
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod xattr;

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Turns the return value of `libc::syscall` or `libc::ioctl` into a result.
fn check(returned: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_| {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Errno::from_raw_os_error(code)
    })
}

/// Changes the mode of what an `O_PATH` descriptor refers to, be it a device, a fifo or a file without read permission.
///
/// # References
/// `fchmodat2(2)`, Linux 6.6; `ENOSYS` before.
pub(crate) fn chmod_fd(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: the path is a static NUL-terminated string and the descriptor is borrowed for the whole call.
    let returned =
        unsafe { libc::syscall(libc::SYS_fchmodat2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    check(returned).map(drop)
}

/// Has the kernel begin to write what was written to a file, and waits for nothing. It makes nothing durable.
///
/// # References
/// `sync_file_range(2)`.
pub(crate) fn begin_to_write(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: plain values, and the descriptor is borrowed for the whole call.
    let returned = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    check(returned.into()).map(drop)
}
