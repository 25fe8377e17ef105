//! The findings of a check, in words and as values.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::id::Digest;

/// How many paths of one finding are printed.
const PATHS_SHOWN: usize = 8;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Acknowledged data is lost or changed.
    Damaged,
    /// Unneeded files take space. No acknowledged data is lost.
    Debris,
    /// The check can neither confirm nor refute that the content is right.
    Unverified,
}

impl Severity {
    /// Returns the name of the severity.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Debris => "debris",
            Self::Unverified => "unverified",
        }
    }
}

/// A snapshot, or an image, of some owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The owner of the snapshot or image.
    pub owner: String,
    /// The key or name of the snapshot or image.
    pub name: String,
    /// A snapshot's directory in `s/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "the snapshot {:?} of {} (s/{id})", self.name, self.owner),
            None => write!(f, "the image {:?} of {}", self.name, self.owner),
        }
    }
}

/// A fault, or a property that the check cannot confirm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// SQLite finds the database damaged.
    Database {
        /// SQLite's report.
        report: String,
    },
    /// The directory of a snapshot is missing.
    Missing(Subject),
    /// The topmost layer of an image is no committed snapshot.
    Top(Subject),
    /// An image lacks its config or manifest.
    Document {
        /// The image.
        image: Subject,
        /// The digest of the document.
        document: String,
        /// The fault of the document.
        why: &'static str,
    },
    /// The content of a layer differs from its digest.
    Content {
        /// The layer's snapshot.
        snapshot: Subject,
        /// The recorded DiffID of the layer.
        recorded: Digest,
        /// The DiffID of the content on disk.
        found: Digest,
    },
    /// The files of a layer have the right contents, but the tree differs from the layer: in modes, owners, times,
    /// attributes, links, or in the paths that there are.
    Tree {
        /// The layer's snapshot.
        snapshot: Subject,
        /// The paths that differ.
        paths: BTreeSet<PathBuf>,
    },
    /// A layer cannot be read.
    Unreadable {
        /// The layer's snapshot.
        snapshot: Subject,
        /// The error, with its path.
        why: String,
    },
    /// The files of a layer have the right contents. Modes, owners and so on could not be compared.
    Uncompared {
        /// The layer's snapshot.
        snapshot: Subject,
        /// Why the layer could not be applied once more.
        why: String,
    },
    /// A directory has no row in the database.
    Debris {
        /// At `s/<id>`.
        id: u64,
    },
    /// The space of a removed snapshot waits to be freed.
    Waiting {
        /// At `s/<id>`.
        id: u64,
    },
    /// A process died while it worked on a snapshot, or held it for an image.
    Abandoned(Subject),
    /// No process may mark a snapshot durable: a sync failed, or its writer ended before the snapshot was on disk.
    Unvouched(Subject),
    /// A sync failed while an active snapshot was written to: a commit of it is refused until the next boot.
    Doubtful(Subject),
    /// A layer has no DiffID to be compared with.
    Unknown(Subject),
    /// Another program than strata wrote a snapshot that has the name of a layer.
    Unverified(Subject),
}

impl Problem {
    /// Returns the severity of the problem.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Database { .. }
            | Self::Missing(_)
            | Self::Top(_)
            | Self::Document { .. }
            | Self::Content { .. }
            | Self::Tree { .. }
            | Self::Unreadable { .. } => Severity::Damaged,
            Self::Debris { .. } | Self::Waiting { .. } | Self::Abandoned(_) | Self::Unvouched(_) => Severity::Debris,
            Self::Uncompared { .. } | Self::Doubtful(_) | Self::Unknown(_) | Self::Unverified(_) => {
                Severity::Unverified
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database { report } => write!(f, "the database: {report}"),
            Self::Missing(snapshot) => write!(f, "{snapshot} is missing on disk"),
            Self::Top(image) => write!(f, "the topmost layer of {image} is missing"),
            Self::Document { image, document, why } => write!(f, "the document {document} of {image} {why}"),
            Self::Content { snapshot, recorded, found } => {
                write!(f, "the content of {snapshot} changed: its layer is {recorded}, what is there {found}")
            }
            Self::Tree { snapshot, paths } => {
                write!(f, "{snapshot} is not what its layer makes of its parent: ")?;
                for (number, path) in paths.iter().take(PATHS_SHOWN).enumerate() {
                    write!(f, "{}/{}", if number == 0 { "" } else { ", " }, path.display())?;
                }
                match paths.len().saturating_sub(PATHS_SHOWN) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::Unreadable { snapshot, why } => write!(f, "{snapshot} cannot be read: {why}"),
            Self::Uncompared { snapshot, why } => {
                write!(f, "{snapshot} has the contents of its layer, the rest could not be compared: {why}")
            }
            Self::Debris { id } => write!(f, "s/{id} is nobody's"),
            Self::Waiting { id } => write!(f, "s/{id} was removed and takes space"),
            Self::Abandoned(snapshot) => write!(f, "{snapshot} is in the work of a process that died"),
            Self::Unvouched(snapshot) => write!(f, "nobody can say that {snapshot} is on disk"),
            Self::Doubtful(snapshot) => write!(f, "a sync failed before {snapshot} was on disk"),
            Self::Unknown(snapshot) => write!(f, "{snapshot} has no recorded digest: --record computes it"),
            Self::Unverified(snapshot) => {
                write!(f, "{snapshot} was not written by strata: nothing says that it is the layer of its name")
            }
        }
    }
}

/// The action of a repair for a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "remedy", rename_all = "snake_case")]
pub enum Remedy {
    /// Rows and directories of dead processes are removed, and their space is freed.
    Collect,
    /// An empty snapshot gets its directory again: no data in the directory was ever acknowledged.
    MakeAgain,
    /// Images are removed, and layers that only images need, so that an import brings them whole.
    ImportAgain {
        /// The images, by name.
        images: Vec<String>,
        /// The snapshots, children first.
        snapshots: Vec<String>,
    },
    /// Nothing: the reason, and what the user can do.
    None(#[serde(skip)] Cow<'static, str>),
}

impl Remedy {
    /// Nothing, because of `why`.
    pub(super) const fn none(why: &'static str) -> Self {
        Self::None(Cow::Borrowed(why))
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collect => f.write_str("clear up"),
            Self::MakeAgain => f.write_str("make its empty directory again"),
            Self::ImportAgain { images, snapshots } => {
                let mut what: Vec<String> = images.iter().map(|image| format!("the image {image}")).collect();
                what.extend(snapshots.iter().map(|snapshot| format!("the layer {snapshot}")));
                write!(f, "remove {}: import {} again", what.join(", "), if images.is_empty() { "them" } else { "it" })
            }
            Self::None(why) => write!(f, "none: {why}"),
        }
    }
}

/// A finding of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The problem that was found.
    pub problem: Problem,
    /// The action of a repair for the problem.
    pub remedy: Remedy,
}
