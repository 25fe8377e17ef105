//! What every strategy must do alike, as values and judges: the rules of layers, operations, a model of a store, random
//! scripts.

pub mod layers;
pub mod model;
pub mod ops;
