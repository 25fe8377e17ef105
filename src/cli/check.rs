//! Checking a store, and repairing what can be repaired.

use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::output::{counted, table};
use super::session::{Session, check_privilege};
use super::{Done, Failures};
use crate::error::Error;
use crate::store::{CheckOptions, Checked, Finding, Remedy, Repaired, Severity};

/// Check the store: its database, what is on disk, its images
///
/// Prints a line for each thing that is not as it should be, and what --repair does about it. Exits with 1 if anything
/// is damaged; debris and layers that cannot be verified are told and no failure. Others may use the store meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata check --deep && echo sound")]
pub(super) struct Check {
    /// Read every layer, and compare it with its digest; an imported one is applied once more meanwhile, and its tree
    /// compared
    #[arg(long)]
    deep: bool,
    /// Compute the digests of layers that have none, and keep them for later checks
    #[arg(long)]
    record: bool,
    /// Clear up, and remove what is damaged where an image can be imported again
    #[arg(long)]
    repair: bool,
    /// Only tell what --repair would do, with --repair or without
    #[arg(long)]
    dry_run: bool,
}

impl Check {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let store = session.store()?;
        check_privilege()?;
        let options = CheckOptions { deep: self.deep, record: self.record, cancel: interrupt.cancel().clone() };
        let checked = store.check(&options)?;
        let repaired = if self.repairs() { Some(store.repair(&checked.findings)?) } else { None };
        // A repair is believed when a second look finds nothing.
        let left = match &repaired {
            Some(_) => store.check(&CheckOptions { record: false, ..options })?,
            None => checked.clone(),
        };
        session.output.either(&document(&checked, repaired.as_ref()), || self.text(&checked, repaired.as_ref()))?;
        match left.damaged() {
            0 => Ok(()),
            count => Err(Failures::from(self.damaged(session, count))),
        }
    }

    fn repairs(&self) -> bool {
        self.repair && !self.dry_run
    }

    fn damaged(&self, session: &Session, count: usize) -> Error {
        let root = session.config().root.display();
        let what = if self.repairs() { "still damaged" } else { "damaged" };
        let deep = if self.deep { " --deep" } else { "" };
        let cure = match (self.dry_run, self.repair) {
            (true, _) => format!("the lines above say what strata check{deep} --repair does about it"),
            (false, true) => "the lines above say why".to_owned(),
            (false, false) => format!("strata check{deep} --dry-run says what can be repaired"),
        };
        Error::data_loss(format!("the store {root} is {what} in {}: {cure}", counted(count as u64, "place")))
    }

    fn text(&self, checked: &Checked, repaired: Option<&Repaired>) -> String {
        let with_remedy = self.dry_run || self.repair;
        let headings: &[&str] = if with_remedy { &["STATE", "WHAT", "REPAIR"] } else { &["STATE", "WHAT"] };
        let row = |finding: &Finding| {
            let mut row = vec![finding.problem.severity().as_str().to_owned(), finding.problem.to_string()];
            if with_remedy {
                row.push(finding.remedy.to_string());
            }
            row
        };
        let mut text = table(headings, checked.findings.iter().map(row).collect());
        text.push_str(&summary(checked));
        let is_debris = |finding: &Finding| finding.problem.severity() == Severity::Debris;
        // Of damage the error says what to do.
        if !with_remedy && checked.damaged() == 0 && checked.findings.iter().any(is_debris) {
            text.push_str("strata check --repair clears up what is left over\n");
        }
        if let Some(Repaired { images, snapshots, made_again, freed }) = repaired {
            text.push_str(&format!(
                "removed {} and {}, made {made_again} again, freed the space of {}\n",
                counted(images.len() as u64, "image"),
                counted(snapshots.len() as u64, "layer"),
                counted(*freed, "snapshot")
            ));
        }
        text
    }
}

/// One line: how much was looked at, how much of it is how.
fn summary(checked: &Checked) -> String {
    let Checked { snapshots, images, verified, recorded, findings } = checked;
    let count = |severity| findings.iter().filter(|finding| finding.problem.severity() == severity).count();
    let mut text = format!("{}, {}", counted(*snapshots, "snapshot"), counted(*images, "image"));
    for (count, what) in [
        (*verified as usize, "verified"),
        (*recorded as usize, "recorded"),
        (count(Severity::Damaged), "damaged"),
        (count(Severity::Debris), "left over"),
        (count(Severity::Unverified), "not verified"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if findings.is_empty() {
        text.push_str(": all is well");
    }
    text + "\n"
}

fn document(checked: &Checked, repaired: Option<&Repaired>) -> Value {
    let finding = |Finding { problem, remedy }: &Finding| {
        let mut document = json!(problem);
        document["severity"] = json!(problem.severity());
        document["message"] = problem.to_string().into();
        document["repair"] = json!(remedy);
        if let Remedy::None(why) = remedy {
            document["repair"]["reason"] = why.as_ref().into();
        }
        document
    };
    json!({
        "snapshots": checked.snapshots, "images": checked.images, "verified": checked.verified,
        "recorded": checked.recorded, "damaged": checked.damaged(),
        "findings": checked.findings.iter().map(finding).collect::<Vec<_>>(), "repaired": repaired,
    })
}
