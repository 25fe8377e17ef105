//! The interpreter of a script, and the loader of a dynamic executable.
//!
//! Files of an image come from strangers. A malformed file has no interpreter here, and the kernel decides about it.
//!
//! # References
//! `execve(2)`, "Interpreter scripts"; `elf(5)`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// The length of the start of a file in which the kernel looks for a `#!` line, in bytes.
const LINE_BYTES_MAX: usize = 256;

/// The longest path that the kernel takes, in bytes, with the NUL byte at its end.
const PATH_BYTES_MAX: u64 = 4096;

/// The first bytes of a little-endian ELF file of 64 bits.
const ELF: &[u8] = b"\x7fELF\x02\x01";

/// The type of the segment with the path of the loader.
const PT_INTERP: u32 = 3;

/// Maximum number of segments that are read. Compilers make about a dozen.
const SEGMENTS_MAX: u64 = 64;

/// Returns the path of the interpreter or loader, as `file` spells it.
pub(super) fn of(file: &File) -> Option<PathBuf> {
    let mut start = [0; LINE_BYTES_MAX];
    let count = file.read_at(&mut start, 0).ok()?;
    let start = start.get(..count)?;
    let path = match start.strip_prefix(b"#!") {
        Some(line) => of_script(line)?.to_owned(),
        None if start.starts_with(ELF) => of_executable(file, start)?,
        None => return None,
    };
    Some(PathBuf::from(OsStr::from_bytes(&path)))
}

/// Returns whether `file` begins with text, and not with `#!`. No format of executables begins like this.
pub(super) fn is_text(file: &File) -> bool {
    let mut start = [0; LINE_BYTES_MAX];
    let count = file.read_at(&mut start, 0).unwrap_or_default();
    let start = start.get(..count).unwrap_or_default();
    let is_text = |byte: &u8| !byte.is_ascii_control() || b"\t\n\r".contains(byte);
    !start.is_empty() && !start.starts_with(b"#!") && start.iter().all(is_text)
}

fn of_script(line: &[u8]) -> Option<&[u8]> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())
}

fn of_executable(file: &File, header: &[u8]) -> Option<Vec<u8>> {
    let (table, size, count) = (number(header, 32, 8)?, number(header, 54, 2)?, number(header, 56, 2)?);
    for segment in 0..count.min(SEGMENTS_MAX) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table.checked_add(segment * size)?).ok()?;
        if number(&entry, 0, 4)? == u64::from(PT_INTERP) {
            let (at, length) = (number(&entry, 8, 8)?, number(&entry, 32, 8)?);
            let mut path = vec![0; usize::try_from(length.min(PATH_BYTES_MAX)).ok()?];
            file.read_exact_at(&mut path, at).ok()?;
            return path.split(|byte| *byte == 0).next().filter(|path| !path.is_empty()).map(<[u8]>::to_owned);
        }
    }
    None
}

/// Returns the little-endian number of `length` bytes at `at`.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(content: &[u8]) -> Option<PathBuf> {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(content, 0).expect("write");
        of(&file)
    }

    #[test]
    fn scripts() {
        for (content, expected) in [
            ("#!/bin/sh\necho", Some("/bin/sh")),
            ("#! \t/bin/sh -e x\n", Some("/bin/sh")),
            ("#!bin/sh", Some("bin/sh")),
            ("#!/bin/sh\r\n", Some("/bin/sh\r")),
            ("#!\n/bin/sh", None),
            ("#! ", None),
            ("echo", None),
            ("", None),
        ] {
            assert_eq!(named(content.as_bytes()), expected.map(PathBuf::from), "{content:?}");
        }
    }

    /// An executable with a segment of another kind, and a segment that says that the path of the loader has `length`
    /// bytes at `at`. The file ends with `path`.
    fn executable(at: u64, length: u64, path: &[u8]) -> Vec<u8> {
        let mut bytes = [ELF, &[0; 64 - ELF.len()]].concat();
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&2_u16.to_le_bytes());
        bytes.extend([1; 56]);
        let mut entry = [0; 56];
        entry[..4].copy_from_slice(&PT_INTERP.to_le_bytes());
        entry[8..16].copy_from_slice(&at.to_le_bytes());
        entry[32..40].copy_from_slice(&length.to_le_bytes());
        bytes.extend(entry);
        bytes.extend(path);
        bytes
    }

    #[test]
    fn executables() {
        let whole = executable(176, 12, b"/lib/ld.so.2\0");
        assert_eq!(named(&whole), Some(PathBuf::from("/lib/ld.so.2")));
        assert_eq!(named(&executable(176, 13, b"/lib/ld.so.2\0")), Some(PathBuf::from("/lib/ld.so.2")));
        for (at, length) in [(u64::MAX, 1), (176, u64::MAX), (176, 0), (188, 1)] {
            assert_eq!(named(&executable(at, length, b"/lib/ld.so.2\0")), None, "{at} {length}");
        }
        for end in 0..whole.len() - 1 {
            assert_eq!(named(&whole[..end]), None, "cut at {end}");
        }
        let mut far = whole;
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(named(&far), None);
        let path_before = executable(64, 3, b"");
        assert_eq!(named(&path_before), Some(PathBuf::from("\x01\x01\x01")));
        assert_eq!(named(&path_before[..path_before.len() - 1]), None, "the last segment is not whole");
    }

    #[test]
    fn other_executables() {
        for (at, byte) in [(0, b'x'), (4, 1), (5, 2)] {
            let mut other = executable(176, 12, b"/lib/ld.so.2\0");
            other[at] = byte;
            assert_eq!(named(&other), None, "{byte} at {at}");
        }
    }

    #[test]
    fn so_many_segments_are_looked_at() {
        let with_others = |count: u16| {
            let end = 64 + (u64::from(count) + 1) * 56;
            let mut bytes = executable(end, 12, b"/lib/ld.so.2\0");
            bytes[56..58].copy_from_slice(&(count + 1).to_le_bytes());
            bytes.splice(64..64, [1; 56].repeat(usize::from(count) - 1));
            named(&bytes)
        };
        assert_eq!(with_others(63), Some(PathBuf::from("/lib/ld.so.2")));
        assert_eq!(with_others(64), None);
    }
}
