//! What every strategy must do alike, as values and a judge: operations, a model of a store, random scripts.

pub mod model;
pub mod ops;
