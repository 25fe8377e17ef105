//! Writes a layer: comparison, archive, compression and both digests, against pipes of tar and a compressor, which
//! compute no digests.
//!
//! The layer is the `/usr` of a small Debian from `tests/support/real-image.sh`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use strata::backends::OVERLAY;
use strata::changeset::blob::Compression;
use strata::door::{EmitOptions, emit};
use strata::mount::Mount;
use strata::snapshotter::{Labels, Snapshotter};
use strata::store::Store;
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use super::support::bench_dir::BenchDir;
use super::support::table::Table;

/// Number of counted rounds, after one that is not counted.
const ROUNDS: usize = 5;

/// Maximum ratio of our time to that of gzip.
const TIMES_GZIP_MAX: f64 = 1.0 / 3.0;

/// Maximum ratio of our time to that of pigz on two cores.
const TIMES_PIGZ_MAX: f64 = 1.0 / 1.3;

const GZIP: &str = "tar -c | gzip -6";
const PIGZ: &str = "tar -c | pigz -p2 -6";
const ZSTD: &str = "tar -c | zstd -3 -T2";

/// Name of the snapshot that is written as a layer.
const LAYER: &str = "layer";

pub fn rows(place: &BenchDir, table: &mut Table) -> Result<()> {
    let store = place.store("write", OVERLAY, CloneMode::Auto)?;
    let tree = fill(&store, &real_usr()?)?;
    let out = place.dir("out").join("layer");
    let ways: [&dyn Fn() -> Result<u64>; 5] = [
        &|| ours(&store, Compression::Gzip, &out),
        &|| ours(&store, Compression::Zstd, &out),
        &|| theirs(GZIP, &tree, &out),
        &|| theirs(PIGZ, &tree, &out),
        &|| theirs(ZSTD, &tree, &out),
    ];
    let mut times: [Vec<Duration>; 5] = Default::default();
    let mut sizes = [0; 5];
    for round in 0..=ROUNDS {
        for (at, way) in ways.iter().enumerate() {
            let started = Instant::now();
            sizes[at] = way()?;
            if round > 0 {
                times[at].push(started.elapsed());
            }
        }
    }
    table.ratio("write a layer as gzip", &times[0], GZIP, &times[2], TIMES_GZIP_MAX);
    table.ratio("write a layer as gzip", &times[0], PIGZ, &times[3], TIMES_PIGZ_MAX);
    table.sizes("its size", sizes[0], GZIP, sizes[2]);
    table.ratio("write a layer as zstd", &times[1], GZIP, &times[2], TIMES_GZIP_MAX);
    table.ratio("write a layer as zstd", &times[1], ZSTD, &times[4], 1.0);
    table.sizes("its size", sizes[1], GZIP, sizes[2]);
    Ok(())
}

/// Returns the `/usr` of the real image.
fn real_usr() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(root.join("tests/support/real-image.sh")).arg(root.join("target/real-image")).output();
    let made = made.map_err(|error| Error::unsupported(format!("real-image.sh: {error}")))?;
    if !made.status.success() {
        return Err(Error::unsupported(String::from_utf8_lossy(&made.stderr).lines().last().unwrap_or("").to_owned()));
    }
    Ok(Path::new(String::from_utf8_lossy(&made.stdout).trim_end()).join("rootfs/layer4/usr"))
}

/// Commits a snapshot with a copy of `tree`; returns the path of the copy.
fn fill(store: &Store, tree: &Path) -> Result<PathBuf> {
    let mounts = store.prepare("making", "", &Labels::new())?;
    let [Mount::Bind { source, .. }] = mounts.as_slice() else {
        return Err(Error::unsupported(format!("a snapshot without a parent is not one directory: {mounts:?}")));
    };
    run(Command::new("cp").arg("-a").arg(tree).arg(source))?;
    store.commit(LAYER, "making", &Labels::new())?;
    Ok(source.clone())
}

fn ours(store: &Store, compression: Compression, out: &Path) -> Result<u64> {
    let mut file = File::create(out).expect("create a file");
    let options = EmitOptions { compression, ..EmitOptions::default() };
    emit(store, LAYER, &options, &mut file).map(|blob| blob.size_bytes)
}

fn theirs(pipe: &str, tree: &Path, out: &Path) -> Result<u64> {
    let pipe = pipe.replace("tar -c", "tar --xattrs -cC \"$0\" .");
    run(Command::new("bash").args(["-o", "pipefail", "-c", &format!("{pipe} > \"$1\"")]).arg(tree).arg(out))?;
    Ok(out.metadata().expect("what was written").len())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| Error::unsupported(format!("{command:?}: {error}")))?;
    if output.status.success() { Ok(()) } else { Err(Error::unsupported(format!("{command:?}: {output:?}"))) }
}
