//! The layer format: tar as image layers use it.
//!
//! # References
//! OCI image specification, `layer.md`; POSIX.1-2024 `pax`; GNU tar manual, "Extensions".

mod decode;
mod encode;
mod pax;
