//! The report as JUnit XML, as continuous integration servers read it.
//!
//! A known deviation is reported as a skipped test, because the format has no other word for it; its message says so.
//!
//! # References
//! The schema of the Jenkins xUnit plugin; XML 1.0, section 2.2 (characters).

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::report::{Judged, Report, Result as Tried, Word};
use crate::error::{Context as _, Result};

/// Returns the whole report.
pub(super) fn print(report: &Report) -> Result<Vec<u8>> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
    write(report, &mut writer).at("write", "a report of JUnit's form")?;
    let mut bytes = writer.into_inner();
    bytes.push(b'\n');
    Ok(bytes)
}

fn write(report: &Report, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let failures = report.count(Word::Failed).to_string();
    let tests = report.results().count().to_string();
    writer
        .create_element("testsuites")
        .with_attributes([("name", "strata conformance"), ("tests", &tests), ("failures", &failures)])
        .write_inner_content(|writer| report.judged.iter().try_for_each(|judged| suite(judged, writer)))?;
    Ok(())
}

fn suite(judged: &Judged, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let count = |words: &[Word]| judged.results.iter().filter(|r| words.contains(&r.outcome)).count().to_string();
    let name = text(&judged.name);
    writer
        .create_element("testsuite")
        .with_attributes([
            ("name", name.as_str()),
            ("tests", &judged.results.len().to_string()),
            ("failures", &count(&[Word::Failed])),
            ("errors", "0"),
            ("skipped", &count(&[Word::Skipped, Word::Deviation])),
        ])
        .write_inner_content(|writer| judged.results.iter().try_for_each(|result| case(&name, result, writer)))?;
    Ok(())
}

fn case(suite: &str, result: &Tried, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let seconds = format!("{:.3}", result.seconds);
    let attributes = [("classname", suite), ("name", &result.case), ("time", &seconds)];
    let element = writer.create_element("testcase").with_attributes(attributes);
    let detail = text(result.detail.as_deref().unwrap_or_default());
    let told = match result.outcome {
        Word::Passed => return element.write_empty().map(drop),
        Word::Skipped => return skipped(element, &detail),
        Word::Deviation => return skipped(element, &format!("known deviation: {detail}")),
        Word::Failed => format!("{detail}\nit means: {}\nsource: {}", result.meaning, result.source),
    };
    let first = detail.lines().next().unwrap_or_default().to_owned();
    element
        .write_inner_content(|writer| {
            let failure = writer.create_element("failure").with_attributes([("message", first.as_str())]);
            failure.write_text_content(BytesText::new(&told)).map(drop)
        })
        .map(drop)
}

fn skipped(element: quick_xml::writer::ElementWriter<'_, Vec<u8>>, why: &str) -> io::Result<()> {
    element
        .write_inner_content(|writer| {
            writer.create_element("skipped").with_attributes([("message", why)]).write_empty().map(drop)
        })
        .map(drop)
}

/// Returns `text` with the characters replaced that XML cannot contain, even escaped.
fn text(text: &str) -> String {
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.chars().map(|c| if allowed(c) { c } else { '\u{fffd}' }).collect()
}
