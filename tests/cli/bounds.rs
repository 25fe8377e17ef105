//! The cost of a stranger's input: each command has a time of the processor and an address space, and its system
//! calls grow with the input, not with a power of it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::tally::Tally;
use super::{Bench, support, text};

/// Seconds of the processor for one command, some ten times what any of these needs, optimized or not.
const CPU_S: u32 = 15;

/// Bytes of address space for one command. Stacks of threads and the program itself count, too.
const SPACE_BYTES: u64 = 1 << 30;

/// How deep the entries are.
const DEPTH: usize = 2000;

/// Runs a command with limits, `input` as its input.
pub fn limited(bench: &Bench, arguments: &[&str], input: &Path) -> Output {
    let command = bench.command(arguments);
    let mut limited = Command::new("prlimit");
    limited.args([&format!("--cpu={CPU_S}"), &format!("--as={SPACE_BYTES}")]);
    limited.arg(command.get_program()).args(command.get_args());
    limited.env_remove("STRATA_LOG").env("STRATA_ROOT", bench.path("store"));
    limited.stdin(fs::File::open(input).expect("open the input")).output().expect("run prlimit")
}

/// The same, for a command that succeeds.
fn limited_ok(bench: &Bench, arguments: &[&str], input: &Path) -> Vec<u8> {
    let output = limited(bench, arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}: {}", output.status, text(&output.stderr));
    output.stdout
}

/// An entry of a layer: its type, path, and the target of a link.
type Line = (tar::EntryType, String, &'static str);

fn layer(lines: &[Line]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, target) in lines {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(0);
        if kind.is_symlink() {
            archive.append_link(&mut header, path, target).expect("append");
        } else {
            archive.append_data(&mut header, path, std::io::empty()).expect("append");
        }
    }
    archive.into_inner().expect("an archive")
}

/// Layers of `entries` entries at [`DEPTH`]: in one directory; each in a directory that no entry describes; removals
/// beside links that are replaced; in two trees in turn; through a link that leads up and down.
fn deep_layers(entries: usize) -> [(&'static str, Vec<u8>); 5] {
    use tar::EntryType::{Regular, Symlink};
    let (d, e) = ("d/".repeat(DEPTH - 2), "e/".repeat(DEPTH - 2));
    let file = |path: String| (Regular, path, "");
    let files = (0..entries).map(|n| file(format!("{d}f{n}"))).collect::<Vec<_>>();
    let implied = (0..entries).map(|n| file(format!("{d}n{n:05}/f"))).collect::<Vec<_>>();
    let replaced = (0..entries / 3)
        .flat_map(|n| [(Symlink, format!("{d}l"), "x"), file(format!("{d}l")), file(format!("{d}.wh.x{n}"))]);
    let turns = (0..entries).map(|n| file(format!("{}f{n}", if n % 2 == 0 { &d } else { &e })));
    let up_and_down = "../d/../d/../d/../d/../../d/d/";
    let links = std::iter::once((Symlink, format!("{d}up"), up_and_down))
        .chain((0..entries).map(|n| file(format!("{d}up/n{n:05}"))));
    [
        ("files", layer(&files)),
        ("implied", layer(&implied)),
        ("replaced", layer(&replaced.collect::<Vec<_>>())),
        ("turns", layer(&turns.collect::<Vec<_>>())),
        ("links", layer(&links.collect::<Vec<_>>())),
    ]
}

/// It took more than 200 s to apply one of these.
#[test]
fn deep_layers_take_little_time() {
    /// Without optimization an entry takes five times as long.
    const ENTRIES: usize = if cfg!(debug_assertions) { 500 } else { 5000 };
    let Some(bench) = Bench::mounting() else { return };
    let tally = Tally::new("bounds");
    let nothing = Path::new("/dev/null");
    for (name, bytes) in deep_layers(ENTRIES) {
        let (input, output) = (bench.path("layer.tar"), bench.path("out.tar"));
        fs::write(&input, bytes).expect("write");
        limited_ok(&bench, &["prepare", "work"], nothing);
        limited_ok(&bench, &["apply", "work"], &input);
        let changes = limited_ok(&bench, &["diff", "work"], nothing);
        assert!(changes.iter().filter(|byte| **byte == b'\n').count() >= ENTRIES / 3, "{name}");
        limited_ok(&bench, &["diff", "--tar", output.to_str().expect("UTF-8"), "work"], nothing);
        limited_ok(&bench, &["commit", "done", "work"], nothing);
        // Every entry is there before, and stays as it is.
        limited_ok(&bench, &["prepare", "again", "done"], nothing);
        limited_ok(&bench, &["apply", "again"], &output);
        let changes = limited_ok(&bench, &["diff", "again"], nothing);
        assert_eq!(text(&changes), "", "{name}");
        limited_ok(&bench, &["usage", "done"], nothing);
        limited_ok(&bench, &["rm", "again", "done"], nothing);
        tally.add(1, 0);
    }
}

/// How many system calls a command makes.
fn calls(bench: &Bench, arguments: &[&str], input: &Path) -> u64 {
    let counts = bench.path("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-c", "-U", "calls,name", "-o"]).arg(&counts);
    let traced = bench.command(arguments);
    command.arg(traced.get_program()).args(traced.get_args()).env("STRATA_ROOT", bench.path("store"));
    let output = command.stdin(fs::File::open(input).expect("open")).stdout(Stdio::null()).output();
    let output = output.expect("run strace");
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let counts = fs::read_to_string(&counts).expect("read the counts");
    let total = counts.lines().find_map(|line| line.trim().strip_suffix(" total"));
    total.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("{counts}"))
}

