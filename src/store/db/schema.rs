//! The tables of the store's database, and the steps to each format of them.

/// The steps from an empty file to today's format; step n makes version n + 1. A step, once released, never changes.
pub(super) const MIGRATIONS: [&str; 4] = [SCHEMA, STEPS, VOUCHERS, ID_MAPS];

/// The newest format that this program knows.
pub const FORMAT: usize = MIGRATIONS.len();

/// Version 1.
///
/// The table in `design.rs` explains every column. `state` of `snapshot` is 0 ready, 1 creating (holds its key, not
/// visible), 2 claimed (active and visible, a commit or an apply works on it), 3 reserved (holds the name for a commit
/// to a fresh id). A row that is not ready has its `worker`; a ready row with a `worker` is held for an image without a
/// name yet.
const SCHEMA: &str = "
CREATE TABLE snapshot (
    row INTEGER PRIMARY KEY,
    id INTEGER NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL CHECK (kind IN (1, 2, 3)),
    state INTEGER NOT NULL CHECK (state IN (0, 1, 2, 3)),
    parent INTEGER REFERENCES snapshot (row),
    worker TEXT,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    inodes INTEGER NOT NULL DEFAULT 0,
    durable INTEGER NOT NULL CHECK (durable IN (0, 1)),
    origin INTEGER NOT NULL CHECK (origin IN (0, 1)),
    diff_id TEXT,
    UNIQUE (owner, name)
) STRICT;
CREATE INDEX snapshot_by_parent ON snapshot (parent);
CREATE INDEX snapshot_in_work ON snapshot (worker) WHERE worker IS NOT NULL;
CREATE INDEX snapshot_not_durable ON snapshot (durable) WHERE durable = 0;
CREATE TABLE label (
    snapshot INTEGER NOT NULL REFERENCES snapshot (row) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (snapshot, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE image (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    config TEXT NOT NULL,
    manifest TEXT NOT NULL,
    top INTEGER REFERENCES snapshot (row),
    created INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE document (digest TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE trash (id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE setting (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO setting VALUES ('next_id', 1);
";

/// Version 2.
///
/// `step`: the build cache; `digest` is of what a step depends on, `top` the snapshot after it, `layer_bytes` the
/// length of the layer that it made, NULL if it changed nothing.
const STEPS: &str = "
CREATE TABLE step (
    owner TEXT NOT NULL,
    digest TEXT NOT NULL,
    top INTEGER REFERENCES snapshot (row) ON DELETE CASCADE,
    layer_bytes INTEGER,
    PRIMARY KEY (owner, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX step_by_top ON step (top);
";

/// Version 3.
///
/// `voucher`: the process that may mark a row durable (`vouch.rs`). NULL: the process that commits. A worker and an id:
/// the worker that wrote the row, and the id of the write. '': no process, as for rows of an older strata.
const VOUCHERS: &str = "
ALTER TABLE snapshot ADD COLUMN voucher TEXT;
UPDATE snapshot SET voucher = '' WHERE durable = 0;
";

/// Version 4.
///
/// `id_map`: the ids of the user namespace that an active snapshot or a view was made for, as [`crate::mount::IdMap`]
/// prints them; NULL for none, and for committed snapshots.
const ID_MAPS: &str = "ALTER TABLE snapshot ADD COLUMN id_map TEXT;";
