//! Commands on what snapshots hold: their trees as text, their changes, as lines or as layers.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde_json::json;

use super::Done;
use super::interrupt::Interrupt;
use super::limits::LayerLimits;
use super::names;
use super::output::shown;
use super::session::Session;
use super::trees;
use crate::changeset::Change;
use crate::changeset::apply::Applied;
use crate::changeset::blob::{self, Compression};
use crate::changeset::pipeline::Blob;
use crate::changeset::tar::MtimePrecision;
use crate::door::{EmitOptions, Encoding, emit};
use crate::door::{Expected, IngestOptions, Record, ingest};
use crate::error::{Context, Error, Result};
use crate::id::Digest;
use crate::image::Losses;
use crate::snapshotter::Snapshotter;
use crate::store::Store;
use crate::tree::memory::Tree as Value;
use crate::tree::partial::{PRIVATE, Partial};
use crate::tree::text;

/// Print a file tree as canonical text
///
/// One line an inode; equal for equal trees, on every strategy and file system. The columns are type, mode, uid, gid,
/// size, time, device, content, path, target, xattrs, links.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata tree work --digest   # equal digests, equal trees")]
pub(super) struct Tree {
    /// A key, a name or an image; what begins with / or . is a directory
    #[arg(value_name = "X")]
    what: OsString,
    /// Print only the digest of the text
    #[arg(long)]
    digest: bool,
}

/// Tell what a snapshot changed
///
/// One line a path: A added, M modified, D deleted; nothing where nothing changed. Bytes of a path that are no
/// printable ASCII, spaces, commas and backslashes stand as \xHH.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  strata diff work                   # from its parent to work
  strata diff work alpine            # from alpine to work: A is what only work has
  strata diff work --tar layer.tar   # what changed, as a layer")]
pub(super) struct Diff {
    /// Any snapshot, or an image: its topmost layer
    key: String,
    /// The snapshot or image that it is compared with, instead of its parent
    base: Option<String>,
    /// Explain each difference of two trees, KEY and BASE: directories (if they begin with / or .), snapshots or
    /// images. The status is 1 if they differ
    #[arg(long, requires = "base", conflicts_with = "tar")]
    trees: bool,
    /// Write a layer to FILE (- is standard output) and print its DiffID
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,
    /// Compress the layer
    #[arg(long, value_name = "HOW", requires = "tar", default_value = "none", value_parser = compression())]
    compress: Compression,
    /// Write the layer anew, also where the snapshot was made from one of another digest
    #[arg(long, requires = "tar")]
    canonical: bool,
    /// Write the layer anew, with times in nanoseconds or, as docker does, in seconds
    #[arg(long, value_name = "UNIT", requires = "tar", value_parser = precision())]
    mtime: Option<MtimePrecision>,
}

/// The compressions by their names.
pub(super) fn compression() -> impl TypedValueParser<Value = Compression> {
    by_name([Compression::Gzip, Compression::Zstd, Compression::None].map(|how| (how.as_str(), how)))
}

fn precision() -> impl TypedValueParser<Value = MtimePrecision> {
    by_name([("seconds", MtimePrecision::Seconds), ("nanoseconds", MtimePrecision::Nanoseconds)])
}

/// One of a few values that have names.
fn by_name<T: Copy + Send + Sync + 'static, const N: usize>(
    named: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    let value = move |name: String| named.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    PossibleValuesParser::new(named.map(|(name, _)| name)).try_map(move |name| value(name).ok_or("an unknown name"))
}

/// Write a layer's changes into a writable snapshot
///
/// The layer is a tar archive, plain or compressed by gzip or zstd. The snapshot must not be mounted. If it fails, the
/// snapshot has a part of the changes: remove it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata apply work layer.tar.gz")]
pub(super) struct Apply {
    /// The key of a writable snapshot
    key: String,
    /// The layer; standard input if it is - or missing
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    limits: LayerLimits,
}

