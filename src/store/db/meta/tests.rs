use super::*;

const OLD: [&str; 1] = ["CREATE TABLE colour (name TEXT NOT NULL) STRICT"];
const NEW: [&str; 3] =
    [OLD[0], "INSERT INTO colour VALUES ('blue')", "ALTER TABLE colour ADD COLUMN shade INTEGER NOT NULL DEFAULT 7"];
/// The last step fails after its first statement.
const BROKEN: [&str; 2] = [OLD[0], "INSERT INTO colour VALUES ('red'); INSERT INTO nowhere VALUES (1)"];

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    fn open(&self, steps: &'static [&'static str], other: Option<&str>) -> Result<Meta> {
        Meta::open_as(&self.0.path().join("db"), true, steps, || Ok(other.map(str::to_owned)))
    }
}

fn count(meta: &Meta, query: &str) -> i64 {
    meta.read(|connection| connection.query_row(query, [], |row| row.get(0))).expect(query)
}

#[test]
fn an_older_format_is_migrated_when_nobody_else_is_at_work() {
    let place = Place::new();
    let old = place.open(&OLD, Some("somebody")).expect("a new one is nobody's");
    let error = place.open(&NEW, Some("the process of run/5")).expect_err("somebody is at work");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("run/5"), "{error}");
    assert_eq!(count(&old, "PRAGMA user_version"), 1);
    let new = place.open(&NEW, None).expect("migrate");
    assert_eq!(count(&new, "SELECT shade FROM colour"), 7);
    assert_eq!(count(&new, "PRAGMA user_version"), 3);
    place.open(&NEW, Some("somebody")).expect("there is nothing left to do");
    // A process that has the older format open does not write to the newer one.
    let written = old.transact(Level::Relaxed, |tx| tx.execute("INSERT INTO colour VALUES ('red')", []));
    assert_eq!(written.expect_err("newer").kind(), ErrorKind::Unsupported);
    assert_eq!(place.open(&OLD, None).expect_err("newer").kind(), ErrorKind::Unsupported);
    assert_eq!(count(&new, "SELECT count(*) FROM colour"), 1);
}

#[test]
fn a_migration_happens_whole_or_not_at_all() {
    let place = Place::new();
    drop(place.open(&OLD, None).expect("open"));
    place.open(&BROKEN, None).expect_err("a wrong step");
    let old = place.open(&OLD, None).expect("it is as it was");
    assert_eq!(count(&old, "SELECT count(*) FROM colour"), 0);
}

#[test]
fn whoever_waits_too_long_is_told() {
    let place = Place::new();
    let (holder, meta) = (place.open(&OLD, None).expect("open"), place.open(&OLD, None).expect("open"));
    meta.lock().connection.busy_timeout(Duration::from_millis(20)).expect("set");
    let insert = |tx: &Transaction<'_>| tx.execute("INSERT INTO colour VALUES ('blue')", []);
    let inner = holder.transact(Level::Relaxed, |_| {
        assert_eq!(count(&meta, "SELECT count(*) FROM colour"), 0, "readers need not wait");
        Ok::<_, Failed>(meta.transact(Level::Relaxed, insert).map(drop))
    });
    let error = inner.expect("the transaction").expect_err("it is locked");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("locked by another process"), "{error}");
    meta.transact(Level::Relaxed, insert).expect("it is free again");
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let place = Place::new();
    let meta = place.open(&OLD, None).expect("open");
    let failed = meta.transact(Level::Durable, |tx| {
        tx.execute("INSERT INTO colour VALUES ('blue')", [])?;
        Err::<(), Failed>(Error::invalid("a rule").into())
    });
    assert_eq!(failed.expect_err("it failed").kind(), ErrorKind::InvalidArgument);
    assert_eq!(count(&meta, "SELECT count(*) FROM colour"), 0);
}

/// The two levels set different values of `PRAGMA synchronous`.
#[test]
fn levels_are_what_sqlite_calls_them() {
    let place = Place::new();
    let meta = place.open(&OLD, None).expect("open");
    let synchronous = |tx: &Transaction<'_>| tx.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
    assert_eq!(meta.transact(Level::Durable, synchronous).expect("durable"), 2);
    assert_eq!(meta.transact(Level::Relaxed, synchronous).expect("relaxed"), 1);
    assert_eq!(meta.transact(Level::Durable, synchronous).expect("durable"), 2);
}

/// Every column of the schema is explained in `design.rs`.
#[test]
fn every_column_is_explained() {
    let page = include_str!("../../../design.rs");
    let place = Place::new();
    let meta = place.open(&MIGRATIONS, None).expect("open");
    let query = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table'";
    let columns: Vec<(String, String)> = meta
        .read(|connection| {
            let mut statement = connection.prepare(query)?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .expect("the schema");
    assert!(columns.len() > 20, "{columns:?}");
    for (table, column) in columns {
        let rows = page.split(&format!("| `{table}` |")).nth(1).expect(&table);
        let rows = rows.lines().enumerate().take_while(|(at, row)| *at == 0 || row.starts_with("//! | |"));
        let explained = rows.into_iter().any(|(_, row)| row.contains(&format!("`{column}`")));
        assert!(explained, "design.rs does not explain {table}.{column}");
    }
}
