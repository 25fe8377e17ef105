//! The same Dockerfiles built by strata and by Docker: configs, histories and trees are equal.
//!
//! Docker is the newest that Debian has. What differs and may is in `docker/cases.rs`, each with its reason.

mod cases;
mod compare;
mod daemon;
mod random;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use strata::backends::OVERLAY;
use strata::changeset::blob::Compression;
use strata::image::{Destination, ExportOptions, Options, Place, Source, export, import};
use strata::mount::scratch::{FsType, Scratch};
use strata::tree::memory::Tree;

use super::{Bench, Heard, Wish};
use crate::random::rng;
use crate::support;

use self::compare::{Image, differences};
use self::daemon::Docker;
use self::random::Script;

/// How many builds Docker does at a time.
const SIDE_BY_SIDE: usize = 3;

/// How many random Dockerfiles are judged together.
const BATCH: u64 = 12;

/// Seconds for random Dockerfiles, unless `STRATA_BUDGET_S` says otherwise, and how many there are without a limit.
const BUDGET_S: u64 = 20;
const ROUNDS: u64 = 2000;

/// Room for what both build.
const SCRATCH_BYTES: u64 = 8 << 30;

/// Both builders, with the same image `base`.
struct Judge {
    docker: Docker,
    bench: Bench,
}

/// A Dockerfile and what it is built of.
struct Case {
    dockerfile: String,
    context: PathBuf,
}

impl Judge {
    fn new() -> Option<Self> {
        let scratch = support::gate("ext4", Scratch::new(FsType::Ext4, SCRATCH_BYTES))?;
        let docker = Docker::start(&scratch.path().join("docker"))?;
        let bench = Bench::on(OVERLAY, scratch)?;
        let judge = Self { docker, bench };
        // With Docker, commands leave the directories at which `/dev`, `/proc` and `/sys` are mounted.
        judge.bench.build("base", "FROM base\nWORKDIR /dev\nWORKDIR /proc\nWORKDIR /sys\nWORKDIR /\n");
        let archive = judge.path("base.tar");
        let options = ExportOptions { compression: Compression::None, ..ExportOptions::default() };
        export(&judge.bench.store, "base", &Destination::DockerArchive(archive.clone()), &options, &())
            .expect("export");
        judge.docker.load(&archive);
        support::say(&format!("Docker {}", judge.docker.version()));
        Some(judge)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.scratch.path().join(name)
    }

    /// The differences between the two results of each case.
    fn judge(&self, cases: &[Case]) -> Vec<Vec<String>> {
        let (docker, root) = (&self.docker, self.bench.scratch.path());
        // Docker's part takes the most time: its builds go side by side, beside those of strata.
        let share = cases.len().div_ceil(SIDE_BY_SIDE).max(1);
        let (ours, built) = thread::scope(|scope| {
            let part = move |(part, cases): (usize, &[Case])| {
                cases.iter().enumerate().map(|(at, case)| theirs(docker, root, part * share + at, case)).collect()
            };
            let parts = cases.chunks(share).enumerate();
            let parts: Vec<_> = parts.map(|given| scope.spawn(move || -> Vec<_> { part(given) })).collect();
            let ours: Vec<_> = cases.iter().map(|case| self.ours(case)).collect();
            let built: Vec<_> = parts.into_iter().flat_map(|part| part.join().expect("a thread")).collect();
            (ours, built)
        });
        let name = |number: usize| format!("case{number}");
        let names: Vec<String> = (0..cases.len()).filter(|number| built[*number].is_ok()).map(name).collect();
        let archive = self.path("theirs.tar");
        if !names.is_empty() {
            self.docker.save(&names, &archive);
        }
        let results = ours.into_iter().zip(built).enumerate();
        results
            .map(|(number, results)| match results {
                (Ok(ours), Ok(())) => differences(&ours, &self.import(&archive, &name(number))),
                (Ok(_), Err(error)) => vec![format!("Docker fails: {}", last_lines(&error))],
                (Err(error), Ok(())) => vec![format!("strata fails: {error}")],
                (Err(_), Err(_)) => Vec::new(),
            })
            .collect()
    }

    fn ours(&self, case: &Case) -> Result<Image, String> {
        let wish = Wish { context: Some(&case.context), ..Wish::default() };
        self.bench.build_with("ours", &case.dockerfile, &wish, &Heard::default()).map_err(|error| error.chain())?;
        Ok(self.image("ours"))
    }

    fn image(&self, name: &str) -> Image {
        let image = self.bench.store.image(name).expect("the image");
        let tree = image.top.map_or_else(Tree::default, |_| self.bench.tree(name));
        Image { config: self.bench.config(name), tree }
    }

