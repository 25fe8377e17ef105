//! A file mapped into memory, for reading and writing through the mapping.
//!
//! # References
//! `mmap(2)`, `msync(2)`, `proc_pid_mem(5)`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::ptr;

use rustix::io::Errno;

/// The beginning of a file, mapped as shared.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    /// Maps the first `length` bytes of `file` for reading.
    pub fn new(file: BorrowedFd<'_>, length: usize) -> Result<Self, Errno> {
        Self::with(file, length, libc::PROT_READ)
    }

    /// Maps the first `length` bytes of `file` for reading and writing: `file` must be open for both.
    pub fn writable(file: BorrowedFd<'_>, length: usize) -> Result<Self, Errno> {
        Self::with(file, length, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn with(file: BorrowedFd<'_>, length: usize, protection: libc::c_int) -> Result<Self, Errno> {
        // SAFETY: the kernel chooses the address; nothing that exists is replaced, and `file` is open.
        let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED { Err(last_error()) } else { Ok(Self { address, length }) }
    }

    /// Returns the bytes that the mapping shows now. Other processes may write to the file or truncate it meanwhile, so
    /// the kernel reads the mapping, through `/proc/self/mem`, and returns an error instead of a signal.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length];
        File::open("/proc/self/mem")?.read_exact_at(&mut bytes, self.address as u64)?;
        Ok(bytes)
    }

    /// Writes `bytes` at the offset `at` of the mapping through `/proc/self/mem`, with the same effect as a store to
    /// memory.
    pub fn write(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        // Memory behind the mapping belongs to other code.
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        OpenOptions::new().write(true).open("/proc/self/mem")?.write_all_at(bytes, (self.address as usize + at) as u64)
    }

    /// Writes the changed bytes to the file.
    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: the address and the length are those of a mapping of our own, and nothing in it changes.
        let answer = unsafe { libc::msync(self.address, self.length, libc::MS_SYNC) };
        if answer == 0 { Ok(()) } else { Err(last_error()) }
    }
}

fn last_error() -> Errno {
    Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the address and the length are those of a mapping of our own, to which no reference was given.
        unsafe { libc::munmap(self.address, self.length) };
    }
}
