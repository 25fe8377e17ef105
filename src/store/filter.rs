//! containerd's filter language, for [`crate::Snapshotter::walk`].
//!
//! ```text
//! filter   := [selector ("," selector)*]          all must match; an empty one matches everything
//! selector := field ("." field)* [operator value]   without operator: present and not empty
//! operator := "==" | "!=" | "~="                  the last is a regular expression
//! field    := [A-Za-z] [A-Za-z0-9_]* | quoted
//! value    := quoted | [^ \t\r\n,]+
//! quoted   := a Go string literal, "..." or `...`, for ~= also /.../ or |...|
//! ```
//!
//! # Bounds
//! A client of the socket chooses filters, so their cost has bounds: [`FILTERS_BYTES_MAX`] for all filters of a call,
//! and for patterns, which cost far more memory than their text, [`PATTERNS_MAX`], [`PATTERN_BYTES_MAX`] and
//! [`COMPILED_BYTES_MAX`]. The filters of the test `filters_of_strangers_take_little` were seen to take 31 MiB, 15 MiB
//! of them their text. Matching takes time linear in the value.
//!
//! # References
//! containerd, `pkg/filters`; the crate `regex`, "Untrusted input".

use regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};
use crate::snapshotter::Info;

/// The most bytes of all filters of a call together.
const FILTERS_BYTES_MAX: usize = 64 << 10;

/// The most patterns (`~=`) in all filters of a call.
const PATTERNS_MAX: usize = 16;

/// The most bytes of a pattern: before it is compiled, a class such as `\w` takes some 6 KiB for its two bytes.
const PATTERN_BYTES_MAX: usize = 1024;

/// The most bytes of a compiled pattern.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// The most bytes of the states that a pattern keeps while it matches.
const STATES_BYTES_MAX: usize = 256 << 10;

/// How many characters of a filter an error shows.
const SHOWN_CHARS: usize = 256;

/// Filters, of which one has to match. An empty list matches everything.
#[derive(Debug)]
pub(super) struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Parses each filter.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that is wrong, and for filters beyond one of the bounds.
    pub(super) fn parse(filters: &[&str]) -> Result<Self> {
        let bytes: usize = filters.iter().map(|filter| filter.len()).sum();
        if bytes > FILTERS_BYTES_MAX || filters.len() > FILTERS_BYTES_MAX {
            return Err(Error::invalid(format!(
                "{} filters have {bytes} bytes together: at most {FILTERS_BYTES_MAX} are allowed",
                filters.len()
            )));
        }
        let mut patterns = 0;
        let mut parse = |filter: &&str| Parser { whole: filter, at: 0, patterns: &mut patterns }.filter();
        filters.iter().map(&mut parse).collect::<Result<_>>().map(Self)
    }

    /// Returns true if one of the filters matches `info`.
    pub(super) fn matches(&self, info: &Info) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|selector| selector.matches(info)))
    }
}

impl Selector {
    fn matches(&self, info: &Info) -> bool {
        let found = field(info, &self.path);
        let present = found.is_some();
        let value = found.unwrap_or_default();
        match &self.test {
            Test::Present => !value.is_empty(),
            Test::Equal(wanted) => present && value == *wanted,
            Test::NotEqual(wanted) => value != *wanted,
            Test::Matches(pattern) => pattern.is_match(&value),
        }
    }
}

fn field(info: &Info, path: &[String]) -> Option<String> {
    match path.split_first()? {
        (name, []) => match name.as_str() {
            "name" => Some(info.name.clone()),
            "parent" => Some(info.parent.clone()),
            "kind" => Some(info.kind.to_string()),
            _ => None,
        },
        (name, label) if name == "labels" => info.labels.get(&label.join(".")).cloned(),
        _ => None,
    }
}

struct Parser<'a> {
    whole: &'a str,
    at: usize,
    /// Number of patterns that the filters of the call have so far.
    patterns: &'a mut usize,
}

