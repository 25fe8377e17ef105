//! The behaviour that all strategies must share: cases in groups ([`suite`]), the rules of layers, operations, a model
//! of a store, and random scripts.

mod case;
mod changes;
mod concurrency;
mod content;
mod deviations;
mod gene;
pub mod layers;
mod lifecycle;
mod location;
pub mod model;
pub mod ops;
mod possible;
pub mod random;
pub mod suite;
mod trial;

pub use case::{Deviation, Outcome};
pub use trial::GC_ROOT;
