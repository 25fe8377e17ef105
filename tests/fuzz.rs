//! The properties of the fuzz targets on their corpus, and on mutations of it for a while: each gets a sixth of
//! `STRATA_BUDGET_S` seconds (default 6). `make fuzz` searches further, guided by coverage.

#[allow(unused_imports, dead_code, reason = "the fuzz targets use the rest")]
#[path = "fuzz/src/lib.rs"]
mod properties;
#[path = "support/random.rs"]
mod random;
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::Rng as _;
use proptest::test_runner::TestRng;

use properties::{apply, decode, differential, round_trip, seal};
use random::{rng, seed};

/// Seconds of a random suite without `STRATA_BUDGET_S`.
const BUDGET_S: u64 = 6;

/// Part of the seconds that each target gets.
const SHARE: u32 = 6;

/// Maximum length of a mutated input, as in `make fuzz`.
const BYTES_MAX: usize = 16_384;

const BLOCK_BYTES: usize = 512;

/// Bytes that mean something in a header: ends of texts, parts of paths, digits, types of entries.
const TELLING: &[u8] = b"\0/.07gxLKS";

/// The property of a target, which panics if it does not hold for an input.
type Check = fn(&[u8]);

/// Each target with its property.
const TARGETS: [(&str, Check); 4] = [
    ("decode", decode::check),
    ("round_trip", round_trip::check),
    ("differential", differential::check),
    ("apply", apply::check),
];

#[test]
fn properties_hold_on_the_corpus_and_on_mutations() {
    let is_root = rustix::process::geteuid().is_root();
    let budget = std::env::var("STRATA_BUDGET_S").ok().and_then(|text| text.parse().ok()).unwrap_or(BUDGET_S);
    for (number, (name, check)) in TARGETS.into_iter().enumerate() {
        // Layers are applied on a file system in memory, in a root directory of the thread's own.
        let available = if is_root { Ok(()) } else { Err("not root".to_owned()) };
        if name == "apply" && !support::require("root", available) {
            continue;
        }
        let corpus = corpus(name);
        corpus.iter().for_each(|archive| check(archive));
        let end = Instant::now() + Duration::from_secs(budget) / SHARE;
        let mut rounds = 0;
        while Instant::now() < end {
            let archive = mutated(&corpus, &mut rng(rounds * TARGETS.len() as u64 + number as u64));
            if let Err(panic) = std::panic::catch_unwind(|| check(&archive)) {
                support::say(&format!("{name}: STRATA_SEED={}, round {rounds}: {}", seed(), archive.escape_ascii()));
                std::panic::resume_unwind(panic);
            }
            rounds += 1;
        }
        support::say(&format!("{name}: {} inputs of the corpus, {rounds} mutations", corpus.len()));
    }
}

/// Returns the inputs of the target `name`, in a fixed order.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut paths: Vec<_> =
        std::fs::read_dir(&dir).expect("the corpus").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("read")).collect()
}

/// Returns an input of the corpus with a few changes. Most get right checksums: otherwise hardly any would pass the
/// first header.
fn mutated(corpus: &[Vec<u8>], random: &mut TestRng) -> Vec<u8> {
    let mut archive = corpus[below(random, corpus.len())].clone();
    for _ in 0..=below(random, 4) {
        mutate(&mut archive, &corpus[below(random, corpus.len())], random);
    }
    archive.truncate(BYTES_MAX);
    if below(random, 8) > 0 {
        seal(&mut archive);
    }
    archive
}

/// Changes `archive` in one way; `other` is an input to take blocks from.
fn mutate(archive: &mut Vec<u8>, other: &[u8], random: &mut TestRng) {
    let length = archive.len();
    if length == 0 {
        return archive.extend_from_slice(other);
    }
    let at = below(random, length);
    let block = at / BLOCK_BYTES * BLOCK_BYTES;
    let block_end = length.min(block + BLOCK_BYTES);
    match below(random, 7) {
        0 => archive[at] ^= 1 << below(random, 8),
        1 => archive[at] = random.next_u32().to_le_bytes()[0],
        2 => archive[at] = TELLING[below(random, TELLING.len())],
        3 => archive.truncate(at),
        4 => drop(archive.drain(block..block_end)),
        5 => archive.extend_from_within(block..block_end),
        _ => {
            let from = below(random, other.len().max(1)) / BLOCK_BYTES * BLOCK_BYTES;
            archive.splice(block..block, other[from.min(other.len())..].iter().copied());
        }
    }
}

/// Returns a number below `end`.
fn below(random: &mut TestRng, end: usize) -> usize {
    random.next_u32() as usize % end
}