impl Tree {
    pub fn run(&self, session: &Session) -> Done {
        let tree = Value::read(&trees::open(session, &self.what)?)?;
        let digest = text::digest(&tree);
        if session.output.is_json() {
            return Ok(session.output.document(&self.document(&tree, digest))?);
        }
        if self.digest {
            return Ok(session.output.text(&format!("{digest}\n"))?);
        }
        Ok(session.output.text(&text::print(&tree))?)
    }

    fn document(&self, tree: &Value, digest: Digest) -> serde_json::Value {
        if self.digest {
            return json!({"digest": digest});
        }
        let line = |named| -> serde_json::Map<_, _> {
            let columns = text::columns(&named);
            text::COLUMNS.iter().zip(columns).map(|(name, value)| ((*name).to_owned(), typed(name, &value))).collect()
        };
        let lines: Vec<_> = tree.iter().filter(|named| named.is_first()).map(line).collect();
        json!({"digest": digest, "inodes": lines})
    }
}

/// A column of tree text as JSON has it.
fn typed(column: &str, value: &str) -> serde_json::Value {
    match (column, value) {
        ("xattrs" | "links", "-") => json!([]),
        ("xattrs" | "links", words) => words.split(',').collect(),
        (_, "-") => serde_json::Value::Null,
        ("uid" | "gid" | "size", number) => number.parse::<u64>().map_or_else(|_| number.into(), Into::into),
        (_, text) => text.into(),
    }
}

/// A change as JSON has it.
#[derive(Debug, Serialize)]
struct Line {
    change: char,
    path: String,
}

fn line(change: &Change) -> Line {
    let change_letter = match change {
        Change::Put { existed: false, .. } | Change::Link { existed: false, .. } => 'A',
        Change::Put { .. } | Change::Link { .. } | Change::Opaque { .. } => 'M',
        Change::Remove { .. } => 'D',
    };
    Line { change: change_letter, path: format!("/{}", text::escape(change.path().as_os_str().as_bytes())) }
}

impl Diff {
    pub fn run(&self, session: &Session) -> Done {
        if let (true, Some(base)) = (self.trees, &self.base) {
            return trees::compare(session, &self.key, base);
        }
        if let Some(file) = &self.tar {
            return self.write_layer(session, file);
        }
        let store = session.store()?;
        let (key, base) = self.named(&store)?;
        let base = base.as_deref();
        if session.output.is_json() {
            let mut lines = Vec::new();
            store.changes(&key, base, &mut |change: &Change, _: &mut dyn Read| {
                lines.push(line(change));
                Ok(())
            })?;
            return Ok(session.output.document(&lines)?);
        }
        let mut stream = io::BufWriter::new(session.output.stream());
        store.changes(&key, base, &mut |change: &Change, _: &mut dyn Read| {
            let Line { change, path } = line(change);
            writeln!(stream, "{change} {path}").at("write", "to standard output")
        })?;
        Ok(stream.flush().at("write", "to standard output")?)
    }

    /// The snapshots that KEY and BASE name.
    fn named(&self, store: &Store) -> Result<(String, Option<String>)> {
        let base = self.base.as_deref().map(|base| names::snapshot(store, base)).transpose()?;
        Ok((names::snapshot(store, &self.key)?, base))
    }

    fn write_layer(&self, session: &Session, file: &Path) -> Done {
        let interrupt = Interrupt::watch(session)?;
        if [Path::new("-"), Path::new("/dev/stdout")].contains(&file) {
            if io::stdout().is_terminal() {
                return Err(
                    Error::invalid("a layer is not for a terminal: --tar FILE, or redirect standard output").into()
                );
            }
            self.encode(session, session.output.stream(), &interrupt)?;
            return Ok(());
        }
        let (partial, mut output) = Partial::file(file, PRIVATE)?;
        let blob::Blob { digest, size_bytes, diff_id, .. } = self.encode(session, &mut output, &interrupt)?;
        partial.keep()?;
        let document = json!({
            "diff_id": diff_id, "digest": digest, "size_bytes": size_bytes, "file": file.to_string_lossy(),
        });
        Ok(session.output.either(&document, || format!("{diff_id}\n"))?)
    }

