//! Who takes part in a comparison, and where.

use std::fmt;

use serde::Serialize;

use super::cost::Place;
use crate::error::{Error, Result};

/// What somebody else does for a contestant.
pub type Hook<'a> = &'a dyn Fn() -> Result<()>;

/// What a contestant is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// One of strata's strategies, called in this process.
    Strategy,
    /// One of strata's strategies, by strata's own commands.
    Command,
    /// Somebody else's tool.
    Peer,
    /// The same work without snapshots: it is compared with, and does not compete.
    Floor,
}

/// Who a contestant is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// What results are shown under: the strategy and the file system.
    pub subject: String,
    /// How snapshots are made.
    pub strategy: String,
    /// The strategy that it is like: the floor of its kind, on the same file system, is its floor. A floor of no kind
    /// is everybody's.
    pub kind: String,
    /// Where they lie.
    pub fs: String,
    /// What it is.
    pub role: Role,
    /// What it does not do that others do, so that its figures are read rightly; empty if there is nothing to say.
    pub lacks: String,
}

impl Label {
    /// `strategy on fs`.
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

    /// Whether this is the floor that `other` is held against.
    pub(super) fn is_floor_of(&self, other: &Self) -> bool {
        self.role == Role::Floor && self.fs == other.fs && (self.kind.is_empty() || self.kind == other.kind)
    }
}

impl From<&str> for Label {
    fn from(strategy: &str) -> Self {
        Self::new(strategy, "", Role::Strategy)
    }
}

/// Who a contestant is, and what is known of the file system that it has for itself.
#[derive(Clone)]
pub struct Entry<'a> {
    pub(super) label: Label,
    pub(super) place: Option<Place>,
    chill: Option<Hook<'a>>,
}

impl<'a> Entry<'a> {
    /// One whose space is not weighed and who is always warm.
    pub fn new(label: impl Into<Label>) -> Self {
        Self { label: label.into(), place: None, chill: None }
    }

    /// Weighs what workloads take on the file system of `place`.
    #[must_use]
    pub fn with_place(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    /// Takes everything out of the caches by `chill`.
    #[must_use]
    pub fn with_chill(self, chill: Hook<'a>) -> Self {
        Self { chill: Some(chill), ..self }
    }

    pub(super) fn chill(&self) -> Result<()> {
        let always_warm = "this file system cannot be unmounted in between, so nothing can be cold";
        self.chill.map_or_else(|| Err(Error::unsupported(always_warm)), |chill| chill())
    }
}

impl From<Label> for Entry<'_> {
    fn from(label: Label) -> Self {
        Self::new(label)
    }
}

impl From<&str> for Entry<'_> {
    fn from(strategy: &str) -> Self {
        Self::new(strategy)
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("label", &self.label).field("place", &self.place).finish_non_exhaustive()
    }
}
