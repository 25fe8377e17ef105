//! Workloads that are run by commands: each step is a process, and its start is part of the figure.
//!
//! These figures can only be compared with those of other commands, not with calls in this process. strata takes part
//! with its own command.

use super::{CommandJob, Work, Workload, WorkloadStep};

/// Imports an image into a tree.
pub const IMPORT: Workload = Workload {
    name: "import",
    about: "an OCI image with one gzip layer becomes a tree, by commands",
    steps: &[WorkloadStep {
        name: "import (command)",
        about: "from the start of the command to its end; the image is in memory",
    }],
    headlines: &["import (command)"],
    quick: true,
    work: Work::Commands(CommandJob::Import),
};

/// The life of a container.
pub const LIFE: Workload = Workload {
    name: "commands",
    about: "a container's life by commands: a writable snapshot of the image, ten changes, a layer of them",
    steps: &[
        WorkloadStep { name: "prepare (command)", about: "make a writable snapshot of the image" },
        WorkloadStep { name: "mount (command)", about: "mount it" },
        WorkloadStep {
            name: "unmount (command)",
            about: "append 4 KiB to 5 files of it and make 5 new ones, untimed; then unmount it",
        },
        WorkloadStep { name: "commit (command)", about: "make a layer of it" },
        WorkloadStep { name: "remove (command)", about: "remove it, or the layer" },
    ],
    headlines: &["prepare (command)", "commit (command)"],
    quick: true,
    work: Work::Commands(CommandJob::Life),
};
