//! The command `check`: finds damage in a store, and repairs it.

use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::output::{counted, table};
use super::session::{Session, check_privilege};
use super::{Done, Failures};
use crate::error::Error;
use crate::store::{CheckOptions, Checked, Finding, Problem, Remedy, Repaired, Severity};

/// Check the store: its database, what is on disk, its images
///
/// Prints a line for each problem, with what --repair does about it. The exit status is 1 if anything is damaged.
/// Debris and layers that cannot be verified are printed and are no failure. Other processes may use the store
/// meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata check --deep && echo sound")]
pub(super) struct Check {
    /// Read every layer and compare it with its digest; apply imported layers once more and compare the trees
    #[arg(long)]
    deep: bool,
    /// Compute the digests of layers that have none, and keep them for later checks
    #[arg(long)]
    record: bool,
    /// Remove debris, and damaged layers of images that can be imported again
    #[arg(long)]
    repair: bool,
    /// Only print what --repair would do
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
        // The repair has succeeded if a second check finds nothing.
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
        if !with_remedy {
            let doubted = |finding: &&Finding| matches!(finding.problem, Problem::Doubtful(_));
            for finding in checked.findings.iter().filter(doubted) {
                text.push_str(&format!("{}: {}\n", finding.problem, mend(finding)));
            }
        }
        // The error at the end says what to do about damage.
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

/// Returns the command that ends the doubt about a snapshot of which nobody can say that it is on disk.
pub(super) fn mend(finding: &Finding) -> String {
    match &finding.remedy {
        Remedy::None(why) => why.to_string(),
        _ => "strata gc removes it: then import or build it again".to_owned(),
    }
}

/// Returns one line with the number of checked snapshots and images, and the number of problems of each kind.
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

/// A finding as a JSON document.
pub(super) fn describe(Finding { problem, remedy }: &Finding) -> Value {
    let mut document = json!(problem);
    document["severity"] = json!(problem.severity());
    document["message"] = problem.to_string().into();
    document["repair"] = json!(remedy);
    if let Remedy::None(why) = remedy {
        document["repair"]["reason"] = why.as_ref().into();
    }
    document
}

fn document(checked: &Checked, repaired: Option<&Repaired>) -> Value {
    json!({
        "snapshots": checked.snapshots, "images": checked.images, "verified": checked.verified,
        "recorded": checked.recorded, "damaged": checked.damaged(),
        "findings": checked.findings.iter().map(describe).collect::<Vec<_>>(), "repaired": repaired,
    })
}
