//! A disk as a power cut may leave it, made of the log of what was written to it.
//!
//! Everything before the last flush that was done is there. Of what came later, any part may be: a disk with a cache
//! writes in the order that it likes. What was written past the cache is there when it was done.
//!
//! # References
//! The Linux kernel, `Documentation/admin-guide/device-mapper/log-writes.rst`: the format, which qemu's `blklogwrites`
//! writes, too. Of its flags: 1 flush, 2 write past the cache, 4 discard, 8 mark.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::FallocateFlags;

/// The first number of a log.
const MAGIC: u64 = 0x006a_7366_7773_6872;

const FLUSH: u64 = 1;
const PAST_CACHE: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// Something that the disk was asked for.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where on the disk, in bytes.
    at: u64,
    /// How much, in bytes.
    length: u64,
    flags: u64,
    /// Where in the log its bytes are.
    data: u64,
    /// Where in the log the next entry is.
    end: u64,
}

/// The log of a disk.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    entries: Vec<Entry>,
    /// Writes that never leave the cache of the disk.
    lost: Range<usize>,
}

fn number(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..][..8].try_into().expect("eight bytes"))
}

impl Log {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).expect("open the log");
        let mut head = [0; 32];
        file.read_exact_at(&mut head, 0).expect("read the log");
        assert_eq!(number(&head, 0), MAGIC, "it is no log of writes");
        let (count, sector) = (number(&head, 2), number(&head, 3) & u64::from(u32::MAX));
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..count {
            let start = entries.last().map_or(sector, |entry| entry.end);
            file.read_exact_at(&mut head, start).expect("read the log");
            let (at, length, flags) = (number(&head, 0) * sector, number(&head, 1) * sector, number(&head, 2));
            let data = start + sector;
            let stored = if flags & (DISCARD | MARK) == 0 { length } else { 0 };
            entries.push(Entry { at, length, flags, data, end: data + stored });
        }
        Self { file, entries, lost: 0..0 }
    }

    /// How many entries it has: a cut comes after that many or fewer.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How much of the log is written when `count` entries are.
    pub(crate) fn bytes_at(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(0, |last| self.entries[last].end)
    }

    /// How many entries were written when the log had `bytes`.
    pub(crate) fn count_at(&self, bytes: u64) -> usize {
        self.entries.partition_point(|entry| entry.end <= bytes)
    }

    /// Drops for good the writes up to the entry `to` that no flush before the entry `from` brought to disk: every
    /// flush between the two failed, and the disk forgot its cache.
    pub(crate) fn lose(&mut self, from: usize, to: usize) {
        let lost = self.flushed(from)..to;
        let flushed = self.entries[from..to].iter().any(|entry| entry.flags & FLUSH != 0);
        assert!(!flushed, "a flush succeeded while all were to fail");
        self.lost = lost;
    }

    /// How many of the first `count` entries no cut can take.
    pub(crate) fn flushed(&self, count: usize) -> usize {
        self.entries[..count].iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |last| last + 1)
    }

    /// Does to `disk` what the entries `from..to` say, but for those that may be lost and that `keep` does not want.
    pub(crate) fn apply(&self, disk: &File, from: usize, to: usize, keep: &mut dyn FnMut() -> bool) {
        for (index, entry) in self.entries.iter().enumerate().take(to).skip(from) {
            if !self.lost.contains(&index) && (entry.flags & PAST_CACHE != 0 || keep()) {
                self.write(disk, entry);
            }
        }
    }

    fn write(&self, disk: &File, entry: &Entry) {
        if entry.flags & DISCARD != 0 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(disk, flags, entry.at, entry.length).expect("discard");
        } else if entry.flags & MARK == 0 {
            let mut bytes = vec![0; usize::try_from(entry.length).expect("it fits into memory")];
            self.file.read_exact_at(&mut bytes, entry.data).expect("read the log");
            disk.write_all_at(&bytes, entry.at).expect("write");
        }
    }
}
