//! Random scripts of operations, performed by several snapshotters and by the model in lock step.
//!
//! After every operation all of them must return the same kind of result. After every commit the trees and the lists of
//! changes must be equal, and the layers of all snapshotters. A layer applied to its parent must leave no difference. A
//! failing script is shortened as long as it still fails, and printed as lines that can be parsed again.
//! shorter as long as it fails, and printed as lines that can be read again.

mod runner;
mod shrink;

use std::fmt::Write as _;

pub use runner::{Runner, Watch, run};
pub use shrink::shrink;

use super::gene::Gene;
use super::model::Model;
use super::ops::Op;
use crate::error::{Error, Result};

/// Maximum number of genes in a script: enough for three or four layers.
const GENES_MAX: u64 = 60;

/// SplitMix64, a pseudorandom generator: the same seed gives the same numbers.
#[derive(Clone, Debug)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Returns the script `number` of `seed`, which is the same in every version with the same model.
pub fn script(seed: u64, number: u64) -> Vec<Op> {
    let mut numbers = Numbers(seed.wrapping_mul(1 << 32).wrapping_add(number));
    let mut model = Model::default();
    let mut script = Vec::new();
    for step in 0..=numbers.next() % GENES_MAX {
        let bits = numbers.next();
        let gene = Gene((bits >> 48) as u8, (bits >> 32) as u16, (bits >> 16) as u16, bits as u16);
        if let Some(op) = model.interpret(gene, step as usize) {
            // Operations that must fail are part of the script too.
            let _ = model.perform(&op);
            script.push(op);
        }
    }
    script
}

/// Prints one line for each operation.
pub fn print(script: &[Op]) -> String {
    script.iter().fold(String::new(), |mut text, op| {
        _ = writeln!(text, "{op}");
        text
    })
}

/// Parses the output of [`print()`]; empty lines and lines that begin with `#` are ignored.
///
/// # Errors
/// `InvalidArgument` that names the line.
pub fn parse(text: &str) -> Result<Vec<Op>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
    lines.map(|(number, line)| line.parse().map_err(|error: Error| error.context(format!("line {number}")))).collect()
}
