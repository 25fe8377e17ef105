//! Reading and evaluating a Dockerfile takes linear time in its length, for every content.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::limits::{ENTRIES_MAX, Limits};
use super::parse;
use super::plan::{BaseImage, Plan, Surroundings, plan};
use crate::container::Network;
use crate::error::{Error, Result};
use crate::oci::config::Config;

/// Evaluates `text`, with the limits and an image `deep` of many variables.
fn evaluate(text: &str, limits: Limits) -> Result<Plan> {
    let file = parse::parse("D", text)?;
    let image = &mut |name: &str| match name {
        "deep" => {
            let mut config = Config::empty("linux", "amd64");
            config.config.env = (0..1000).map(|n| format!("base{n}=1")).collect();
            Ok(BaseImage { bytes: 10_000, top: None, config, layers: Vec::new() })
        }
        _ => Err(Error::not_found("no such image")),
    };
    let (arguments, platform) = (BTreeMap::new(), ("linux", "amd64"));
    let network = Network::None;
    let none = BTreeSet::new();
    plan(
        &file,
        Surroundings {
            arguments: &arguments,
            target: None,
            network,
            limits,
            secrets: &none,
            agents: &none,
            context: None,
            image,
            platform,
        },
    )
}

/// `count` times `text`, with the number in place of each `#`.
fn times(count: usize, text: &str) -> String {
    (0..count).map(|n| text.replace('#', &n.to_string())).collect()
}

/// A name, a first size, and the Dockerfile of a size.
type Shape = (&'static str, usize, fn(usize) -> String);

/// Dockerfiles that repeat an instruction or a word: the number is that of the repetitions in the smaller text.
const SHAPES: [Shape; 12] = [
    ("ENV each", 2000, |n| "FROM scratch\n".to_owned() + &times(n, "ENV e#=$e0\n")),
    ("ENV of many", 5000, |n| format!("FROM scratch\nENV{}\n", times(n, " e#=$e0"))),
    ("ARG each", 2000, |n| "FROM scratch\n".to_owned() + &times(n, "ARG a#=$a0\n")),
    ("ARG of many", 5000, |n| format!("FROM scratch\nARG{}\n", times(n, " a#=$a0"))),
    ("global ARG", 2000, |n| times(n, "ARG a#=$a0\n") + "FROM scratch\n"),
    ("LABEL each", 2000, |n| format!("FROM scratch\nENV{}\n", times(n, " e#=1")) + &times(n, "LABEL l#=$e#\n")),
    ("LABEL of many", 10_000, |n| format!("FROM scratch\nLABEL{}\n", times(n, " l#=1"))),
    ("shadowed", 3000, |n| format!("FROM scratch\nARG{}\nENV{}\nRUN a\n", times(n, " a#=1"), times(n, " a#=2"))),
    ("instructions", 2000, |n| "FROM scratch\n".to_owned() + &times(n, "RUN true #\n")),
    ("stages", 200, |n| "FROM scratch AS s\n".to_owned() + &times(n, "FROM deep AS t#\nCOPY --from=s /x /y\n")),
    ("documents", 3000, |n| format!("FROM scratch\nCOPY{} /d/\n{}", times(n, " <<E#"), times(n, "x\nE#\n"))),
    ("continuations", 1000, |n| "FROM scratch\n".to_owned() + &times(n, "RUN a# \\\n\n x\n")),
];

/// Returns the processor time of this thread that `work` takes. Elapsed time would depend on other tests.
pub(super) fn cpu_time(work: impl FnOnce()) -> Duration {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("a time since the thread began")
    };
    let begun = now();
    work();
    now() - begun
}

/// The shortest of three times that `text` takes.
fn time(name: &str, text: &str) -> Duration {
    let limits = Limits { instructions: usize::MAX, stages: usize::MAX, expanded_bytes: 1 << 30, ..Limits::default() };
    let run = |_| cpu_time(|| drop(evaluate(text, limits).unwrap_or_else(|error| panic!("{name}: {}", error.chain()))));
    (0..3).map(run).min().unwrap_or_default()
}

#[test]
fn four_times_the_text_takes_four_times_as_long() {
    for (name, count, text) in SHAPES {
        let (small, large) = (time(name, &text(count)), time(name, &text(4 * count)));
        assert!(large < small * 8, "{name}: {small:?} for {count}, {large:?} for {}", 4 * count);
    }
}

/// A line that ends with an escape character and a no-break space does not continue: the text of each instruction once
/// held all later instructions, too.
#[test]
fn texts_of_instructions_do_not_overlap() {
    let text = "FROM scratch\n".to_owned() + &times(2000, "USER u \\\u{a0}\n");
    let steps = &evaluate(&text, Limits::default()).expect("a plan").stages[0].steps;
    assert_eq!((steps.len(), steps.iter().map(|step| step.text.len()).max()), (2000, Some("USER u \\".len())));
}

#[test]
fn a_byte_order_mark_moves_nothing() {
    let text = "\u{feff}FROM scratch\nRUN \u{e9}\u{e9} a\nRUN --x=1 b\n";
    assert!(evaluate(text, Limits::default()).expect_err("a flag").to_string().starts_with("D:3:5: "));
    let text = "\u{feff}FROM scratch\nRUN \u{e9}\u{e9} a";
    assert_eq!(evaluate(text, Limits::default()).expect("a plan").stages[0].steps[0].text, "RUN \u{e9}\u{e9} a");
}

#[test]
fn numbers_are_bounded() {
    let tight = Limits { instructions: 3, stages: 2, ..Limits::default() };
    let lists = |keyword: &str, word: &str| format!("FROM scratch\n{keyword}{}\n", times(ENTRIES_MAX + 1, word));
    for (text, limits, message) in [
        ("FROM scratch\n".to_owned() + &times(4, "USER #\n"), tight, "D:5:1: the build has more than 3 instructions"),
        (times(4, "ARG a#\n") + "FROM scratch\n", tight, "D:4:1: the build has more than 3 instructions"),
        (times(3, "FROM scratch\n"), tight, "D:3:1: there are more than 2 stages: --limit stages=NUMBER"),
        (lists("ENV", " e#=1"), Limits::default(), "D:2:1: the image has more than 65536 variables"),
        (lists("LABEL", " e#=1"), Limits::default(), "D:2:1: the image has more than 65536 labels"),
        (lists("VOLUME", " /v#"), Limits::default(), "D:2:1: the image has more than 65536 volumes"),
        (
            format!("FROM scratch\nRUN{} true\n", times(257, " --mount=type=tmpfs,target=/t#")),
            Limits::default(),
            "one instruction has at most 256 flags",
        ),
    ] {
        let error = evaluate(&text, limits).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
}

/// A pattern can shorten a megabyte to nothing, which costs no length: a Dockerfile of 700 KB took minutes.
#[test]
fn patterns_look_at_a_bounded_number_of_bytes() {
    let value = format!("FROM scratch\nENV a={}\nENV x={}\n", "v".repeat(1 << 10), "$a".repeat(64));
    let limits = Limits { expanded_bytes: 1 << 20, ..Limits::default() };
    for operator in ["##*", "%%*", "#*x", "/*/", "//v/"] {
        let pattern = format!("${{x{operator}}}");
        let error = evaluate(&format!("{value}LABEL a={}\n", pattern.repeat(50)), limits).expect_err(operator);
        assert!(error.chain().contains("--limit expanded="), "{operator}: {}", error.chain());
        assert!(evaluate(&format!("{value}LABEL a={pattern}\n"), limits).is_ok(), "{operator}");
    }
}
