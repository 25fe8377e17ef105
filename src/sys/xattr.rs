//! Extended attributes by directory descriptor and name, never following a link.
//!
//! # References
//! `setxattrat(2)` and its family, Linux 6.13. Before that the same is reached through `/proc/self/fd/N/name`, which
//! the `l*xattr(2)` calls resolve without following the last component.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use linux_raw_sys::general::xattr_args;
use rustix::io::Errno;

use super::check;

const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

/// Initial buffer size of [`list`] and [`get`]; most files have no or few attributes.
const BUFFER_BYTES: usize = 512;

/// Returns the path that reaches `name` in `dir` on kernels without the `*at` calls. An empty name is the directory
/// itself.
fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name.to_bytes() });
    CString::new(path).map_err(|_| Errno::INVAL)
}

fn flags(name: &CStr) -> libc::c_int {
    if name.is_empty() { libc::AT_EMPTY_PATH } else { libc::AT_SYMLINK_NOFOLLOW }
}

/// Calls `read` with growing buffers until the value fits.
fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {
                let wanted = read(&mut [])?;
                buffer.resize(wanted.max(buffer.len() * 2), 0);
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// Returns `ENOSYS` if the kernel lacks the calls by directory and name.
pub(crate) fn has_at_calls() -> Result<(), Errno> {
    list_at(rustix::fs::CWD, c".", &mut []).map(drop)
}

/// Returns the attribute names of `name` in `dir` (of `dir` itself if the name is empty), each terminated by a NUL.
pub(crate) fn list(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    grow(|buffer| match list_at(dir, name, buffer) {
        Err(Errno::NOSYS) => rustix::fs::llistxattr(&proc_path(dir, name)?, buffer),
        answer => answer,
    })
}

fn list_at(dir: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: `name` is NUL-terminated, and the kernel writes at most `buffer.len()` bytes to the buffer.
    let returned = unsafe {
        libc::syscall(SYS_LISTXATTRAT, dir.as_raw_fd(), name.as_ptr(), flags(name), buffer.as_mut_ptr(), buffer.len())
    };
    check(returned)
}

/// Returns the value of one attribute; `ENODATA` if it does not exist.
pub(crate) fn get(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr) -> Result<Vec<u8>, Errno> {
    grow(|buffer| match get_at(dir, name, attribute, buffer) {
        Err(Errno::NOSYS) => rustix::fs::lgetxattr(&proc_path(dir, name)?, attribute, buffer),
        answer => answer,
    })
}

fn get_at(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    let size = u32::try_from(buffer.len()).map_err(|_| Errno::TOOBIG)?;
    let args = xattr_args { value: buffer.as_mut_ptr() as u64, size, flags: 0 };
    // SAFETY: both strings are NUL-terminated, and `args` describes a buffer that lives through the call.
    let returned = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            flags(name),
            attribute.as_ptr(),
            &raw const args,
            size_of::<xattr_args>(),
        )
    };
    check(returned)
}

/// Sets one attribute, creating or replacing it.
pub(crate) fn set(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, value: &[u8]) -> Result<(), Errno> {
    match set_at(dir, name, attribute, value) {
        Err(Errno::NOSYS) => {
            rustix::fs::lsetxattr(&proc_path(dir, name)?, attribute, value, rustix::fs::XattrFlags::empty())
        }
        answer => answer,
    }
}

fn set_at(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, value: &[u8]) -> Result<(), Errno> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let args = xattr_args { value: value.as_ptr() as u64, size, flags: 0 };
    // SAFETY: both strings are NUL-terminated; the kernel only reads the `size` bytes behind `value`.
    let returned = unsafe {
        libc::syscall(
            SYS_SETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            flags(name),
            attribute.as_ptr(),
            &raw const args,
            size_of::<xattr_args>(),
        )
    };
    check(returned).map(drop)
}

/// Removes one attribute; `ENODATA` if it does not exist.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr) -> Result<(), Errno> {
    match remove_at(dir, name, attribute) {
        Err(Errno::NOSYS) => rustix::fs::lremovexattr(&proc_path(dir, name)?, attribute),
        answer => answer,
    }
}

fn remove_at(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr) -> Result<(), Errno> {
    // SAFETY: both strings are NUL-terminated.
    let returned =
        unsafe { libc::syscall(SYS_REMOVEXATTRAT, dir.as_raw_fd(), name.as_ptr(), flags(name), attribute.as_ptr()) };
    check(returned).map(drop)
}
