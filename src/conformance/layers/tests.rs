//! Tests that the rules are complete, and that the notation means what it should.

use super::*;

/// Returns the numbers of the rules that `src/design.rs` lists as rules without examples.
fn decided() -> Vec<u8> {
    let (_, section) = include_str!("../../design.rs").split_once("## Rules without examples").expect("the section");
    let section = section.split("//! ## ").next().expect("an end");
    let number = |line: &str| line.strip_prefix("//! - **")?.split('*').next()?.parse().ok();
    section.lines().filter_map(number).collect()
}

#[test]
fn every_rule_has_examples_or_a_reason() {
    let mut numbers: Vec<u8> = rules().iter().map(|rule| rule.number).chain(decided()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<u8>>());
}

#[test]
fn every_rule_says_what_for() {
    for rule in rules() {
        for text in [rule.name, rule.source, rule.failure] {
            assert!(!text.is_empty(), "rule {}", rule.number);
        }
        assert!(!rule.examples.is_empty(), "rule {}", rule.number);
        let names: std::collections::BTreeSet<_> = rule.examples.iter().map(|example| example.name).collect();
        assert_eq!(names.len(), rule.examples.len(), "rule {}", rule.number);
    }
}

#[test]
fn every_line_parses() {
    for rule in rules() {
        for example in rule.examples {
            let check = || -> Result<()> {
                notation::archive(
                    &example.lower.iter().filter(|line| **line != NEXT_LAYER).copied().collect::<Vec<_>>(),
                )?;
                match (example.step, example.expected) {
                    (ExampleStep::Layer(lines), Expected::Lines(tree)) => {
                        notation::archive(lines)?;
                        notation::tree(tree).map(drop)
                    }
                    (ExampleStep::Layer(lines), _) => notation::archive(lines).map(drop),
                    (ExampleStep::Archive(bytes), _) => bytes().map(drop),
                    (ExampleStep::Edits(lines) | ExampleStep::EditsOfAll(lines), _) => {
                        lines.iter().try_for_each(|line| notation::edit(line).map(drop))
                    }
                }
            };
            check().unwrap_or_else(|error| panic!("rule {}, {}: {}", rule.number, example.name, error.chain()));
        }
    }
}

#[test]
fn what_is_printed_is_what_was_written() {
    let lines = [
        "d . 711 @-1.5",
        "f a \"x\\x0a\" 600 1:2 @5 user.a=b",
        "l l -> {t*120}",
        "h b -> a",
        "c c dev=1:3",
        "f {n*150} \"\" 0",
    ];
    let found = notation::entries(&notation::archive(&lines).expect("lines")).expect("an archive");
    let expected: Vec<String> = lines
        .iter()
        .map(|line| line.replace("{t*120}", &"t".repeat(120)).replace("{n*150}", &"n".repeat(150)))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn what_is_no_line_is_refused() {
    for line in ["", "f", "q a", "f a {n", "f a \\", "f a \"x\" 9", "f a 1:", "f a @x", "l a ->"] {
        assert!(notation::archive(&[line]).is_err(), "{line}");
    }
    for line in ["", "write a", "write a \"xx\"", "write a \"d\"", "chmod 9 a", "fly a"] {
        assert!(notation::edit(line).is_err(), "{line}");
    }
}