impl Parser<'_> {
    /// Returns the text of the filter for an error, shortened because a client may send a long filter.
    fn shown(&self) -> String {
        let shown: String = self.whole.chars().take(SHOWN_CHARS).collect();
        if shown.len() < self.whole.len() { format!("{shown:?}...") } else { format!("{shown:?}") }
    }

    fn rest(&self) -> &str {
        &self.whole[self.at..]
    }

    fn wrong(&self, expected: &str) -> Error {
        Error::invalid(format!("the filter {} is wrong at byte {}: expected {expected}", self.shown(), self.at))
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn filter(mut self) -> Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        if self.whole.is_empty() {
            return Ok(selectors);
        }
        loop {
            self.skip_space();
            selectors.push(self.selector()?);
            self.skip_space();
            if self.rest().is_empty() {
                return Ok(selectors);
            }
            if !self.eat(",") {
                return Err(self.wrong("`,` or the end"));
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.eat(".") {
            path.push(self.field()?);
        }
        self.skip_space();
        let test = if self.eat("==") {
            Test::Equal(self.value(false)?)
        } else if self.eat("!=") {
            Test::NotEqual(self.value(false)?)
        } else if self.eat("~=") {
            let pattern = self.value(true)?;
            Test::Matches(self.compile(&pattern)?)
        } else {
            Test::Present
        };
        Ok(Selector { path, test })
    }

    fn compile(&mut self, pattern: &str) -> Result<Regex> {
        *self.patterns += 1;
        if *self.patterns > PATTERNS_MAX {
            return Err(Error::invalid(format!("the filters have more than {PATTERNS_MAX} patterns")));
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            let bytes = pattern.len();
            return Err(Error::invalid(format!(
                "the filter {} has a pattern of {bytes} bytes: at most {PATTERN_BYTES_MAX} are allowed",
                self.shown()
            )));
        }
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(COMPILED_BYTES_MAX).dfa_size_limit(STATES_BYTES_MAX).build().map_err(|error| {
            Error::invalid(format!("the filter {} has a wrong pattern", self.shown())).with_source(error)
        })
    }

    fn field(&mut self) -> Result<String> {
        if self.rest().starts_with(['"', '`']) {
            return self.quoted();
        }
        let rest = self.rest();
        let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        if !rest.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Err(self.wrong("a field"));
        }
        let name = rest[..length].to_owned();
        self.at += length;
        Ok(name)
    }

    fn value(&mut self, pattern: bool) -> Result<String> {
        self.skip_space();
        let quotes: &[char] = if pattern { &['"', '`', '/', '|'] } else { &['"', '`'] };
        if self.rest().starts_with(quotes) {
            return self.quoted();
        }
        let rest = self.rest();
        let length = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.wrong("a value"));
        }
        let value = rest[..length].to_owned();
        self.at += length;
        Ok(value)
    }

    /// Reads a string whose first character is its quote. In backticks no character is special, in other quotes `\` is.
    fn quoted(&mut self) -> Result<String> {
        let mut chars = self.rest().char_indices();
        let Some((_, quote)) = chars.next() else { return Err(self.wrong("a quoted string")) };
        let mut value: Vec<u8> = Vec::new();
        while let Some((index, c)) = chars.next() {
            if c == quote {
                self.at += index + quote.len_utf8();
                return String::from_utf8(value).map_err(|_| self.wrong("a string of UTF-8"));
            }
            if c == '\\' && quote != '`' {
                let mut digits = || chars.next().map(|(_, digit)| digit);
                let escaped = if quote == '"' { unescape(&mut digits) } else { unescape_pattern(quote, &mut digits) };
                value.extend(escaped.ok_or_else(|| self.wrong("a known escape sequence"))?);
            } else {
                value.extend(c.encode_utf8(&mut [0; 4]).bytes());
            }
        }
        Err(self.wrong("a closing quote"))
    }
}

/// Returns the bytes of a Go escape sequence. `next` returns the characters after the backslash.
fn unescape(next: &mut dyn FnMut() -> Option<char>) -> Option<Vec<u8>> {
    let kind = next()?;
    let byte = |byte: u8| Some(vec![byte]);
    match kind {
        'a' => byte(0x07),
        'b' => byte(0x08),
        'f' => byte(0x0c),
        'n' => byte(b'\n'),
        'r' => byte(b'\r'),
        't' => byte(b'\t'),
        'v' => byte(0x0b),
        '\\' | '"' | '\'' => byte(kind as u8),
        'x' => byte(u8::try_from(number(16, 2, None, next)?).ok()?),
        '0'..='7' => byte(u8::try_from(number(8, 3, Some(kind), next)?).ok()?),
        'u' => unicode(number(16, 4, None, next)?),
        'U' => unicode(number(16, 8, None, next)?),
        _ => None,
    }
}

/// In /.../ and |...| only the quote itself is escaped; everything else belongs to the regular expression.
fn unescape_pattern(quote: char, next: &mut dyn FnMut() -> Option<char>) -> Option<Vec<u8>> {
    let c = next()?;
    Some(if c == quote { c.to_string() } else { format!("\\{c}") }.into_bytes())
}

fn unicode(number: u32) -> Option<Vec<u8>> {
    char::from_u32(number).map(|c| c.to_string().into_bytes())
}

