//! `strata serve` from outside: by its socket, and behind real containerds.
//!
//! Every test has a mount namespace of its own with a file system of its own in it, and a `/run` of its own:
//! containerd's shims, and runc, keep their state there. What a failed test leaves running ends with it, or by itself.
//!
//! Three versions of containerd are used: the distribution's, 1.7, and the newest that Debian has.
//! `vagrant/provision.sh` unpacks the last two below `target`.

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod crowd;
mod everyday;
mod harness;
mod image;
mod killed;
mod layers;
mod patience;
mod refusals;
mod rewritten;
mod service;
mod settings;
mod user_namespace;
mod wire;

use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::mount::scratch::FsType;

use harness::{Bench, Containerd, PATIENCE, Version, names, text};

/// A strategy and the file system that it is tested on.
type Setting = (Strategy, FsType);

const SETTINGS: [Setting; 3] = [(OVERLAY, FsType::Ext4), (BTRFS, FsType::Btrfs), (COPY, FsType::Xfs)];
