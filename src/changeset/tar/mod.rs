//! The layer format: tar as used by image layers.
//!
//! [`decode`] reads any archive into a stream of changes; [`Encoder`] writes a stream of changes, with exactly one
//! encoding.
//!
//! # References
//! OCI image specification, `layer.md`; POSIX.1-2024 `pax`; GNU tar manual, "Extensions".

mod base64;
mod blocks;
mod decode;
mod encode;
mod header;
mod limits;
mod members;
mod names;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

pub use decode::{Decoded, decode};
pub use encode::{Describe, Encoder, MtimePrecision};
pub use limits::{
    ENTRIES_MAX, LAYERS_MAX, Limits, PADDING_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX, PAX_BYTES_MAX,
    SPARSE_SEGMENTS_MAX, TOTAL_BYTES_MAX, TRAILING_BYTES_MAX, XATTR_BYTES_MAX,
};
pub use members::{Member, MemberContent, Stretch, members};
