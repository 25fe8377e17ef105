//! What every strategy must do alike, as values and judges: cases in groups ([`suite`]), the rules of layers,
//! operations, a model of a store, random scripts.

mod case;
mod concurrency;
mod content;
mod deviations;
pub mod layers;
mod lifecycle;
pub mod model;
pub mod ops;
mod place;
pub mod random;
mod round;
pub mod suite;

pub use case::{Deviation, Outcome};
pub use round::GC_ROOT;