fn number(radix: u32, digits: usize, first: Option<char>, next: &mut dyn FnMut() -> Option<char>) -> Option<u32> {
    let mut value = first.map_or(Some(0), |digit| digit.to_digit(radix))?;
    for _ in usize::from(first.is_some())..digits {
        value = value.checked_mul(radix)?.checked_add(next()?.to_digit(radix)?)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshotter::{Kind, Labels};
    use crate::tree::Timestamp;

    fn info() -> Info {
        let labels: Labels = [
            ("l", "2"),
            ("containerd.io/gc.root", "check-walk"),
            ("containerd.io/snapshot.ref", "sha256:abc"),
            ("empty", ""),
            ("a.b", "dotted"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        Info {
            kind: Kind::Active,
            name: "a-wl".into(),
            parent: "default/3/p q".into(),
            labels,
            created: Timestamp::EPOCH,
            updated: Timestamp::EPOCH,
        }
    }

    #[test]
    fn grammar() {
        let matches = [
            "name==a-wl",
            "name==a-wl,labels.l",
            " name == a-wl , kind != view ",
            r#"labels."containerd.io/gc.root"==check-walk"#,
            r#"labels."containerd.io/snapshot.ref"==sha256:abc,parent=="default/3/p q""#,
            r#"parent!="""#,
            "labels.l==2",
            "labels.a.b==dotted",
            "kind==active",
            "name~=^a-",
            r"name~=/a-\w+$/",
            r#"name=="\x61-\u0077\154""#,
            "labels.`containerd.io/gc.root`",
            "labels.none!=x",
            "name~=|^a|",
            "labels.none~=^$",
            "",
        ];
        for filter in matches {
            assert!(Filters::parse(&[filter]).expect(filter).matches(&info()), "{filter}");
        }
        for filter in [
            "name==b",
            "labels.none",
            "labels.empty",
            "kind==view,name==a-wl",
            "other==x",
            "labels==x",
            r#"labels.none!="""#,
        ] {
            assert!(!Filters::parse(&[filter]).expect(filter).matches(&info()), "{filter}");
        }
        assert!(Filters::parse(&[]).expect("none").matches(&info()));
        assert!(Filters::parse(&["name==x", "kind==active"]).expect("or").matches(&info()));
    }

    /// A call is refused for filters that once took 7.4 GB, and for too many bytes, filters or patterns.
    #[test]
    fn bounds() {
        let kind = |filters: &[&str]| Filters::parse(filters).map(drop).map_err(|error| error.kind());
        let refused = Err(crate::ErrorKind::InvalidArgument);
        assert_eq!(kind(&[r"name~=\w{130}"]), refused, "a large pattern");
        assert_eq!(kind(&["name~=a"; PATTERNS_MAX]), Ok(()));
        assert_eq!(kind(&["name~=a"; PATTERNS_MAX + 1]), refused, "filters of many patterns");
        assert_eq!(kind(&[&vec!["name~=a"; PATTERNS_MAX + 1].join(",")]), refused, "a filter of many patterns");
        assert_eq!(kind(&[&format!("name~={}", "a".repeat(PATTERN_BYTES_MAX))]), Ok(()));
        assert_eq!(kind(&[&format!("name~={}", "a".repeat(PATTERN_BYTES_MAX + 1))]), refused, "a long pattern");
        assert_eq!(kind(&[&format!("name=={}", "a".repeat(FILTERS_BYTES_MAX))]), refused, "a long filter");
        assert_eq!(kind(&vec![""; FILTERS_BYTES_MAX + 1]), refused, "many filters");
        assert_eq!(kind(&[r"name~=^sha256:[0-9a-f]{64}$"]), Ok(()), "a usual one");
        let error = Filters::parse(&[&format!("={}", "a".repeat(4096))]).expect_err("a long wrong one").to_string();
        assert!(error.len() < 1024, "{error}");
    }

    /// The variable that is set in the process with limits.
    const LIMITED: &str = "STRATA_TEST_LIMITED";

    /// Filters such as a hostile client sends, in a process that has 512 MiB of address space and one minute.
    #[test]
    fn filters_of_strangers_take_little() {
        if std::env::var_os(LIMITED).is_some() {
            return parse_filters_of_strangers();
        }
        let this = std::env::current_exe().expect("the test's program");
        let mut child = std::process::Command::new("timeout");
        child.args(["60", "prlimit", "--as=536870912"]).arg(this).env(LIMITED, "1");
        let output = child.args(["--exact", "store::filter::tests::filters_of_strangers_take_little"]).output();
        let output = output.expect("run the test's program");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    fn parse_filters_of_strangers() {
        let large = vec![r"name~=\w{130}"; 1000];
        assert!(Filters::parse(&large).is_err());
        assert!(Filters::parse(&[&large.join(",")]).is_err());
        let lengthy = format!("name=={}", "a".repeat(15_000_000));
        assert!(Filters::parse(&[&lengthy]).is_err());
        let classes = format!("name~=/{}/", r"\w".repeat(500));
        assert!(Filters::parse(&[&classes]).is_err());
        let nested = format!("name~=/{}/", "(".repeat(1000));
        assert!(Filters::parse(&[&nested]).is_err());
        let most = [r"name~=/\w{12}$/"; PATTERNS_MAX];
        let filters = Filters::parse(&most).expect("the most patterns, of about the most bytes");
        assert!(filters.matches(&Info { name: "\u{e9}".repeat(500), ..info() }));
    }

    #[test]
    fn mistakes() {
        for filter in [
            " ",
            ",",
            "name==",
            "name=a",
            "name==a b",
            "name==\"a",
            "==x",
            "9==x",
            "name~=(",
            "name==a,",
            "labels.",
            r#"name=="\q""#,
        ] {
            let error = Filters::parse(&[filter]).expect_err(filter);
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{filter}");
        }
    }
}
