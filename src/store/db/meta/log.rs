//! The files that SQLite has beside its database: how they are made, and how a log is begun anew.
//!
//! # References
//! SQLite: "Write-Ahead Logging"; `fallocate(2)`; `chattr(1)`, attribute `C`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, ffi};
use rustix::fs::{FallocateFlags, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{BUSY_TIMEOUT, Failed};
use crate::error::{Context, Error, ErrorKind, Result};

/// How much of the log is read at once to be written again.
const LOG_CHUNK_BYTES: usize = 256 << 10;

/// How much of the log is allocated beforehand: what it holds before it is written back (1,000 pages), and some more,
/// for on a full disk it cannot be written back.
const LOG_BYTES: u64 = 4608 << 10;

/// At most one part in so many of what is left of a file system is allocated for the log.
const LOG_SHARE: u64 = 16;

/// How often a database that somebody is making is looked at.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Returns whether SQLite was compiled to wait for its log by `fdatasync`, which does not write the times of the log's
/// file to disk. `.cargo/config.toml` says so to builds of this crate; a program that depends on the crate has to
/// say so itself. SQLite does not tell which one it was: its compiler and this crate's are given the same environment.
pub fn waits_by_fdatasync() -> bool {
    option_env!("LIBSQLITE3_FLAGS").is_some_and(|flags| flags.contains("HAVE_FDATASYNC"))
}

/// Switches to the write-ahead log. While another process makes the same database SQLite says at once that it is busy,
/// whatever its timeout.
pub(super) fn use_log(connection: &Connection) -> rusqlite::Result<()> {
    let started = Instant::now();
    loop {
        match switch_to_log(connection) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && started.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            answer => return answer,
        }
    }
}

/// Switches to the write-ahead log once. SQLite answers with the new mode first and brings the switch to disk when it
/// is asked for another row. Without that its failure would go unnoticed, and the database keep a journal beside it
/// that a power cut can bring back after a transaction was acknowledged.
fn switch_to_log(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA journal_mode = wal")?;
    let modes = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    match modes.last() {
        Some(mode) if mode == "wal" => Ok(()),
        mode => {
            let why = format!("SQLite cannot begin its log, and stays with the journal mode {mode:?}");
            Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), Some(why)))
        }
    }
}

/// Returns the path of a file that SQLite has beside its database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Makes the file `path`, unless it is there, to be written in place. btrfs would need space for each page that is
/// written again: without any left a transaction fails, and a process that changes a page of a file in its memory (the
/// index of the log) is killed by the kernel (`SIGBUS`).
pub(super) fn make_in_place(path: &Path) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => Ok(()),
        made => write_in_place(&made.at("make", path)?, path),
    }
}

/// Has the empty `file` at `path` written in place.
fn write_in_place(file: &OwnedFd, path: &Path) -> Result<()> {
    match rustix::fs::ioctl_setflags(file, IFlags::NOCOW) {
        // The file system writes in place anyhow, or SQLite has written to the file meanwhile.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(()),
        set => set.at("set the flag C (write in place) of", path),
    }
}

/// Allocates the log of a new `database`, so that what frees space on a full disk can be written to it. Where that
/// cannot be done the reserve is all that such a disk has.
pub(super) fn allocate_log(database: &Path) -> Result<()> {
    let path = beside(database, "-wal");
    let file = match rustix::fs::open(&path, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.at("open", &path)?,
    };
    if rustix::fs::fstat(&file).at("stat", &path)?.st_size > 0 {
        return Ok(());
    }
    write_in_place(&file, &path)?;
    let stat = rustix::fs::fstatvfs(&file).at("stat the file system of", &path)?;
    let bytes = LOG_BYTES.min(stat.f_bavail.saturating_mul(stat.f_frsize) / LOG_SHARE);
    if bytes > 0
        && let Err(why) = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes)
    {
        tracing::debug!(path = %path.display(), %why, "the log is not allocated beforehand");
    }
    Ok(())
}

/// Whether part of the log may be lost, so that what is written behind it would be lost with it.
pub(super) fn log_is_doubtful(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM setting WHERE name = 'lost_log'")?.exists([])
}

/// Notes that what was written to the log and not brought to disk may be lost.
pub(in crate::store) fn doubt_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO setting VALUES ('lost_log', 1)", []).map(drop)
}

/// Whether the log of `database` has content: in a store that is not made yet another process put it there, and may
/// have been told that a sync of it failed. No table has a place for a note of that yet.
pub(super) fn log_is_left(database: &Path) -> Result<bool> {
    let path = beside(database, "-wal");
    match path.metadata() {
        Ok(stat) => Ok(stat.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("stat", path),
    }
}

/// Brings the log of `database`, as it is in memory, into the database itself and begins another. To write the same
/// blocks again is not enough: ext4 leaves a block of which the first write failed marked as never written, takes
/// later writes to it, and after the next mount shows zeros. The caller has done that nevertheless, so that a power cut
/// in the middle finds a whole log wherever it suffices.
pub(super) fn renew_log(connection: &Connection, database: &Path) -> Result<(), Failed> {
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if !busy {
        // The checkpoint gave back what was allocated.
        return Ok(allocate_log(database)?);
    }
    let shown = database.display();
    Err(Error::new(ErrorKind::Unavailable, format!("{shown}: others read the log, which must be begun anew")).into())
}

/// Writes the log of `database` once more, as it is in memory, and brings it to disk. The caller is the only writer.
pub(super) fn write_log_again(database: &Path) -> Result<()> {
    let path = &beside(database, "-wal");
    let file = File::options().read(true).write(true).open(path).at("open", path)?;
    let (mut buffer, mut at) = (vec![0; LOG_CHUNK_BYTES], 0);
    loop {
        match file.read_at(&mut buffer, at).at("read", path)? {
            0 => return file.sync_data().at("fdatasync", path),
            count => {
                file.write_all_at(&buffer[..count], at).at("write", path)?;
                at += count as u64;
            }
        }
    }
}
