//! The behaviour that all strategies must share: cases in groups ([`suite`]), the rules of layers, operations, a model
//! of a store, and random scripts.

mod case;
mod concurrency;
mod content;
mod deviations;
pub mod layers;
mod lifecycle;
mod location;
pub mod model;
pub mod ops;
pub mod random;
pub mod suite;
mod trial;

pub use case::{Deviation, Outcome};
pub use trial::GC_ROOT;
