//! The store's database: one SQLite file in WAL mode, shared by every process that uses the store.
//!
//! This module opens, checks and migrates the file and runs transactions. The modules beside it have the statements.
//!
//! # Invariants
//! - A write transaction is `BEGIN IMMEDIATE` and does no file-system work but a few system calls that wait for
//!   nothing.
//! - [`Level::Durable`] transactions are on disk when they return; [`Level::Relaxed`] ones keep their order but may be
//!   lost with the power. Reservations are relaxed, everything that is acknowledged is durable.
//! - A transaction whose commit failed does not stay in the log: another one is written over it. Earlier transactions
//!   that were not on disk may be lost too, so the next durable transaction, of any process, begins the log anew. A
//!   full disk is no such failure: SQLite writes the end of a transaction last, and then syncs.
//! - The format is read again at the start of each write transaction: another process may have migrated the file.
//!
//! # References
//! SQLite: "Write-Ahead Logging", "PRAGMA synchronous", "STRICT Tables".

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, ffi};

use super::schema::MIGRATIONS;
use crate::error::{Context, Error, ErrorKind, Result};

mod log;

pub(in crate::store) use self::log::doubt_log;
pub use self::log::waits_by_fdatasync;
use self::log::{
    BUSY_PAUSE, allocate_log, beside, log_is_doubtful, log_is_left, make_in_place, renew_log, use_log, write_log_again,
};

/// `PRAGMA application_id`: "stra".
const APPLICATION_ID: i32 = 0x7374_7261;

/// Time that a transaction waits for another one. No transaction is slow, so a longer wait means a broken machine.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How many statements stay compiled: all that a prepare, a commit and a removal run, in turn.
const STATEMENTS_KEPT: usize = 100;

/// SQLite's extended error codes for calls that a full file system or an exhausted quota refuses. The code of a failed
/// sync is not in the list: the data of that sync is lost, and another try would not bring it back.
const LACK_OF_SPACE: [i32; 7] = [
    ffi::SQLITE_FULL,
    ffi::SQLITE_CANTOPEN,
    ffi::SQLITE_IOERR_WRITE,
    ffi::SQLITE_IOERR_TRUNCATE,
    ffi::SQLITE_IOERR_SHMOPEN,
    ffi::SQLITE_IOERR_SHMSIZE,
    ffi::SQLITE_IOERR_SHMMAP,
];

/// Whether a transaction waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Level {
    /// The transaction is on disk when it returns.
    Durable,
    /// The transaction keeps its place in the order, but a power cut may take the last transactions.
    Relaxed,
}

/// A connection, and the level that its transactions have; `None` if the level is not known.
#[derive(Debug)]
struct Open {
    connection: Connection,
    level: Option<Level>,
}

impl Open {
    /// Makes later transactions wait for the disk as `level` says.
    fn set_level(&mut self, level: Level) -> rusqlite::Result<()> {
        if self.level == Some(level) {
            return Ok(());
        }
        let synchronous = match level {
            Level::Durable => "FULL",
            Level::Relaxed => "NORMAL",
        };
        self.level = None;
        self.connection.pragma_update(None, "synchronous", synchronous)?;
        self.level = Some(level);
        Ok(())
    }
}

/// The open database.
#[derive(Debug)]
pub(in crate::store) struct Meta {
    open: Mutex<Open>,
    path: PathBuf,
    /// True if the tables are those of a store, which have a place to note a failed sync of the log.
    watches_log: bool,
    /// The migrations to the newest format that this handle knows.
    steps: &'static [&'static str],
}

/// Returns true if a database was ever made at `path`: an empty file is none.
pub(in crate::store) fn exists(path: &Path) -> Result<bool> {
    match path.metadata() {
        Ok(stat) => Ok(stat.len() > 0),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => {
            let operation = "find the database (a store is its owner's alone: be root, or choose another root)";
            Err(error).at(operation, path)
        }
    }
}

/// Makes SQLite evaluate `CHECK` constraints, or skip them. Transactions skip them: the Rust types of the values have
/// no others, and SQLite would make a table in memory for each list of values to check.
fn check_values(connection: &Connection, check: bool) -> rusqlite::Result<()> {
    connection.pragma_update(None, "ignore_check_constraints", !check)
}

impl Meta {
    /// Opens the database, and makes it if `create` says so.
    ///
    /// # Errors
    /// `DataLoss` for a file that is no strata database or is damaged; `Unsupported` for a newer format;
    /// `FailedPrecondition` for an older one while `others_at_work` finds another process.
    pub(in crate::store) fn open(
        path: &Path,
        create: bool,
        others_at_work: impl Fn() -> Result<Option<String>>,
    ) -> Result<Self> {
        let meta = Self::open_as(path, create, &MIGRATIONS, others_at_work)?;
        Ok(Self { watches_log: true, ..meta })
    }