    fn encode(&self, session: &Session, mut writer: impl Write, interrupt: &Interrupt) -> Result<blob::Blob> {
        let encoding = match (self.mtime, self.canonical) {
            (Some(precision), _) => Encoding::Canonical(precision),
            (None, true) => Encoding::Canonical(MtimePrecision::Nanoseconds),
            (None, false) => Encoding::Original,
        };
        let (store, compression) = (session.store()?, self.compress);
        let (key, base) = self.named(&store)?;
        let (base, cancel) = (base.as_deref(), interrupt.cancel().clone());
        let options = EmitOptions { base, encoding, compression, cancel, ..EmitOptions::default() };
        let blob = emit(&store, &key, &options, &mut writer)?;
        writer.flush().at("write", "layer")?;
        Ok(blob)
    }
}

impl Apply {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let store = session.store_to_change()?;
        let key = names::key(&store, &self.key)?;
        let (options, began) = (self.limits.options(interrupt.cancel()), Cell::new(false));
        let open = || self.open(&options).inspect(|_| began.set(true));
        let filled = ingest::fill(&store, &key, open, &Expected::default(), Record::Nothing, &options);
        let filled = filled.map_err(|error| {
            if !began.get() {
                return error;
            }
            error.context(format!(
                "applying {} to {key:?}, which may have a part of it now (remove it and prepare it again)",
                self.name()
            ))
        })?;
        let Applied { entries, skipped_devices, clamped_times, dropped_xattrs } = filled.applied;
        tell_losses(session, &key, Losses { skipped_devices, clamped_times, dropped_xattrs });
        if session.output.is_json() {
            session.output.document(&json!({
                "key": key, "entries": entries, "skipped_devices": skipped_devices,
                "clamped_times": clamped_times, "dropped_xattrs": dropped_xattrs,
            }))?;
        }
        Ok(())
    }

    fn open(&self, options: &IngestOptions) -> Result<Blob<'static>> {
        match self.path() {
            Some(path) => options.detect(File::open(path).at("open", path)?, self.name()),
            None => options.detect(io::stdin(), self.name()),
        }
    }

    /// The file, unless it is standard input.
    fn path(&self) -> Option<&Path> {
        self.file.as_deref().filter(|path| *path != Path::new("-"))
    }

    fn name(&self) -> String {
        self.path().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
    }
}

/// Tells what the machine, or the user's rights on it, could not take of the layers that went into `name`. Devices are
/// told in any case, for programs may need them; JSON has all numbers.
pub(super) fn tell_losses(session: &Session, name: &str, losses: Losses) {
    let Losses { skipped_devices, clamped_times, dropped_xattrs } = losses;
    if skipped_devices > 0 && !session.is_quiet() {
        let nodes = if skipped_devices == 1 { "node was" } else { "nodes were" };
        let told = format!("{skipped_devices} device {nodes} left out: a user namespace cannot make them");
        // A warning that cannot be told is no reason to stop.
        drop(writeln!(io::stderr(), "strata: warning: {}: {told}", shown(name)));
    }
    let others = [
        (clamped_times, "times were changed: the file system cannot hold them"),
        (dropped_xattrs, "extended attributes were left out: they cannot be where a layer has them"),
    ];
    for (count, loss) in others.into_iter().filter(|(count, _)| *count > 0) {
        tracing::warn!(name, count, loss);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_forges_no_line() {
        let removed = |path: &str| {
            let Line { change, path } = line(&Change::Remove { path: path.into() });
            format!("{change} {path}")
        };
        assert_eq!(removed("a b\nA /etc"), r"D /a\x20b\x0aA\x20/etc");
        assert_eq!(removed(""), "D /");
    }
}
