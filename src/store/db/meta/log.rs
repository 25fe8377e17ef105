//! The files that SQLite has beside its database: making them, and beginning a log anew.
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

/// Bytes of the log that are read at once to be written again.
const LOG_CHUNK_BYTES: usize = 256 << 10;

/// Bytes of the log that are allocated beforehand: the 1,000 pages after which SQLite writes the log back, and some
/// more, because the log cannot be written back on a full disk.
const LOG_BYTES: u64 = 4608 << 10;

/// The allocation takes at most this fraction (one part in `LOG_SHARE`) of the free bytes.
const LOG_SHARE: u64 = 16;

/// Pause between two looks at a database that another process is making.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Returns true if SQLite syncs its log by `fdatasync`, which does not write the times of the file. The variable
/// `LIBSQLITE3_FLAGS` of the build decides: `.cargo/config.toml` sets it for this crate, and a program that depends on
/// the crate has to set it itself. SQLite does not report the choice, so this function reads the variable that SQLite's
/// compiler got.
pub fn waits_by_fdatasync() -> bool {
    option_env!("LIBSQLITE3_FLAGS").is_some_and(|flags| flags.contains("HAVE_FDATASYNC"))
}

/// Switches to the write-ahead log. While another process makes the same database, SQLite ignores its timeout and fails
/// as busy at once, so this function tries again.
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

/// Switches to the write-ahead log once. SQLite returns the new mode as the first row, and syncs the switch when the
/// next row is asked for. Without that second request a failed sync would go unnoticed: a journal would stay beside the
/// database, and a power cut could bring it back after a transaction was acknowledged.
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

/// Makes the file `path`, unless it exists, with the attribute `C` (write in place). Without it btrfs needs new space
/// for each page that is written again. On a full disk a transaction would fail, and the kernel would kill (`SIGBUS`) a
/// process that changes a mapped page, as SQLite does in the index of the log.
pub(super) fn make_in_place(path: &Path) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => Ok(()),
        made => write_in_place(&made.at("make", path)?, path),
    }
}

/// Sets the attribute `C` (write in place) of the empty `file` at `path`.
fn write_in_place(file: &OwnedFd, path: &Path) -> Result<()> {
    match rustix::fs::ioctl_setflags(file, IFlags::NOCOW) {
        // The file system writes in place anyhow, or SQLite has written to the file meanwhile.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(()),
        set => set.at("set the flag C (write in place) of", path),
    }
}

/// Allocates the log of a new `database`, so that removals can be written to it on a full disk. If the allocation
/// fails, removals on a full disk have only the reserve.
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

/// Returns true if a part of the log may be lost: transactions written after that part would be lost with it.
pub(super) fn log_is_doubtful(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM setting WHERE name = 'lost_log'")?.exists([])
}

/// Notes that the part of the log that is not on disk may be lost.
pub(in crate::store) fn doubt_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO setting VALUES ('lost_log', 1)", []).map(drop)
}

/// Returns true if the log of `database` has content. In a store that is not made yet, another process wrote the log,
/// and its sync may have failed: no table has a place to note that yet.
pub(super) fn log_is_left(database: &Path) -> Result<bool> {
    let path = beside(database, "-wal");
    match path.metadata() {
        Ok(stat) => Ok(stat.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("stat", path),
    }
}

/// Copies the log of `database` from the page cache into the database, and begins an empty log. Writing the same blocks
/// again ([`write_log_again`]) is not enough: ext4 keeps a block marked as never written if its first write failed,
/// takes later writes to the block, and shows zeros after the next mount. `Meta::try_transact` writes them again first
/// nevertheless: on other file systems that makes the log whole, in case of a power cut during the copy.
pub(super) fn renew_log(connection: &Connection, database: &Path) -> Result<(), Failed> {
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if !busy {
        // The checkpoint truncated the log, which freed its allocated blocks.
        return Ok(allocate_log(database)?);
    }
    let shown = database.display();
    Err(Error::new(ErrorKind::Unavailable, format!("{shown}: others read the log, which must be begun anew")).into())
}

/// Writes the log of `database` once more, from the page cache, and brings it to disk. The caller is the only writer.
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
