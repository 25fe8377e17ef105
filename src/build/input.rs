//! Reading the text files that describe a build: the Dockerfile and the ignore file.
//!
//! Invariant: only regular files are read, and of these at most [`DOCKERFILE_BYTES_MAX`] bytes. A named pipe would hang
//! the build, and a device such as `/dev/zero` has no end.
//!
//! # References
//! `open(2)`, "`O_NONBLOCK`".

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

/// Returns what `source` holds; errors call it `name`.
///
/// # Errors
/// `InvalidArgument` for more than [`DOCKERFILE_BYTES_MAX`] bytes, or no UTF-8; what the read reports.
pub fn read_bounded(source: impl Read, name: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(DOCKERFILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).at("read", name)?;
    if bytes.len() > DOCKERFILE_BYTES_MAX {
        return Err(Error::invalid(format!("{} is longer than {DOCKERFILE_BYTES_MAX} bytes", name.display())));
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{} is no UTF-8", name.display())))
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

    #[test]
    fn long_files_are_refused() {
        let endless = read_bounded(std::io::repeat(b'x'), Path::new("input")).expect_err("endless");
        assert_eq!(endless.to_string(), "input is longer than 1048576 bytes");
        let longest = std::io::repeat(b'x').take(DOCKERFILE_BYTES_MAX as u64);
        assert_eq!(read_bounded(longest, Path::new("input")).map(|text| text.len()).ok(), Some(DOCKERFILE_BYTES_MAX));
    }
}
