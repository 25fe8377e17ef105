//! A file mapped into memory, to be looked at.
//!
//! # References
//! `mmap(2)`, `proc_pid_mem(5)`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::ptr;

use rustix::io::Errno;

/// The beginning of a file, mapped for reading and shared.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    /// Maps the first `length` bytes of `file`.
    pub fn new(file: BorrowedFd<'_>, length: usize) -> Result<Self, Errno> {
        // SAFETY: the kernel chooses the address; nothing that exists is replaced, and `file` is open.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            let code = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return Err(Errno::from_raw_os_error(code));
        }
        Ok(Self { address, length })
    }

    /// The bytes that the mapping shows now. Others may write to them meanwhile, and cut the file: so it is the kernel that
    /// reads, which then answers with an error.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length];
        File::open("/proc/self/mem")?.read_exact_at(&mut bytes, self.address as u64)?;
        Ok(bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the address and the length are those of a mapping of our own, to which no reference was given.
        unsafe { libc::munmap(self.address, self.length) };
    }
}
