use proptest::prelude::*;

use super::*;
use crate::tree::sample::samples;

const TEXT: &str = r"d 0755 0 0 - 1700000000.000000000 - - . - - -
f 4755 0 1 5 1700000000.500000000 - sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 \x2d - security.capability=\x01\x00,user.a\x3db= a\x20b,l\x5cn
l 0777 0 0 2 -0.500000000 - - a-b su - -
d 0755 0 0 - 0.000000000 - - dev - - -
c 0666 0 0 - 0.000000000 1:3 - dev/null - - -
b 0660 0 6 - 0.000000000 8:1 - dev/sda1 - - -
p 0600 0 0 - 0.000000000 - - dev/\xff\x0a - - -
";

#[test]
fn text_is_what_it_was() {
    let tree = parse(TEXT).unwrap();
    assert_eq!(print(&tree), TEXT);
    let time = tree.get("a-b").unwrap().inode.meta.mtime;
    assert_eq!(time, Timestamp { seconds: -1, nanos: 500_000_000 });
    let file = tree.get("-").unwrap();
    assert_eq!(file.inode.meta.xattrs.get(&b"user.a=b"[..]), Some(&Vec::new()));
    assert_eq!(file.names.len(), 3);
}

#[test]
fn only_canonical_text_is_accepted() {
    let line = |from: &str, to: &str| TEXT.replacen(from, to, 1);
    let cases = [
        ("no root", TEXT.split_once('\n').unwrap().1.to_owned()),
        ("nothing", String::new()),
        ("no final newline", TEXT.trim_end().to_owned()),
        ("an empty line", format!("{TEXT}\n")),
        ("carriage returns", TEXT.replace('\n', "\r\n")),
        ("three digits of mode", line("0755", "755")),
        ("a sign", line(" 0 0 ", " +0 0 ")),
        ("a leading zero", line(" 0 1 5 ", " 0 1 05 ")),
        ("eight places", line(".500000000", ".50000000")),
        ("no nanoseconds", line("1700000000.500000000", "1700000000")),
        ("minus nothing", line(" 0.000000000", " -0.000000000")),
        ("a needless escape", line(r"a\x20b", r"\x61\x20b")),
        ("an upper-case escape", line(r"l\x5cn", r"l\x5Cn")),
        ("a missing escape", line(r"\xff", "\u{e9}")),
        ("half an escape", line(r"\xff\x0a", r"\xff\x0")),
        ("a wrong size of a link", line("l 0777 0 0 2", "l 0777 0 0 3")),
        ("a size of a directory", line("d 0755 0 0 -", "d 0755 0 0 4096")),
        (
            "a file without content",
            line("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "-"),
        ),
        ("an unknown type", line("p 0600", "x 0600")),
        ("too large a mode", line("0600", "10600")),
        ("a directory as a file", line("d 0755 0 0 - 0.000000000 - - dev", "p 0755 0 0 - 0.000000000 - - dev")),
        ("a parent that is missing", line("d 0755 0 0 - 0.000000000 - - dev - - -\n", "")),
        ("an absolute path", line("dev/null", "/dev/null")),
        ("a path that goes up", line("dev/null", "dev/../null")),
        ("links out of order", line(r"a\x20b,l\x5cn", r"l\x5cn,a\x20b")),
        ("a link to itself", line(r"a\x20b,l\x5cn", r"\x2d,a\x20b,l\x5cn")),
        ("a second column", line("d 0755", "d  0755")),
        ("a path twice", TEXT.replace("dev/sda1", "dev/null")),
        ("siblings out of order", {
            let mut lines: Vec<&str> = TEXT.lines().collect();
            lines.swap(4, 5);
            lines.join("\n") + "\n"
        }),
    ];
    for (what, text) in cases {
        assert_ne!(text, TEXT, "{what}: the case changes nothing");
        let error = parse(&text).expect_err(what);
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{what}: {}", error.chain());
        assert!(error.to_string().starts_with("line "), "{what}: {}", error.chain());
    }
}

#[test]
fn times_at_the_edges() {
    for time in [
        Timestamp { seconds: i64::MIN, nanos: 0 },
        Timestamp { seconds: i64::MAX, nanos: 999_999_999 },
        Timestamp { seconds: -1, nanos: 999_999_999 },
        Timestamp::EPOCH,
    ] {
        assert_eq!(parse_time(&print_time(time)).unwrap(), time);
    }
    assert_eq!(print_time(Timestamp { seconds: -1, nanos: 999_999_999 }), "-0.000000001");
    assert!(parse_time("9223372036854775808.000000000").is_err());
}

proptest! {
    #[test]
    fn parse_undoes_print(sample in samples(24)) {
        let tree = sample.tree();
        let text = print(&tree);
        let parsed = parse(&text).unwrap();
        prop_assert_eq!(&parsed, &tree);
        prop_assert_eq!(digest(&parsed), digest(&tree));
        prop_assert!(text.is_ascii());
    }

    #[test]
    fn what_parses_is_canonical(line in 0..7_usize, at in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
        let mut lines: Vec<String> = TEXT.lines().map(str::to_owned).collect();
        let mut bytes = lines[line].clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        lines[line] = String::from_utf8(bytes).unwrap();
        let text = lines.join("\n") + "\n";
        if let Ok(tree) = parse(&text) {
            prop_assert_eq!(print(&tree), text);
        }
    }

    #[test]
    fn unescape_undoes_escape(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
        prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), bytes);
    }
}
