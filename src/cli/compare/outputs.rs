//! Output files, which are updated during the run.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Compare;
use crate::compare::report::{self, Report};
use crate::error::{Context, Result};
use crate::tree::partial::Partial;

/// Free space that each output file must have; a page with every workload takes a part of it.
const ROOM_BYTES: usize = 512 << 10;

/// The mode of the files: a report holds nothing private.
const MODE: u32 = 0o644;

/// A function that formats the report.
type Form = fn(&Report) -> String;

/// A path, and the form of the report that is written to it.
type Output = (PathBuf, Form);

/// The output files that the user asked for.
#[derive(Debug)]
pub(super) struct Outputs(Vec<Output>);

impl Outputs {
    /// Checks that each file can be written and has space.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn check(arguments: &Compare) -> Result<Self> {
        let forms: [(&Option<PathBuf>, Form); 3] =
            [(&arguments.html, report::html), (&arguments.csv, report::csv), (&arguments.markdown, report::markdown)];
        let outputs: Vec<Output> = forms.into_iter().filter_map(|(path, form)| Some((path.clone()?, form))).collect();
        for (path, _) in &outputs {
            if is_file(path) {
                let (partial, mut file) = Partial::file(path, MODE)?;
                file.write_all(&vec![b' '; ROOM_BYTES]).at("write", path)?;
                file.sync_all().at("write", path)?;
                drop(partial);
            }
        }
        Ok(Self(outputs))
    }

    /// Writes all regular files anew, so that a run that is killed later leaves results. Pipes and devices are only
    /// written by [`Self::finish`].
    pub fn update(&self, report: &Report) -> Result<()> {
        self.0.iter().filter(|(path, _)| is_file(path)).try_for_each(|output| write(output, report))
    }

    /// Writes the final results to all outputs.
    pub fn finish(&self, report: &Report) -> Result<()> {
        self.0.iter().try_for_each(|output| write(output, report))
    }
}

fn is_file(path: &Path) -> bool {
    path.metadata().map_or(true, |stat| stat.is_file())
}

fn write((path, form): &Output, report: &Report) -> Result<()> {
    let (partial, mut file) = Partial::file(path, MODE)?;
    file.write_all(form(report).as_bytes()).at("write", path)?;
    partial.keep()
}
