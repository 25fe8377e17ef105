//! `strata doctor`: the abilities of this machine, and the state of the store that is there.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use serde::Serialize;
use serde_json::Value;

use super::Done;
use super::check;
use super::output::{fields, size, table};
use super::session::{Session, check_privilege};
use crate::backend::{self, StrategyOptions};
use crate::error::{Context, Error, Result};
use crate::mount::probe::{self, Available};
use crate::store::{Finding, Reserve, Store, UNVERIFIED, waits_by_fdatasync};
use crate::tree::{Dir, walk};

/// Tell what this machine can do, and which strategy would be chosen
///
/// Everything is tried, as this user, at the store's directory or where it would be made. Works without a store and
/// without root.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata doctor --root /srv/strata")]
pub(super) struct Doctor {
    /// Look at the containerd that listens at ADDRESS instead, and whether it is set up for strata
    #[cfg(feature = "containerd")]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "/run/containerd/containerd.sock")]
    containerd: Option<PathBuf>,
}

/// All that is known.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    kernel: String,
    root: PathBuf,
    /// Where it was tried: the root, or what exists of the way to it.
    tried_at: PathBuf,
    /// The call by which SQLite waits for its log.
    log_sync: &'static str,
    store: Option<Described>,
    features: Vec<Feature>,
    strategies: Vec<Strategy>,
    /// The strategy that `--backend auto` would choose here.
    auto: Option<&'static str>,
}

