//! Conclusions from the figures of one run, in plain words. No sentence claims more than the figures show.

use std::collections::BTreeMap;

use super::times;
use crate::compare::measure::{Standing, three_digits};
use crate::compare::{Comparison, Figures, Measured, Role, Row};
use crate::size::size_change;

/// Maximum number of best subjects that the summary names.
const TOLD_OF_MAX: usize = 3;

/// Ranks of one subject over all steps.
#[derive(Debug, Default)]
struct Tally<'a> {
    /// Number of steps in which the subject was measured.
    steps: usize,
    /// Number of steps in which the subject was best, or level with the best.
    good: usize,
    /// Step in which the subject was furthest from the best, with its multiple of the best median.
    worst: Option<(&'a str, f64)>,
}

/// Returns the sentences of the summary.
pub(super) fn sentences(workloads: &[Measured]) -> Vec<String> {
    let headlines = || workloads.iter().flat_map(|workload| &workload.steps).filter(|comparison| comparison.headline);
    let mut sentences = overall(headlines());
    sentences.extend(headlines().filter_map(step));
    sentences.extend(workloads.iter().filter_map(space));
    sentences
}

fn competing(comparison: &Comparison) -> impl Iterator<Item = (&Row, Figures, Standing)> {
    comparison.rows.iter().filter_map(|row| {
        let figures = row.figures?;
        Some((row, figures, figures.standing?))
    })
}

/// Names the subjects that were best most often, and the step in which each of them was furthest from the best.
fn overall<'a>(comparisons: impl Iterator<Item = &'a Comparison>) -> Vec<String> {
    let mut tallies = BTreeMap::<&str, Tally<'a>>::new();
    for comparison in comparisons.filter(|comparison| competing(comparison).count() > 1) {
        for (row, figures, standing) in competing(comparison) {
            let tally = tallies.entry(&row.label.subject).or_default();
            tally.steps += 1;
            tally.good += usize::from(matches!(standing, Standing::Best | Standing::Level));
            let loses = matches!(standing, Standing::Slower | Standing::Worst);
            if loses && tally.worst.is_none_or(|(_, ratio)| figures.times_best > ratio) {
                tally.worst = Some((comparison.step.name, figures.times_best));
            }
        }
    }
    let mut order: Vec<_> = tallies.into_iter().collect();
    order.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.good));
    let told = |(subject, tally): (&str, Tally<'a>)| {
        let Tally { steps, good, worst } = tally;
        let cost = worst.map_or_else(String::new, |(step, ratio)| {
            format!("; furthest from the best in \"{step}\": {} as long", times(ratio))
        });
        format!("{subject} is best, or not to be told apart from the best, in {good} of {steps} headline steps{cost}.")
    };
    order.into_iter().filter(|(_, tally)| tally.good > 0).take(TOLD_OF_MAX).map(told).collect()
}

/// Names the best subject of a step, its lead, and the worst subject.
fn step(comparison: &Comparison) -> Option<String> {
    let (best, figures, standing) = competing(comparison).min_by_key(|(_, figures, _)| figures.statistics.median_ns)?;
    if competing(comparison).count() < 2 {
        return None;
    }
    let median = three_digits(figures.statistics.median_ns);
    let floor = figures.times_floor.map_or_else(String::new, |ratio| format!(", {} the floor", times(ratio)));
    let name = &best.label.subject;
    let mut sentence = match standing {
        Standing::Best => format!("{}: {name} is best ({median}{floor})", comparison.step.name),
        _ => {
            let others: Vec<&str> = competing(comparison)
                .filter(|(row, _, standing)| *standing == Standing::Level && row.label != best.label)
                .map(|(row, ..)| row.label.subject.as_str())
                .collect();
            let others = others.join(", ");
            format!("{}: {name} ({median}{floor}); no difference measured to {others}", comparison.step.name)
        }
    };
    let slowest = competing(comparison).max_by_key(|(_, figures, _)| figures.statistics.median_ns);
    if let Some((row, figures, Standing::Slower | Standing::Worst)) = slowest {
        let median = three_digits(figures.statistics.median_ns);
        let ratio = times(figures.times_best);
        sentence.push_str(&format!("; {} takes {ratio} as long ({median})", row.label.subject));
    }
    Some(sentence + ".")
}

/// Names the subjects that take most and least space for a workload; `None` if they take about the same.
fn space(workload: &Measured) -> Option<String> {
    let is_floor = |subject: &str| {
        let rows = workload.steps.iter().flat_map(|step| &step.rows);
        rows.into_iter().any(|row| row.label.subject == subject && row.label.role == Role::Floor)
    };
    let sizes: Vec<(&str, i64)> = workload
        .costs
        .iter()
        .filter(|weighed| !is_floor(&weighed.subject))
        .filter_map(|weighed| Some((weighed.subject.as_str(), weighed.cost.size_bytes?)))
        .collect();
    let (least, fewest) = sizes.iter().min_by_key(|(_, bytes)| *bytes)?;
    let (most, largest) = sizes.iter().max_by_key(|(_, bytes)| *bytes)?;
    let shown = |bytes: i64| size_change(bytes.max(0));
    let differ = *largest > 1 << 20 && *largest > 2 * (*fewest).max(0);
    differ.then(|| {
        let (few, many) = (shown(*fewest), shown(*largest));
        format!("Space for \"{}\": {few} on {least}, {many} on {most}.", workload.name)
    })
}
