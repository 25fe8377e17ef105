//! Reading the text files that describe a build: the Dockerfile and the ignore file.
//!
//! Invariants: at most [`DOCKERFILE_BYTES_MAX`] bytes are read, and only of regular files: a named pipe would hang the
//! build, and a device such as `/dev/zero` has no end. The exception is a descriptor that the user named on purpose
//! (`/dev/stdin`, `<(...)` of a shell), which may be a pipe.
//!
//! # References
//! `open(2)`, "`O_NONBLOCK`"; `proc_pid_fd(5)`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::DOCKERFILE_BYTES_MAX;
use crate::error::{Context as _, Error, Result};

/// Returns the text of the regular file `path`.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for another kind of file, more than [`DOCKERFILE_BYTES_MAX`] bytes, or no UTF-8.
pub(super) fn read_regular(path: &Path) -> Result<String> {
    // Without `O_NONBLOCK` the open of a named pipe waits for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).at("open", path)?;
    let stat = rustix::fs::fstat(&file).at("stat", path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(format!("{} is no regular file", path.display())));
    }
    read_bounded(File::from(file), path)
}

/// Returns the text of `path`, which a user named: a regular file, or a descriptor of this process.
///
/// # Errors
/// Those of [`read_regular`]; a descriptor may be of any kind.
pub(super) fn read_named(path: &Path) -> Result<String> {
    if !is_descriptor(path) {
        return read_regular(path);
    }
    // Without `O_NONBLOCK`: the writer of a pipe may be slower than strata.
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    read_bounded(File::from(file), path)
}

/// Returns whether `path` is one of the names that a shell or a user gives to a descriptor.
fn is_descriptor(path: &Path) -> bool {
    let numbered = |dir: &str| path.strip_prefix(dir).ok().and_then(Path::to_str);
    let number = numbered("/dev/fd").or_else(|| numbered("/proc/self/fd"));
    path == Path::new("/dev/stdin") || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Returns the text that `source` yields; errors call it `name`.
///
/// # Errors
/// `InvalidArgument` for more than [`DOCKERFILE_BYTES_MAX`] bytes, or no UTF-8; errors of the read.
pub fn read_bounded(source: impl Read, name: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(DOCKERFILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).at("read", name)?;
    if bytes.len() > DOCKERFILE_BYTES_MAX {
        return Err(Error::invalid(format!("{} is longer than {DOCKERFILE_BYTES_MAX} bytes", name.display())));
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{} is no UTF-8", name.display())))
}

/// Maximum length of a secret, in bytes. BuildKit has the same limit.
pub const SECRET_BYTES_MAX: u64 = 500 << 10;

/// Returns the content of the file `path`, as a secret.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for more than [`SECRET_BYTES_MAX`] bytes; errors of the read.
pub fn read_secret(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).at("open", path)?;
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(Error::invalid(format!("the secret {} is longer than {SECRET_BYTES_MAX} bytes", path.display())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A named pipe hung the reader, and `/dev/zero` took all memory.
    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("a named pipe");
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
            let error = read_regular(path).expect_err("no regular file");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
        assert_eq!(read_regular(&dir.path().join("none")).expect_err("none").kind(), ErrorKind::NotFound);
    }

    /// `-f /dev/stdin` and `-f <(...)`: the writer of the pipe comes after the open.
    #[test]
    fn descriptors_may_be_pipes() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let writes = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            std::io::Write::write_all(&mut writer, b"FROM scratch")
        });
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_named(Path::new(&path)).expect("text"), "FROM scratch");
        writes.join().expect("no panic").expect("written");
        assert!(["/dev/stdin", "/dev/fd/0", "/dev/fd/63"].iter().all(|path| is_descriptor(Path::new(path))));
        for path in ["/dev/fd/x", "/dev/fd", "/dev/fd/3/Dockerfile", "/dev/zero", "dev/fd/3", "/proc/1/fd/0"] {
            assert!(!is_descriptor(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn long_files_are_refused() {
        let endless = read_bounded(std::io::repeat(b'x'), Path::new("input")).expect_err("endless");
        assert_eq!(endless.to_string(), "input is longer than 1048576 bytes");
        let longest = std::io::repeat(b'x').take(DOCKERFILE_BYTES_MAX as u64);
        assert_eq!(read_bounded(longest, Path::new("input")).map(|text| text.len()).ok(), Some(DOCKERFILE_BYTES_MAX));
    }
}