/// The store that is there.
#[derive(Debug, Serialize)]
struct Described {
    backend: &'static str,
    durability: &'static str,
    format: usize,
    /// How many layers another program than strata wrote, of all owners; `None` if that cannot be read.
    unverified: Option<u64>,
    /// The reserve for removals on a full disk; `None` where it cannot be read.
    reserve: Option<Reserve>,
    /// The snapshots of which nobody can say that they are on disk, each as `check` tells it; `None` if that cannot be
    /// read.
    in_doubt: Option<Vec<Value>>,
    /// The same for people: what is in doubt, and what ends the doubt.
    #[serde(skip)]
    doubts: Vec<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct Feature {
    name: &'static str,
    meaning: &'static str,
    matters_to: &'static str,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Debug, Serialize)]
struct Strategy {
    name: &'static str,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Debug, Serialize)]
struct Answer {
    available: bool,
    /// Why it is not.
    reason: Option<String>,
}

fn word(available: bool) -> String {
    if available { "yes" } else { "no" }.to_owned()
}

impl Doctor {
    pub fn run(&self, session: &Session) -> Done {
        #[cfg(feature = "containerd")]
        if let Some(address) = &self.containerd {
            return look_at_containerd(session, address);
        }
        let config = session.config();
        let tried_at = config.root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned();
        let (store, broken) = match session.find_store() {
            Ok(store) => (store.as_ref().map(describe), None),
            Err(error) => (None, Some(error)),
        };
        let strategies: Vec<_> =
            session.strategies().iter().map(|strategy| try_out(strategy, &tried_at, &config.options)).collect();
        let findings = Findings {
            version: env!("CARGO_PKG_VERSION"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            root: config.root.clone(),
            log_sync: if waits_by_fdatasync() { "fdatasync" } else { "fsync" },
            store,
            features: features(&tried_at),
            auto: strategies.iter().find(|strategy| strategy.answer.available).map(|strategy| strategy.name),
            strategies,
            tried_at,
        };
        session.output.either(&findings, || findings.text(broken.as_ref()))?;
        broken.map_or(Ok(()), |error| Err(error.into()))
    }
}

#[cfg(feature = "containerd")]
fn look_at_containerd(session: &Session, address: &Path) -> Done {
    let address = std::path::absolute(address).at("find", address)?;
    let findings = crate::containerd::inspect::inspect(&address)?;
    let rows = findings.iter().map(|finding| {
        let found = super::output::shown(&finding.found);
        vec![finding.what.to_owned(), if finding.good { "good" } else { "wrong" }.to_owned(), found]
    });
    session.output.either(&findings, || table(&["WHAT", "IS", "FOUND"], rows.collect()))?;
    match findings.iter().find(|finding| !finding.good) {
        None => Ok(()),
        Some(wrong) => {
            let shown = address.display();
            Err(Error::precondition(format!("containerd at {shown}: {}: {}", wrong.what, wrong.found)).into())
        }
    }
}

fn describe(store: &Store) -> Described {
    let doubts = store.doubts().ok();
    let in_words = |finding: &Finding| vec![finding.problem.to_string(), check::mend(finding)];
    Described {
        doubts: doubts.iter().flatten().map(in_words).collect(),
        in_doubt: doubts.map(|doubts| doubts.iter().map(check::describe).collect()),
        backend: store.backend().capabilities().name,
        durability: store.durability().as_str(),
        format: crate::store::FORMAT,
        unverified: unverified(store).ok(),
        reserve: store.reserve().ok(),
    }
}

/// How SQLite waits for its log, in words.
fn log_sync_words() -> String {
    match waits_by_fdatasync() {
        true => "fdatasync".to_owned(),
        false => "fsync, which takes longer: build with LIBSQLITE3_FLAGS=-DHAVE_FDATASYNC=1".to_owned(),
    }
}

/// The reserve in words: whether a removal on a full disk can rely on it.
fn reserve_words(store: Option<&Described>) -> String {
    let Some(reserve) = store.and_then(|store| store.reserve) else { return "none".to_owned() };
    let Reserve { pieces, pieces_whole, bytes } = reserve;
    let space = size(bytes);
    match pieces {
        0 => "none: it is made by a change of the store while the file system has plenty of room".to_owned(),
        _ if reserve.is_whole() => format!("{space} in {pieces} files, whole"),
        _ => format!(
            "{space} in {pieces} of {pieces_whole} files: the rest was used, and is made again when there is room"
        ),
    }
}

fn unverified(store: &Store) -> Result<u64> {
    let mut count = 0;
    store.walk_all(&[&format!("labels.{UNVERIFIED:?}")], &mut |_, _| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

fn try_out(strategy: backend::Strategy, place: &Path, options: &StrategyOptions) -> Strategy {
    let root = place.join(format!("{}doctor-{}", probe::TRIAL_PREFIX, std::process::id()));
    let tried = check_privilege().and_then(|()| start(strategy, &root, options));
    // The reason names a temporary directory of the probe. The user knows the store's root, on the same file system.
    let said = |error: Error| error.chain().replace(&root.display().to_string(), &place.display().to_string());
    let reason = tried.err().map(said);
    Strategy { name: strategy.name, answer: Answer { available: reason.is_none(), reason } }
}

/// Starts a strategy in a directory of its own, which goes again: what works there works for a store beside it.
fn start(strategy: backend::Strategy, root: &Path, options: &StrategyOptions) -> Result<()> {
    rustix::fs::mkdir(root, Mode::RWXU).at("make a directory to try in", root)?;
    let started = (strategy.open)(root, options).map(drop);
    let (place, name) = (root.parent().unwrap_or(root), root.file_name().unwrap_or_default());
    let gone = Dir::open(place).and_then(|place| walk::remove_all(&place, name));
    started.and(gone)
}

fn features(root: &Path) -> Vec<Feature> {
    let feature = |feature: probe::Feature| {
        let reason = match feature.available {
            Available::Yes => None,
            Available::No(reason) => Some(reason),
        };
        let answer = Answer { available: reason.is_none(), reason };
        Feature { name: feature.name, meaning: feature.meaning, matters_to: feature.matters_to, answer }
    };
    probe::probe(root).features.into_iter().map(feature).collect()
}

impl Findings {
    fn text(&self, broken: Option<&Error>) -> String {
        let store = match (&self.store, broken) {
            (Some(Described { backend, durability, format, unverified, .. }), _) => {
                let mut said = format!("backend {backend}, durability {durability}, format {format}");
                if let Some(count) = unverified.filter(|count| *count > 0) {
                    said.push_str(&format!(", {count} unverified (layers that strata did not write: strata check)"));
                }
                said
            }
            (None, Some(error)) => format!("cannot be opened: {}", error.chain()),
            (None, None) => "none yet".to_owned(),
        };
        let auto = self.auto.map_or_else(|| "nothing: no strategy can be used".to_owned(), |name| self.why(name));
        let rows = [
            ("strata", self.version.to_owned()),
            ("kernel", self.kernel.clone()),
            ("root", self.root.display().to_string()),
            ("tried at", self.tried_at.display().to_string()),
            ("store", store),
            ("reserve", reserve_words(self.store.as_ref())),
            ("sync of the log", log_sync_words()),
            ("--backend auto", auto),
        ];
        let strategies = self.strategies.iter().map(|strategy| {
            let Answer { available, reason } = &strategy.answer;
            vec![strategy.name.to_owned(), word(*available), reason.clone().unwrap_or_default()]
        });
        let features = self.features.iter().map(|feature| {
            let Answer { available, reason } = &feature.answer;
            let what = reason.as_deref().unwrap_or(feature.meaning).to_owned();
            vec![feature.name.to_owned(), word(*available), feature.matters_to.to_owned(), what]
        });
        let doubts = self.store.iter().flat_map(|store| store.doubts.clone()).collect();
        let doubts = Some(table(&["IN DOUBT", "WHAT ENDS THE DOUBT"], doubts)).filter(|table| !table.is_empty());
        format!(
            "{}\n{}{}\n{}",
            fields(&rows),
            doubts.map_or_else(String::new, |table| table + "\n"),
            table(&["STRATEGY", "USABLE", "WHY NOT"], strategies.collect()),
            table(&["FEATURE", "THERE", "MATTERS TO", "WHAT IT IS, OR WHY NOT"], features.collect()),
        )
    }

    /// `auto` takes the first strategy that works.
    fn why(&self, chosen: &str) -> String {
        let before: Vec<_> = self
            .strategies
            .iter()
            .take_while(|strategy| strategy.name != chosen)
            .map(|strategy| strategy.name)
            .collect();
        match before.as_slice() {
            [] => format!("{chosen}, the first choice"),
            before => format!("{chosen}, because {} cannot be used", before.join(" and ")),
        }
    }
}
