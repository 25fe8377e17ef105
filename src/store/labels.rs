//! Labels of a snapshot: the labels that an update changes, and the most bytes that labels may have.
//!
//! The bound of one label is containerd's. Without the bound of all labels of a snapshot, a client could set so many,
//! one request after the other, that no message of `List` has room for the snapshot.

use super::db::Transaction;
use super::db::labels as stored_labels;
use super::db::meta::Failed;
use crate::error::{Error, Result};
use crate::snapshotter::{Info, Labels};

/// The longest label, name and value together, in bytes: containerd's own limit.
pub const LABEL_BYTES_MAX: usize = 4096;

/// The most bytes that all labels of one snapshot may have, names and values together.
pub const LABELS_BYTES_MAX: usize = 1 << 20;

/// How many characters of a name an error shows.
const SHOWN_CHARS: usize = 64;

/// The labels that an update changes.
pub(super) enum LabelChange<'a> {
    All,
    Some(Vec<&'a str>),
}

impl<'a> LabelChange<'a> {
    /// Reads the paths of a field mask; no path at all means all labels.
    pub(super) fn parse(fieldpaths: &[&'a str]) -> Result<Self> {
        let mut names = Vec::new();
        for path in fieldpaths {
            match path.strip_prefix("labels.") {
                Some(name) if !name.is_empty() => names.push(name),
                _ if *path == "labels" => return Ok(Self::All),
                _ => return Err(Error::invalid(format!("the field {path:?} cannot be changed: only labels can"))),
            }
        }
        Ok(if names.is_empty() { Self::All } else { Self::Some(names) })
    }

    /// Checks the labels of `info` that the update sets. Other labels may be longer, if an earlier release stored them.
    pub(super) fn check(&self, info: &Info) -> Result<()> {
        match self {
            Self::All => check_labels(&info.labels),
            Self::Some(names) => names.iter().try_for_each(|name| {
                info.labels.get_key_value(*name).map_or(Ok(()), |(name, value)| check_label(name, value))
            }),
        }
    }

    /// Sets the labels of `row` to those of `info`.
    pub(super) fn make(&self, tx: &Transaction<'_>, row: i64, info: &Info) -> Result<(), Failed> {
        let before = stored_labels::bytes_of_labels(tx, row)?;
        match self {
            Self::All => stored_labels::set_labels(tx, row, &info.labels)?,
            Self::Some(names) => {
                for name in names {
                    stored_labels::set_label(tx, row, name, info.labels.get(*name).map_or("", String::as_str))?;
                }
            }
        }
        // A snapshot of an earlier release may have more bytes. Labels can be removed from it one by one.
        let after = stored_labels::bytes_of_labels(tx, row)?;
        if after > before { Ok(check_total(after)?) } else { Ok(()) }
    }
}

/// Checks the labels that a caller gives to one snapshot.
///
/// # Errors
/// `InvalidArgument` for a label beyond [`LABEL_BYTES_MAX`], and for labels beyond [`LABELS_BYTES_MAX`] together.
pub fn check_labels(labels: &Labels) -> Result<()> {
    labels.iter().try_for_each(|(name, value)| check_label(name, value))?;
    check_total(labels.iter().map(|(name, value)| name.len() + value.len()).sum())
}

fn check_label(name: &str, value: &str) -> Result<()> {
    let bytes = name.len() + value.len();
    if bytes <= LABEL_BYTES_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(SHOWN_CHARS).collect();
    Err(Error::invalid(format!(
        "the label {shown:?} has {bytes} bytes with its value: at most {LABEL_BYTES_MAX} are allowed"
    )))
}

fn check_total(bytes: usize) -> Result<()> {
    if bytes <= LABELS_BYTES_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the labels of the snapshot would have {bytes} bytes together: at most {LABELS_BYTES_MAX} are allowed"
    )))
}
