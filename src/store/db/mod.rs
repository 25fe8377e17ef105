//! The database of a store. Only these modules use SQLite.
//!
//! - [`meta`] opens the file and runs transactions, [`schema`] has the tables.
//! - [`rows`] reads and writes the rows of snapshots, [`labels`] their labels, [`durability`] the columns that say
//!   which snapshots are on disk.
//! - [`images`] has the images and their documents, [`steps`] the results of steps of builds.

pub(super) mod durability;
pub(super) mod images;
pub(super) mod labels;
pub(super) mod meta;
pub(super) mod rows;
pub(super) mod schema;
pub(super) mod steps;

pub(super) use rusqlite::Transaction;
