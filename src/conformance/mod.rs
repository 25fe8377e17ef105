//! What every strategy must do alike, as values and judges: the rules of layers, the cases of lifecycle, operations, a
//! model of a store, random scripts.

pub mod layers;
pub mod lifecycle;
pub mod model;
pub mod ops;
