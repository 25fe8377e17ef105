//! Description of an overlay mount: its directories and options, checked before the kernel sees them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::mount::{LOWER_MAX, OVERLAY_OPTIONS, Upper};

/// Options of our own mounts besides [`OVERLAY_OPTIONS`], whose defaults differ between kernels. With `xino=auto` all
/// files have one device number even if the layers lie on several file systems.
const OWN_OPTIONS: [&str; 3] = ["metacopy=off", "nfs_export=off", "xino=auto"];

/// Parameters of an overlay mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overlay {
    /// The lower directories, the topmost first.
    pub(super) lower: Vec<PathBuf>,
    /// The writable part.
    pub(super) upper: Option<Upper>,
    /// All other options: `name` or `name=value`.
    pub(super) options: Vec<String>,
}

impl Overlay {
    /// Returns the parameters of an overlay of strata.
    pub(super) fn own(lower: &[PathBuf], upper: Option<&Upper>, userxattr: bool) -> Self {
        let mut options: Vec<String> = OVERLAY_OPTIONS.iter().chain(&OWN_OPTIONS).map(ToString::to_string).collect();
        if userxattr {
            options.push("userxattr".to_owned());
        }
        Self { lower: lower.to_vec(), upper: upper.cloned(), options }
    }

    /// Returns every directory of the overlay, with its role for messages.
    pub(super) fn dirs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let upper = self.upper.iter();
        let writable = upper.flat_map(|upper| [("upper", upper.dir.as_path()), ("work", upper.work.as_path())]);
        writable.chain(self.lower.iter().map(|dir| ("lower", dir.as_path())))
    }

    /// Returns the directory that messages name.
    pub(super) fn shown(&self) -> &Path {
        self.dirs().next().map_or(Path::new("overlay"), |(_, dir)| dir)
    }

    /// Refuses parameters that the kernel refuses or misinterprets.
    pub(super) fn check(&self) -> Result<()> {
        if self.lower.is_empty() {
            return Err(Error::invalid("an overlay mount needs a lower directory"));
        }
        if self.lower.len() > LOWER_MAX {
            return Err(Error::precondition(format!(
                "{} lower directories are more than the {LOWER_MAX} that one overlay mount can have",
                self.lower.len()
            )));
        }
        if self.upper.is_none() && self.lower.len() == 1 {
            return Err(Error::invalid(format!(
                "an overlay of {} alone, without an upper: bind it instead",
                self.shown().display()
            )));
        }
        match self.dirs().find(|(_, dir)| !dir.is_absolute()) {
            None => Ok(()),
            Some((role, dir)) => {
                Err(Error::invalid(format!("the {role} directory {:?} is not an absolute path", dir.display())))
            }
        }
    }
}
