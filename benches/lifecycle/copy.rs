//! Measures the durable copy of a parent against `cp` and `sync`.

use std::path::Path;
use std::process::Command;

use strata::backends::COPY;
use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::snapshotter::{Labels, Snapshotter};
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use super::PARENT_FILES;
use super::raw::source;
use super::support::bench_dir::{BenchDir, FsType};
use super::support::table::Table;
use super::support::{FILE_BYTES_MAX, SEED};

/// Number of counted samples; each copies the parent.
const ROUNDS: u64 = 5;

pub fn rows(place: &BenchDir, table: &mut Table) -> Result<()> {
    let image = Image::new(PARENT_FILES, FILE_BYTES_MAX, SEED);
    let store = place.store("copy-large", COPY, CloneMode::Auto)?;
    place.subject(&store, &image)?;
    let parent = source(&store, "image")?;
    let (reflink, most) = match place.fs {
        FsType::Xfs => ("always", 0.9),
        FsType::Btrfs => ("always", 1.0),
        _ => ("never", 0.7),
    };
    let reflink = format!("--reflink={reflink}");
    let target = place.dir("cp").join("copy");
    let mut timers = [Timer::default(), Timer::default()];
    for round in 0..=ROUNDS {
        let key = format!("copy{round}");
        timers[0].time("prepare", || store.prepare(&key, "image", &Labels::new()))?;
        store.remove(&key)?;
        store.cleanup()?;
        sync(&parent)?;
        let cp = ["-a".as_ref(), reflink.as_ref(), parent.as_os_str(), target.as_os_str()];
        timers[1].time("cp", || command("cp", &cp).and_then(|()| sync(&target)))?;
        command("rm", &["-r".as_ref(), target.as_os_str()])?;
        sync(&parent)?;
        if round == 0 {
            timers = [Timer::default(), Timer::default()];
        }
    }
    let against = format!("cp -a {reflink}, sync -f");
    let operation = format!("copy prepare, {}", place.fs);
    table.ratio(&operation, &timers[0].samples("prepare"), &against, &timers[1].samples("cp"), most);
    Ok(())
}

fn sync(path: &Path) -> Result<()> {
    command("sync", &["-f".as_ref(), path.as_os_str()])
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let status = Command::new(program).args(arguments).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(Error::precondition(format!("{program} failed: {other:?}"))),
    }
}
