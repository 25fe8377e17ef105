//! Description of a subject: its label, its file system, and how its caches are dropped.

use std::fmt;

use serde::Serialize;

use super::cost::MeasuredFs;
use crate::error::{Error, Result};

/// A function that the caller of the comparison provides for a subject.
pub type Hook<'a> = &'a dyn Fn() -> Result<()>;

/// Role of a subject in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A strategy of strata, called in this process.
    Strategy,
    /// A strategy of strata, run by strata's own commands.
    Command,
    /// Another project's tool.
    Peer,
    /// The same work without snapshots. Others are compared with it; it does not compete.
    Floor,
}

/// Names under which a subject is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// Name in the results: the strategy and the file system.
    pub subject: String,
    /// Name of the way snapshots are made.
    pub strategy: String,
    /// Strategy that the subject resembles. A floor applies to the subjects of its kind on the same file system; a
    /// floor with an empty kind applies to all subjects on that file system.
    pub kind: String,
    /// Name of the file system that holds the snapshots.
    pub fs: String,
    /// Role of the subject.
    pub role: Role,
    /// Work that other subjects do and this subject leaves out; empty if there is none. It is printed beside the
    /// figures so that readers do not compare unequal work.
    pub lacks: String,
}

impl Label {
    /// Creates a label with the subject name `strategy on fs`.
    pub fn new(strategy: &str, fs: &str, role: Role) -> Self {
        let subject = if fs.is_empty() { strategy.to_owned() } else { format!("{strategy} on {fs}") };
        let kind = if role == Role::Floor { "" } else { strategy };
        Self {
            subject,
            strategy: strategy.to_owned(),
            kind: kind.to_owned(),
            fs: fs.to_owned(),
            role,
            lacks: String::new(),
        }
    }

    /// Returns true if this is the floor for `other`.
    pub(super) fn is_floor_of(&self, other: &Self) -> bool {
        self.role == Role::Floor && self.fs == other.fs && (self.kind.is_empty() || self.kind == other.kind)
    }
}

impl From<&str> for Label {
    fn from(strategy: &str) -> Self {
        Self::new(strategy, "", Role::Strategy)
    }
}

/// A subject's label, and the file system that only this subject uses.
#[derive(Clone)]
pub struct SubjectProfile<'a> {
    pub(super) label: Label,
    pub(super) measured_fs: Option<MeasuredFs>,
    drop_caches: Option<Hook<'a>>,
}

impl<'a> SubjectProfile<'a> {
    /// Creates a profile without a measured file system and without a way to drop caches.
    pub fn new(label: impl Into<Label>) -> Self {
        Self { label: label.into(), measured_fs: None, drop_caches: None }
    }

    /// Measures the cost of workloads on `measured_fs`.
    #[must_use]
    pub fn with_measured_fs(self, measured_fs: Option<MeasuredFs>) -> Self {
        Self { measured_fs, ..self }
    }

    /// Sets the function that drops all cached data of the subject.
    #[must_use]
    pub fn with_drop_caches(self, drop_caches: Hook<'a>) -> Self {
        Self { drop_caches: Some(drop_caches), ..self }
    }

    pub(super) fn drop_caches(&self) -> Result<()> {
        let always_warm = "this file system cannot be unmounted in between, so nothing can be cold";
        self.drop_caches.map_or_else(|| Err(Error::unsupported(always_warm)), |drop_caches| drop_caches())
    }
}

impl From<Label> for SubjectProfile<'_> {
    fn from(label: Label) -> Self {
        Self::new(label)
    }
}

impl From<&str> for SubjectProfile<'_> {
    fn from(strategy: &str) -> Self {
        Self::new(strategy)
    }
}

impl fmt::Debug for SubjectProfile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectProfile")
            .field("label", &self.label)
            .field("measured_fs", &self.measured_fs)
            .finish_non_exhaustive()
    }
}
