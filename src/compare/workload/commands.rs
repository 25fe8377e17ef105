//! What people do with commands: each step is a process, and starting it is part of the figure.
//!
//! So these figures are held against those of other commands, and not against calls in this process. strata takes part
//! by its own command.

use super::{Job, Step, Work, Workload};

/// An image becomes a tree.
pub const IMPORT: Workload = Workload {
    name: "import",
    about: "an OCI image with one gzip layer becomes a tree, by commands",
    steps: &[Step {
        name: "import (command)",
        about: "from the start of the command to its end; the image is in memory",
    }],
    headlines: &["import (command)"],
    quick: true,
    work: Work::Commands(Job::Import),
};

/// The life of a container.
pub const LIFE: Workload = Workload {
    name: "commands",
    about: "a container's life by commands: a writable snapshot of the image, ten changes, a layer of them",
    steps: &[
        Step { name: "prepare (command)", about: "make a writable snapshot of the image" },
        Step { name: "mount (command)", about: "mount it" },
        Step {
            name: "unmount (command)",
            about: "append 4 KiB to 5 files of it and make 5 new ones, untimed; then unmount it",
        },
        Step { name: "commit (command)", about: "make a layer of it" },
        Step { name: "remove (command)", about: "remove it, or the layer" },
    ],
    headlines: &["prepare (command)", "commit (command)"],
    quick: true,
    work: Work::Commands(Job::Life),
};
