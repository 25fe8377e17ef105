//! Limits of a Dockerfile and its ignore file.
//!
//! Dockerfile and build context may come from strangers, so the cost of planning a build is bounded.

use std::cell::Cell;
use std::rc::Rc;

use super::parse::{Position, Stage};
use crate::error::Result;

/// The most instructions of a build, those of `ONBUILD` and of all stages up to the target included. Each instruction
/// becomes an entry of the image's history, which every reader of the image loads.
pub const INSTRUCTIONS_MAX: usize = 10_000;

/// The most stages: each stage copies the history and the settings of its base.
pub const STAGES_MAX: usize = 1000;

/// The most labels of an image, and likewise variables, ports and volumes: a protocol has so many ports.
pub const ENTRIES_MAX: usize = 65_536;

/// The most bind mounts of the commands of a build. A mount of the build context holds a descriptor during the whole
/// build, and the usual limit of a process is 1024 descriptors.
pub const BINDS_MAX: usize = 500;

/// The most bytes that the expanded texts of a build, the environments of its commands and the inherited settings of
/// its stages may have together. All of them are in memory at once.
pub const EXPANDED_BYTES_MAX: usize = 64 << 20;

/// The most patterns of an ignore file: each path of the context is compared with all.
pub const PATTERNS_MAX: usize = 10_000;

/// Bounds of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most instructions.
    pub instructions: usize,
    /// The most stages.
    pub stages: usize,
    /// The most bytes of expanded texts.
    pub expanded_bytes: usize,
    /// The most patterns of the ignore file.
    pub patterns: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instructions: INSTRUCTIONS_MAX,
            stages: STAGES_MAX,
            expanded_bytes: EXPANDED_BYTES_MAX,
            patterns: PATTERNS_MAX,
        }
    }
}

impl Limits {
    /// Refuses a Dockerfile with more stages than the limit.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn check_stages(&self, stages: &[Stage]) -> Result<()> {
        let over = |stage: &Stage| {
            let what = format!("there are more than {} stages: --limit stages=NUMBER allows more", self.stages);
            Err(stage.at.wrong(what))
        };
        stages.get(self.stages).map_or(Ok(()), over)
    }
}

/// The part of a build's limits that is left. All stages share one budget, because many small values add up.
#[derive(Clone, Debug)]
pub(super) struct Budget(Rc<Left>);

#[derive(Debug)]
struct Left {
    limits: Limits,
    instructions: Cell<usize>,
    binds: Cell<usize>,
    bytes: Cell<usize>,
    /// Bytes of values that are compared with patterns. `bytes` does not count them, because a pattern can shorten a
    /// value to nothing.
    matched: Cell<usize>,
}

/// Takes `wanted` off `left`; false if `left` is smaller.
fn take(left: &Cell<usize>, wanted: usize) -> bool {
    let rest = left.get().checked_sub(wanted);
    left.set(rest.unwrap_or_default());
    rest.is_some()
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Rc::new(Left {
            limits,
            instructions: Cell::new(limits.instructions),
            binds: Cell::new(BINDS_MAX),
            bytes: Cell::new(limits.expanded_bytes),
            matched: Cell::new(limits.expanded_bytes),
        }))
    }

    /// Takes `bytes` of expanded texts for the instruction at `at`.
    ///
    /// # Errors
    /// `InvalidArgument` if the build has no more.
    pub(super) fn take(&self, at: &Position, bytes: usize) -> Result<()> {
        if take(&self.0.bytes, bytes) {
            return Ok(());
        }
        let limit = self.0.limits.expanded_bytes;
        Err(at.wrong(format!(
            "the build's expanded texts are longer than {limit} bytes: --limit expanded=NUMBER allows more"
        )))
    }

    /// Takes `bytes` of a value that a pattern in `${...}` is matched with.
    ///
    /// # Errors
    /// The message, if the build has no more.
    pub(super) fn matched(&self, bytes: usize) -> Result<(), String> {
        let limit = self.0.limits.expanded_bytes;
        let over = || {
            format!("the patterns of the build look at more than {limit} bytes: --limit expanded=NUMBER allows more")
        };
        take(&self.0.matched, bytes).then_some(()).ok_or_else(over)
    }

    /// Takes one instruction.
    ///
    /// # Errors
    /// `InvalidArgument` if the build has no more.
    pub(super) fn instruction(&self, at: &Position) -> Result<()> {
        if take(&self.0.instructions, 1) {
            return Ok(());
        }
        let limit = self.0.limits.instructions;
        Err(at.wrong(format!("the build has more than {limit} instructions: --limit instructions=NUMBER allows more")))
    }

    /// Takes one bind mount.
    ///
    /// # Errors
    /// `InvalidArgument` if the build has no more.
    pub(super) fn bind(&self, at: &Position) -> Result<()> {
        let over = || at.wrong(format!("the commands of the build have more than {BINDS_MAX} bind mounts"));
        take(&self.0.binds, 1).then_some(()).ok_or_else(over)
    }
}

/// Refuses a list of the image's config that has more than [`ENTRIES_MAX`] entries; `what` is the name of the entries
/// in the error.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn check_entries(at: &Position, what: &str, count: usize) -> Result<()> {
    let over = || at.wrong(format!("the image has more than {ENTRIES_MAX} {what}"));
    (count <= ENTRIES_MAX).then_some(()).ok_or_else(over)
}