/// Twice as many entries take no more than twice the calls of the first half, and each entry takes few, at any depth.
#[test]
fn calls_grow_with_the_entries() {
    const ENTRIES: usize = 90;
    /// More than each kind of entry takes; going down to it one directory at a time would be 4,000.
    const CALLS_MAX: u64 = 60;
    let found = Command::new("strace").arg("-V").output().map(drop).map_err(|error| format!("strace: {error}"));
    let Some(bench) = support::require("strace", found).then(Bench::mounting).flatten() else { return };
    let tally = Tally::new("bounds");
    let mut said = String::new();
    let layers = deep_layers(ENTRIES).into_iter().zip(deep_layers(2 * ENTRIES));
    for (small, large) in layers.filter(|(small, _)| ["implied", "replaced", "links"].contains(&small.0)) {
        let [less, more] = [&small.1, &large.1].map(|bytes| {
            let (input, output) = (bench.path("layer.tar"), bench.path("out.tar"));
            fs::write(&input, bytes).expect("write");
            bench.ok(&["prepare", "work"]);
            let applied = calls(&bench, &["apply", "work"], &input);
            let written = calls(&bench, &["diff", "--tar", output.to_str().expect("UTF-8"), "work"], &input);
            bench.ok(&["rm", "work"]);
            [applied, written]
        });
        for (what, (less, more)) in ["apply", "diff --tar"].into_iter().zip(less.into_iter().zip(more)) {
            let each = more.saturating_sub(less) / ENTRIES as u64;
            writeln!(said, "{}: {what}: {less} and {more} calls, {each} for an entry", small.0).expect("a string");
            assert!(each <= CALLS_MAX, "{said}");
            tally.add(1, 0);
        }
    }
}

/// A layer of one sparse file `f` of `size` bytes, with a byte at each of `places`.
fn sparse_layer(size: u64, places: &[u64]) -> Vec<u8> {
    let mut map = format!("{}\n", places.len());
    places.iter().for_each(|place| write!(map, "{place}\n1\n").expect("a string"));
    let mut stored = map.into_bytes();
    stored.resize(stored.len().next_multiple_of(512), 0);
    stored.resize(stored.len() + places.len(), b'x');
    let mut archive = tar::Builder::new(Vec::new());
    let real = size.to_string();
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", real.as_bytes()),
    ];
    archive.append_pax_extensions(records).expect("append");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(stored.len() as u64);
    archive.append_data(&mut header, "GNUSparseFile.0/f", stored.as_slice()).expect("append");
    archive.into_inner().expect("an archive")
}

/// The work for a sparse file is that of its segments, and its copies are sparse.
#[test]
fn sparse_files_stay_sparse() {
    let Some(bench) = Bench::mounting() else { return };
    let tally = Tally::new("bounds");
    let nothing = Path::new("/dev/null");
    let many: Vec<u64> = (0..200_000).map(|number| 64 * number).collect();
    for (size, places) in [(1 << 40, &[0, 1 << 39, (1 << 40) - 1][..]), (1 << 40, &[]), (64 * 200_000, &many)] {
        let input = bench.path("layer.tar");
        fs::write(&input, sparse_layer(size, places)).expect("write");
        limited_ok(&bench, &["prepare", "work"], nothing);
        limited_ok(&bench, &["apply", "work"], &input);
        limited_ok(&bench, &["commit", "done", "work"], nothing);
        limited_ok(&bench, &["prepare", "again", "done"], nothing);
        assert!(limited_ok(&bench, &["diff", "again"], nothing).is_empty());
        for key in ["done", "again"] {
            let usage = bench.json(&["usage", key]);
            let size = usage["snapshots"][0]["size_bytes"].as_u64().unwrap_or_else(|| panic!("{usage}"));
            assert!(size < 16 << 20, "{key}: {usage}");
        }
        tally.add(1, 0);
        limited_ok(&bench, &["rm", "again", "done"], nothing);
    }
}

/// A layer of strata's own writing has the zeros of holes: that of a file of 2 TiB would take an hour, and no reader
/// takes it without a limit of its own. A commit writes no layer.
#[test]
fn a_layer_of_our_own_has_an_end() {
    let Some(bench) = Bench::mounting() else { return };
    let (nothing, dir) = (Path::new("/dev/null"), bench.path("m"));
    fs::create_dir(&dir).expect("mkdir");
    let dir = dir.to_str().expect("UTF-8");
    bench.ok(&["prepare", "work"]);
    bench.ok(&["mount", "work", dir]);
    fs::File::create(bench.path("m/f")).and_then(|file| file.set_len(2 << 40)).expect("a sparse file");
    bench.ok(&["umount", dir]);
    limited_ok(&bench, &["diff", "work"], nothing);
    limited_ok(&bench, &["commit", "done", "work"], nothing);
    let output = limited(&bench, &["diff", "--tar", "-", "done"], nothing);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}: {said}", output.status);
    assert!(said.contains("more than 1099511627776 bytes with /f of 2199023255552 bytes"), "{said}");
}

/// On the copy strategy an image of 400 empty layers on a small one took 778 MB.
#[test]
fn an_image_has_a_limit_of_layers() {
    let Some(bench) = Bench::new() else { return };
    let tally = Tally::new("bounds");
    let archive = bench.path("image.tar");
    let name = archive.to_str().expect("UTF-8").to_owned();
    fs::write(&archive, super::archive::docker_archive(&[("image", vec![Vec::new(); 129])])).expect("write");
    let said = bench.fails(&["import", &name], "resource_exhausted");
    assert!(said.contains("129 layers") && said.contains("--limit layers="), "{said}");
    assert!(bench.names(&[]).is_empty(), "nothing is unpacked");
    bench.ok(&["import", &name, "--limit", "layers=129", "--quiet"]);
    assert_eq!(bench.names(&[]).len(), 129);
    tally.add(1, 0);
}