    fn open_as(
        path: &Path,
        create: bool,
        steps: &'static [&'static str],
        others_at_work: impl Fn() -> Result<Option<String>>,
    ) -> Result<Self> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let at = |error| failure(error, path);
        if create {
            make_in_place(path)?;
        }
        make_in_place(&beside(path, "-shm"))?;
        let connection = Connection::open_with_flags(path, flags).map_err(at)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(at)?;
        let open = Mutex::new(Open { connection, level: None });
        let meta = Self { open, path: path.to_owned(), watches_log: false, steps };
        meta.recognise()?;
        meta.configure().map_err(at)?;
        if create {
            // SQLite makes the log when it looks into the database for the first time.
            meta.read(version_of)?;
            meta.renew_log_left()?;
            allocate_log(path)?;
        }
        meta.migrate(others_at_work)?;
        Ok(meta)
    }

    /// Begins the log anew if another process left a log in a store that is not made yet. A process that is making the
    /// store at this moment keeps the log busy, until the store is made.
    fn renew_log_left(&self) -> Result<()> {
        let started = Instant::now();
        while log_is_left(&self.path)? && !self.read(is_made)? {
            match renew_log(&self.lock().connection, &self.path).map_err(|failed| failed.at(&self.path)) {
                Err(error) if error.kind() == ErrorKind::Unavailable && started.elapsed() < BUSY_TIMEOUT => {}
                renewed => return renewed,
            }
            std::thread::sleep(BUSY_PAUSE);
        }
        Ok(())
    }

    fn configure(&self) -> rusqlite::Result<()> {
        let Open { connection, .. } = &*self.lock();
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        use_log(connection)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        check_values(connection, false)?;
        // Otherwise the last process to close the database would write the whole log back, with two more syncs.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // Plans then do not depend on bound values, so a statement is not compiled again for other values.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(())
    }

    fn migrate(&self, others_at_work: impl Fn() -> Result<Option<String>>) -> Result<()> {
        let version = self.read(version_of)?;
        if version >= self.steps.len() {
            return self.check_format(version);
        }
        if version > 0
            && let Some(holder) = others_at_work()?
        {
            return Err(Error::precondition(format!(
                "{} has the older format {version} and must be migrated, but {holder} is using it: stop that first",
                self.path.display()
            )));
        }
        self.transact(Level::Durable, |transaction| {
            // Another process may have migrated the file since.
            let version = version_of(transaction)?;
            for step in self.steps.iter().skip(version) {
                transaction.execute_batch(step)?;
            }
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", self.steps.len() as i64)
        })
    }

    /// Refuses another program's database before anything in it is changed.
    fn recognise(&self) -> Result<()> {
        let number = |query: &str| self.read(|connection| connection.query_row(query, [], |row| row.get::<_, i64>(0)));
        // In this order, because a process that makes the store writes tables and application id in one transaction.
        let empty = number("SELECT count(*) FROM sqlite_schema")? == 0 && number("PRAGMA user_version")? == 0;
        if empty || number("PRAGMA application_id")? == i64::from(APPLICATION_ID) {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::data_loss(format!("{path} is an SQLite database, but not a store of strata")))
    }

    fn check_format(&self, version: usize) -> Result<()> {
        if version <= self.steps.len() {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "{} has the format {version}, and this strata knows formats up to {}: use the newer strata that made it",
            self.path.display(),
            self.steps.len()
        )))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // A panic in another thread rolled its transaction back: the connection is sound.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `query` outside any write transaction.
    ///
    /// # Errors
    /// `Unavailable`, `DataLoss`, `ResourceExhausted`, `Io` as SQLite reports them.
    pub(in crate::store) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        query(&self.lock().connection).map_err(|error| failure(error, &self.path))
    }

    /// Returns the faults that SQLite finds in its file, violated `CHECK` constraints included. Without faults, the
    /// only line is `ok`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(in crate::store) fn integrity(&self) -> Result<Vec<String>> {
        self.read(|connection| {
            check_values(connection, true)?;
            let reports = connection
                .prepare("PRAGMA integrity_check")
                .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect());
            check_values(connection, false)?;
            reports
        })
    }

    /// Runs `work` in a read transaction: all its queries see one state.
    ///
    /// # Errors
    /// As [`Self::read`], and what `work` returns.
    pub(in crate::store) fn view<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Failed>) -> Result<T> {
        let mut open = self.lock();
        let transaction = open.connection.transaction().map_err(|error| failure(error, &self.path))?;
        work(&transaction).map_err(|failed| failed.at(&self.path))
    }

    /// Runs `work` in a write transaction, which is rolled back if it fails.
    ///
    /// # Errors
    /// As [`Self::read`], and what `work` returns.
    pub(in crate::store) fn transact<T, E: Into<Failed>>(
        &self,
        level: Level,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T> {
        self.try_transact(level, |transaction| work(transaction).map_err(Into::into))
            .map_err(|failed| failed.at(&self.path))
    }

    fn try_transact<T>(
        &self,
        level: Level,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let mut open = self.lock();
        open.set_level(level)?;
        let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.check_format(version_of(&transaction)?)?;
        let transaction = match level == Level::Durable && self.watches_log && log_is_doubtful(&transaction)? {
            false => transaction,
            true => {
                // The open transaction keeps other writers from the log.
                write_log_again(&self.path)?;
                drop(transaction);
                tracing::warn!("an earlier sync of the database's log failed: it is begun anew");
                renew_log(&open.connection, &self.path)?;
                let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                transaction.execute("DELETE FROM setting WHERE name = 'lost_log'", [])?;
                transaction
            }
        };
        let answer = work(&transaction)?;
        let committed = transaction.commit();
        // On a full disk a write fails before the end of the transaction is in the log, and before any sync.
        if committed.as_ref().is_err_and(|error| error.sqlite_error_code() != Some(ErrorCode::DiskFull)) {
            write_over(&mut open);
        }
        committed.map(|()| answer).map_err(Failed::from)
    }
}

