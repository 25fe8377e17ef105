//! A chart for a workload: a bar for each row, on a logarithmic scale.
//!
//! The times of strategies span four orders of magnitude, so a linear scale would show one bar and nothing else.
//! Horizontal positions are shares of the width and heights are pixels, so that the chart fits a phone without becoming
//! small.

use std::fmt::Write as _;

use super::escape;
use crate::compare::measure::{Standing, Statistics, three_digits};
use crate::compare::report::mark;
use crate::compare::{Comparison, Measured, Role, Row};

/// Heights in pixels of a row with its text and bar, of a heading, and of the scale below.
const ROW_PX: u32 = 34;
const HEADING_PX: u32 = 30;
const SCALE_PX: u32 = 24;

/// Vertical offset of a bar in its row, below the text.
const BAR_PX: u32 = 20;
const BAR_HEIGHT_PX: u32 = 9;

/// Right end of the longest bar, in percent of the width.
const WIDTH_PERCENT: f64 = 96.0;

/// Range of decades that contains all figures.
struct TimeAxis {
    from: f64,
    decades: f64,
}

impl TimeAxis {
    fn of(workload: &Measured) -> Option<Self> {
        let figures = workload.steps.iter().flat_map(|step| &step.rows).filter_map(|row| row.figures);
        let (mut least, mut most) = (f64::MAX, 0.0_f64);
        for figures in figures {
            least = least.min(logarithm(figures.statistics.lower_quartile_ns));
            most = most.max(logarithm(figures.statistics.upper_quartile_ns));
        }
        let (from, to) = (least.floor(), most.ceil().max(least.floor() + 1.0));
        (least <= most).then_some(Self { from, decades: to - from })
    }

    /// Horizontal position, in percent of the width.
    fn at(&self, ns: u64) -> f64 {
        ((logarithm(ns) - self.from) / self.decades).clamp(0.0, 1.0) * WIDTH_PERCENT
    }
}

fn logarithm(ns: u64) -> f64 {
    (ns.max(1) as f64).log10()
}

/// Returns the chart of all steps; empty if nothing was measured.
pub(super) fn chart(workload: &Measured) -> String {
    let Some(scale) = TimeAxis::of(workload) else { return String::new() };
    let rows: u32 = workload.steps.iter().map(|step| step.rows.len() as u32).sum();
    let plot = rows * ROW_PX + workload.steps.len() as u32 * HEADING_PX;
    let height = plot + SCALE_PX;
    let name = escape(workload.name);
    let mut svg = format!(
        "<figure>\n<svg role=\"img\" aria-labelledby=\"{name}-title {name}-desc\" width=\"100%\" height=\"{height}\" \
         xmlns=\"http://www.w3.org/2000/svg\">\n<title id=\"{name}-title\">Times of {name}, median and quartiles</title>\n\
         <desc id=\"{name}-desc\">{}</desc>\n",
        escape(&description(workload))
    );
    decades(&mut svg, &scale, plot);
    let mut y = 0;
    for step in &workload.steps {
        bars(&mut svg, step, &scale, &mut y);
    }
    svg.push_str(
        "</svg>\n<figcaption>A longer bar is slower. The scale does not begin at zero: each of \
                  its lines is ten times the one before. The thin line spans half of the samples.</figcaption>\n</figure>\n",
    );
    svg
}

/// Returns the fastest subject of each step as text, for readers who do not see the chart; all figures are in the
/// table.
fn description(workload: &Measured) -> String {
    let fastest = |step: &Comparison| {
        let measured = step.rows.iter().filter_map(|row| Some((row, row.figures?)));
        let competing = measured.filter(|(row, _)| row.label.role != Role::Floor);
        let (row, figures) = competing.min_by_key(|(_, figures)| figures.statistics.median_ns)?;
        let median = three_digits(figures.statistics.median_ns);
        Some(format!("{}: shortest {} with {median}.", step.step.name, row.label.subject))
    };
    let said: Vec<String> = workload.steps.iter().filter_map(fastest).collect();
    format!("{} All figures are in the table below.", said.join(" "))
}

fn decades(svg: &mut String, scale: &TimeAxis, plot: u32) {
    for decade in 0..=scale.decades as u32 {
        let ns = 10_f64.powf(scale.from + f64::from(decade)) as u64;
        let x = scale.at(ns);
        _ = writeln!(svg, "<line class=\"decade\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"{plot}\"/>");
        // Centred labels of the first and the last decade would reach over the edge.
        let anchor = if decade == 0 { "start" } else { "end" };
        let (y, label) = (plot + SCALE_PX - 8, three_digits(ns));
        _ = writeln!(
            svg,
            "<text class=\"scale\" x=\"{x:.2}%\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
            unit(&label)
        );
    }
}

/// Formats a round number without unnecessary digits.
fn unit(label: &str) -> String {
    label.replace(".00", "").replace("10.0", "10")
}

fn bars(svg: &mut String, step: &Comparison, scale: &TimeAxis, y: &mut u32) {
    let heading = *y + HEADING_PX - 9;
    _ = writeln!(svg, "<text class=\"step\" x=\"0\" y=\"{heading}\">{}</text>", escape(step.step.name));
    *y += HEADING_PX;
    for row in &step.rows {
        bar(svg, row, scale, *y);
        *y += ROW_PX;
    }
}

fn bar(svg: &mut String, row: &Row, scale: &TimeAxis, y: u32) {
    let who = escape(&row.label.subject);
    let text = y + BAR_PX - 5;
    let Some(figures) = row.figures else {
        let what = if row.failure.is_some() { "failed" } else { "not reached" };
        _ = writeln!(svg, "<text x=\"0\" y=\"{text}\">{who}: {what}</text>");
        return;
    };
    let Statistics { lower_quartile_ns, median_ns, upper_quartile_ns, .. } = figures.statistics;
    let mark = match mark(row) {
        mark if mark.is_empty() => mark,
        mark => format!(" ({mark})"),
    };
    _ = writeln!(svg, "<text x=\"0\" y=\"{text}\">{who}: {}{mark}</text>", three_digits(median_ns));
    let class = match figures.standing {
        Some(Standing::Best) => "best",
        Some(Standing::Level) => "level",
        Some(Standing::Worst) => "worst",
        Some(Standing::Slower) => "slower",
        None => "floor",
    };
    let (top, middle) = (y + BAR_PX, y + BAR_PX + BAR_HEIGHT_PX / 2);
    let (low, median, high) = (scale.at(lower_quartile_ns), scale.at(median_ns).max(0.5), scale.at(upper_quartile_ns));
    _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"0\" y=\"{top}\" width=\"{median:.2}%\" height=\"{BAR_HEIGHT_PX}\" rx=\"2\"/>\
         <line class=\"spread\" x1=\"{low:.2}%\" x2=\"{high:.2}%\" y1=\"{middle}\" y2=\"{middle}\"/>"
    );
}