    fn import(&self, archive: &Path, name: &str) -> Image {
        let source = Source { place: Place::Path(archive.to_owned()), reference: Some(format!("{name}:latest")) };
        let options = Options { name: Some("theirs".to_owned()), ..Options::default() };
        import(&self.bench.store, &source, &options, &()).unwrap_or_else(|error| panic!("{}", error.chain()));
        self.image("theirs")
    }
}

fn theirs(docker: &Docker, root: &Path, number: usize, case: &Case) -> Result<(), String> {
    let file = root.join(format!("Dockerfile.{number}"));
    fs::write(&file, &case.dockerfile).expect("write");
    docker.build(&format!("case{number}"), &file, &case.context)
}

/// The end of what a build said, in one line.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// The reason why the results of a Dockerfile may differ so; `None` if they may not.
fn reason(dockerfile: &str, differences: &[String]) -> Option<&'static str> {
    cases::DIFFERENT.iter().find_map(|(what, lines, reason)| {
        let is_known = |line: &String| lines.iter().any(|known| line.contains(known));
        (dockerfile.contains(what) && differences.iter().all(is_known)).then_some(*reason)
    })
}

/// Fails with all that differs and may not.
fn check(cases: &[Case], found: &[Vec<String>]) {
    let mut wrong = String::new();
    for (case, differences) in cases.iter().zip(found) {
        if !differences.is_empty() && reason(&case.dockerfile, differences).is_none() {
            wrong.push_str(&format!("{}\n    {}\n\n", case.dockerfile, differences.join("\n    ")));
        }
    }
    assert!(wrong.is_empty(), "not as Docker builds it:\n{wrong}");
}

#[test]
fn the_same_images() {
    let Some(judge) = Judge::new() else { return };
    super::copy::fill(&judge.bench);
    let context = judge.bench.context();
    let copies = super::copy::CASES.iter().map(|(instructions, _)| *instructions);
    let cases: Vec<Case> = copies
        .chain(cases::CASES.iter().copied())
        .map(|instructions| match instructions.contains("FROM ") {
            true => instructions.to_owned(),
            false => format!("FROM base\n{instructions}\n"),
        })
        .map(|dockerfile| Case { dockerfile, context: context.clone() })
        .collect();
    check(&cases, &judge.judge(&cases));
}

impl Judge {
    /// The differences between the two results of random Dockerfiles that may not be.
    fn judge_scripts(&self, scripts: &[Script]) -> Vec<Vec<String>> {
        let context = |number: usize| self.path(&format!("context-{number}"));
        let case = |(number, script): (usize, &Script)| {
            script.write(&context(number));
            Case { dockerfile: script.dockerfile(), context: context(number) }
        };
        let cases: Vec<Case> = scripts.iter().enumerate().map(case).collect();
        let mut found = self.judge(&cases);
        for (case, differences) in cases.iter().zip(&mut found) {
            fs::remove_dir_all(&case.context).expect("remove");
            if reason(&case.dockerfile, differences).is_some() {
                differences.clear();
            }
        }
        found
    }

    /// The smallest Dockerfile that still differs, by dropping one line after the other.
    fn shrink(&self, mut script: Script, mut differences: Vec<String>) -> String {
        while let Some((smaller, found)) = script.smaller().into_iter().find_map(|smaller| {
            let found = self.judge_scripts(std::slice::from_ref(&smaller)).remove(0);
            (!found.is_empty()).then_some((smaller, found))
        }) {
            (script, differences) = (smaller, found);
        }
        format!("{script}\n    {}", differences.join("\n    "))
    }
}

#[test]
fn random_dockerfiles() {
    let Some(judge) = Judge::new() else { return };
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let all = number("STRATA_SCRIPTS").is_some();
    let budget = Duration::from_secs(number("STRATA_BUDGET_S").unwrap_or(BUDGET_S));
    let (began, mut round, mut wrong) = (Instant::now(), 0, Vec::new());
    while round < ROUNDS && (all || began.elapsed() < budget) {
        let scripts: Vec<Script> = (round..round + BATCH).map(|round| Script::new(rng(round))).collect();
        for (script, differences) in scripts.iter().zip(judge.judge_scripts(&scripts)) {
            if !differences.is_empty() {
                wrong.push(judge.shrink(script.clone(), differences));
            }
        }
        round += BATCH;
        assert!(wrong.is_empty(), "not as Docker builds it, of rounds to {round}:\n{}", wrong.join("\n\n"));
    }
    support::say(&format!("{round} random Dockerfiles as Docker builds them"));
}