/// Writes another transaction over one that failed. If only the sync failed, the failed transaction is whole in the
/// log. A process that reads the log anew (the next process, if this is the only one) would take it for committed.
fn write_over(open: &mut Open) {
    // SQLite writes nothing for an update that changes nothing. Ids only grow, so a skipped id does no harm.
    let skip = "BEGIN IMMEDIATE; UPDATE setting SET value = value + 1 WHERE name = 'next_id'";
    // The failed sync also covered transactions that other processes had written without a sync.
    let skip = |connection: &Connection| connection.execute_batch(skip).and_then(|()| doubt_log(connection));
    let relaxed = open.set_level(Level::Relaxed);
    let connection = &open.connection;
    let done = relaxed.and_then(|()| skip(connection)).and_then(|()| connection.execute_batch("COMMIT"));
    if let Err(error) = done {
        tracing::warn!(%error, "a transaction that failed may be found done by the next process");
        if !connection.is_autocommit() {
            // The first error is the one to report.
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
}

/// Why a transaction ended early: SQLite, or a rule of the store.
#[derive(Debug)]
pub(in crate::store) enum Failed {
    Sqlite(rusqlite::Error),
    Rule(Error),
}

impl Failed {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Sqlite(error) => failure(error, path),
            Self::Rule(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Rule(error)
    }
}

/// Returns true if the store was noted as made, which is the last step of making it.
fn is_made(connection: &Connection) -> rusqlite::Result<bool> {
    let has_settings = connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'setting'")?.exists([])?;
    if !has_settings {
        return Ok(version_of(connection)? > 0);
    }
    connection.prepare("SELECT 1 FROM setting WHERE name = 'backend'")?.exists([])
}

fn version_of(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

/// Returns true if SQLite could not make, extend or write a file. These errors include an exhausted quota, because
/// SQLite distinguishes only `ENOSPC`, and a full disk when SQLite makes its index in shared memory.
pub(in crate::store) fn may_lack_space(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<rusqlite::Error>());
    let code = source.and_then(rusqlite::Error::sqlite_error).map(|error| error.extended_code);
    code.is_some_and(|code| LACK_OF_SPACE.contains(&code))
}

fn failure(error: rusqlite::Error, path: &Path) -> Error {
    let shown = path.display();
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Unavailable,
            format!("{shown} stayed locked by another process for {} s", BUSY_TIMEOUT.as_secs()),
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            // A file system may drop what it could not write, and show an older state.
            let cure = "look whether its disk fails (dmesg), else restore it from a backup";
            (ErrorKind::DataLoss, format!("{shown} is damaged or no database: {cure}"))
        }
        Some(ErrorCode::DiskFull) => (ErrorKind::ResourceExhausted, format!("no space left to write {shown}")),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (ErrorKind::PermissionDenied, format!("{shown} may not be written"))
        }
        Some(ErrorCode::CannotOpen) => (ErrorKind::Io, format!("cannot open {shown}")),
        _ => (ErrorKind::Io, format!("using the database {shown}")),
    };
    Error::new(kind, message).with_source(error)
}

#[cfg(test)]
mod tests;
