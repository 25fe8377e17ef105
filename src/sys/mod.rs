//! System calls that neither rustix nor nix wraps safely: the only unsafe code of the crate.
//!
//! Every function here is one system call with typed arguments that returns the kernel's errno. The callers know the
//! path and the operation, and explain a failure to the user.

pub(crate) mod btrfs;
#[cfg(feature = "lab")]
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod xattr;

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Converts the return value of `libc::syscall` or `libc::ioctl`.
fn check(returned: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_| {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Errno::from_raw_os_error(code)
    })
}

/// Changes the mode of the inode behind an `O_PATH` descriptor; this includes devices, fifos and files without read
/// permission.
///
/// # References
/// `fchmodat2(2)`, Linux 6.6; `ENOSYS` before.
pub(crate) fn chmod_fd(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: the path is a static NUL-terminated string and the descriptor is borrowed for the whole call.
    let returned =
        unsafe { libc::syscall(libc::SYS_fchmodat2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    check(returned).map(drop)
}

/// Makes the kernel start writing a file's dirty data, without waiting. This makes nothing durable.
///
/// # References
/// `sync_file_range(2)`.
pub(crate) fn begin_to_write(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: plain values, and the descriptor is borrowed for the whole call.
    let returned = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    check(returned.into()).map(drop)
}
