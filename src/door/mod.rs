//! Reading layers into a store, and writing snapshots as layers.
//!
//! [`ingest`] reads a blob (compressed or not), verifies it and writes it into an active snapshot, or commits it as a
//! snapshot named by its ChainID. The import of images, containerd's differ, `strata apply` and `ADD` all call it, so
//! limits, cancellation and verification are the same for all of them. [`emit()`] writes a snapshot as a layer.

pub mod emit;
pub mod ingest;
mod publish;

pub use emit::{EmitOptions, Encoding, emit};
pub use ingest::{Expected, Filled, IngestOptions, Intake, Record};
pub use publish::{LayerName, commit_layer, is_present};
