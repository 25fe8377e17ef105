//! Input from strangers, generated: mutations of seeds, by the words of what is read.
//!
//! A test runs in a process of its own, which has a limit on its memory, and for each input one on the time of the
//! processor. So a parser that loops, or takes all memory, ends that process and not the machine's. The input is in a
//! file before it is tried; the test that started the process shows it.
//!
//! # References
//! `setrlimit(2)` (`RLIMIT_AS`, `RLIMIT_CPU`).

use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use proptest::prelude::Rng as _;
use proptest::test_runner::TestRng;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::{random, testing};

/// Names the file of the input, in the process of its own.
const VARIABLE: &str = "STRATA_STRANGER";

/// Seconds of the processor for one input: some hundred times what the longest needs without optimization.
const CPU_S: u64 = 10;

/// Bytes of address space beyond what the process has when it begins.
const SPACE_BYTES: u64 = 768 << 20;

/// The longest input, in bytes.
const INPUT_BYTES_MAX: usize = 128 << 10;

/// Seconds of a test, unless `STRATA_BUDGET_S` sets others.
const BUDGET_S: u64 = 2;

/// The share of `STRATA_BUDGET_S` that one test takes: there are many.
const BUDGET_SHARE: u32 = 4;

/// The process says this at its end, before the number of inputs.
const TRIED: &str = "inputs tried: ";

/// Tries `take` with mutations of `seeds`. The caller is the test `test`, by its whole path.
///
/// # Panics
/// If `take` panics, or goes beyond a limit.
pub fn try_each(test: &str, seeds: &[Vec<u8>], words: &[&str], mut take: impl FnMut(&[u8])) {
    let Some(path) = env::var_os(VARIABLE) else { return start(test) };
    let wanted = env::var("STRATA_BUDGET_S").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let budget = wanted.map_or(Duration::from_secs(BUDGET_S), |wanted| wanted / BUDGET_SHARE);
    let (began, mut round) = (Instant::now(), 0);
    limit_space();
    while began.elapsed() < budget || round < seeds.len() as u64 {
        let mut mutator = Mutator { seeds, words, random: random::rng(round) };
        let seed = usize::try_from(round).ok().and_then(|round| seeds.get(round));
        let input = seed.cloned().unwrap_or_else(|| mutator.input());
        fs::write(&path, &input).expect("note the input");
        limit_time();
        take(&input);
        round += 1;
    }
    testing::say(&format!("{TRIED}{round}"));
}

/// Runs the test `test` in a process of its own.
fn start(test: &str) {
    let input = tempfile::NamedTempFile::new().expect("a file");
    let name = test.split_once("::").map_or(test, |(_, name)| name);
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(VARIABLE, input.path());
    let output = command.output().expect("run the test");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let tried = said.lines().find_map(|line| line.strip_prefix(TRIED));
    let Some(tried) = tried.filter(|_| output.status.success()) else {
        let kept = input.into_temp_path().keep().expect("keep the input");
        let bytes = fs::read(&kept).unwrap_or_default();
        let shown = bytes[..bytes.len().min(2000)].escape_ascii();
        panic!("{name}: {}: the input is in {}: {shown}\n{said}", output.status, kept.display());
    };
    testing::say(&format!("{name}: {tried} inputs"));
}

fn limit_space() {
    let status = fs::read_to_string("/proc/self/status").expect("the size of this process");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
    let size: u64 = size.and_then(|size| size.parse().ok()).expect("a number of kilobytes");
    let most = Some((size << 10) + SPACE_BYTES);
    setrlimit(Resource::As, Rlimit { current: most, maximum: most }).expect("limit the memory");
}

/// Allows this process [`CPU_S`] from now on.
fn limit_time() {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec.unsigned_abs();
    setrlimit(Resource::Cpu, Rlimit { current: Some(used + CPU_S), maximum: None }).expect("limit the time");
}

struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    words: &'a [&'a str],
    random: TestRng,
}

impl Mutator<'_> {
    fn below(&mut self, end: usize) -> usize {
        self.random.next_u64() as usize % end.max(1)
    }

    fn input(&mut self) -> Vec<u8> {
        let seed = self.below(self.seeds.len());
        let mut bytes = self.seeds[seed].clone();
        for _ in 0..=self.below(12) {
            self.change(&mut bytes);
            bytes.truncate(INPUT_BYTES_MAX);
        }
        bytes
    }

    /// A part of `bytes`, mostly a short one.
    fn part(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let longest = if self.below(4) == 0 { bytes.len() } else { 16 };
        let length = self.below(longest.min(bytes.len() - start) + 1);
        start..start + length
    }

    /// How often a word is repeated: mostly once, rarely more than any limit.
    fn repeats(&mut self) -> usize {
        match self.below(60) {
            0 => 100_000,
            1..=3 => 2_000,
            4..=9 => 50,
            _ => 1,
        }
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let part = self.part(bytes);
        let (start, repeats) = (part.start, self.repeats());
        let inserted = match self.below(9) {
            0..=3 => {
                let word = self.below(self.words.len());
                self.words.get(word).unwrap_or(&"").as_bytes().to_vec()
            }
            4 => bytes[part].to_vec(),
            5 => {
                let seed = self.below(self.seeds.len());
                let other = self.part(&self.seeds[seed]);
                self.seeds[seed][other].to_vec()
            }
            6 => self.random.next_u64().to_le_bytes().to_vec(),
            7 => {
                bytes.drain(part);
                return;
            }
            _ => {
                if let Some(byte) = bytes.get_mut(start) {
                    *byte = self.random.next_u64() as u8;
                }
                return;
            }
        };
        let most = INPUT_BYTES_MAX / inserted.len().max(1);
        drop(bytes.splice(start..start, inserted.repeat(repeats.min(most))));
    }
}
