//! Compares strata behind containerd with containerd's own snapshotter of the same kind: `make bench-containerd`, as
//! root, prints one table.
//!
//! Both are called through the socket of one containerd, the distribution's, in turn in every round of the same run,
//! with the order reversed in every other round. Further columns are strata without durability, like containerd's own
//! snapshotters, strata called directly, and a proxy plugin that does nothing ([`floor`]), which is the minimum for any
//! plugin. File systems are created in memory, so a sync costs what the kernel spends and not what a disk does. Before
//! each turn the file system is synced, so that no subject waits for data of another.
//!
//! `STRATA_SAMPLES` sets the number of rounds (default 500). containerd's own snapshotter gets a 25th of them on btrfs,
//! and on copy every subject gets a hundredth, because each call walks or copies 60,000 files. The whole run takes 40
//! minutes. `STRATA_IMAGE` names an OCI archive that is also imported. `cargo bench --bench containerd -- overlay`
//! measures one strategy, `differ` the imports behind containerd 1.7.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to whoever started it")]

mod floor;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/containerd/harness.rs"]
mod harness;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/containerd/image.rs"]
mod image;
#[allow(unused_imports, reason = "the daemon uses the rest")]
#[path = "../../src/containerd/proto/mod.rs"]
mod proto;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use strata::Snapshotter;
use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::changeset::tar::{Encoder, MtimePrecision};
use strata::compare::image::Image;
use strata::compare::machine::Machine;
use strata::compare::measure::{Statistics, Timer, three_digits};
use strata::conformance::GC_ROOT;
use strata::containerd::{Client, Plugin};
use strata::mount;
use strata::mount::scratch::{FsType, Scratch};
use strata::size::size;
use strata::snapshotter::Labels;
use strata::tree::{Dir, Meta};

use harness::{Bench, Containerd, Process, Version};

/// Number of files of the parent.
const PARENT_FILES: u64 = 60_000;

/// Maximum length of a file.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// Number of changes in a round.
const CHANGES: usize = 10;

/// Number of concurrent loops.
const LOOPS: usize = 8;

/// Number of measurements of the loops, of which the median counts.
const LOOP_ROUNDS: usize = 4;

/// Number of imports of the image.
const IMPORTS: usize = 3;

/// Size of the file system, for copies of the parent; only written blocks use memory.
const SCRATCH_BYTES: u64 = 16 << 30;

/// A strategy, its file system, and containerd's own snapshotter of the same kind.
struct Pair {
    strategy: Strategy,
    fs: FsType,
    theirs: &'static str,
    /// Divisor of the number of rounds.
    slower: usize,
    /// Number of repetitions in one round for all subjects but containerd's own.
    repeats: usize,
}

const PAIRS: [Pair; 3] = [
    Pair { strategy: OVERLAY, fs: FsType::Ext4, theirs: "overlayfs", slower: 1, repeats: 1 },
    Pair { strategy: BTRFS, fs: FsType::Btrfs, theirs: "btrfs", slower: 25, repeats: 25 },
    Pair { strategy: COPY, fs: FsType::Ext4, theirs: "native", slower: 100, repeats: 1 },
];

/// Names of the measured stores of strata.
const STORES: [&str; 3] = ["store", "loose", "direct"];

/// Names of the subjects, in the order of the columns.
const SUBJECTS: [&str; 5] = ["theirs", "ours", "not durable", "direct", "floor"];

/// Positions of some subjects.
const THEIRS: usize = 0;
const DIRECT: usize = 3;
const FLOOR: usize = 4;

/// Timed steps, in the order of the rows.
const STEPS: [&str; 5] = ["Prepare", "Remove", "Usage", "Commit", "Remove committed"];

fn main() {
    let Some(version) = Version::installed() else { return };
    let samples = std::env::var("STRATA_SAMPLES").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "WHAT",
        "N",
        "THEIRS",
        "OURS",
        "RATIO",
        "NOT DURABLE",
        "RATIO",
        "DIRECT",
        "FLOOR",
        "RATIO",
    ]);
    let mut notes = Vec::new();
    for pair in &PAIRS {
        if wanted.as_ref().is_some_and(|wanted| *wanted != pair.strategy.name) {
            continue;
        }
        eprintln!("{} on {} against {}", pair.strategy, pair.fs, pair.theirs);
        if let Some(place) = PairBench::new(pair, &version) {
            place.measure((samples / pair.slower).max(3), &mut table, &mut notes);
        }
    }
    if wanted.is_none_or(|wanted| wanted == "differ") {
        imports_by_the_differ(&mut table);
    }
    describe();
    println!(
        "{table}\n\nmedian / 99th percentile, parent of {PARENT_FILES} files; N rounds (theirs, others), interleaved; \
         loops one after the other, of {LOOP_ROUNDS} the median and the longest; floor: a proxy plugin that does nothing, in the \
         process that measures"
    );
    notes.iter().for_each(|note| println!("{note}"));
}

/// Returns the order of the subjects, reversed in every other round, so that leftover work of one subject does not
/// always burden the same one.
fn in_turn(round: usize) -> impl Iterator<Item = usize> {
    let last = SUBJECTS.len() - 1;
    (0..=last).map(move |place| if round.is_multiple_of(2) { place } else { last - place })
}

/// Prints the machine.
fn describe() {
    let Machine { strata, kernel, cores, cpu, .. } = Machine::here();
    let cpu = cpu.as_deref().unwrap_or("unknown make");
    println!("\nstrata {strata}, Linux {kernel}, {cores} cores of {cpu}");
}

/// One pair on one file system, ready for measurement.
struct PairBench<'a> {
    pair: &'a Pair,
    bench: Bench,
    containerd: Containerd,
    daemons: [Process; 3],
    _floor: floor::Serving,
    clients: Vec<Client>,
    image: Image,
}

impl<'a> PairBench<'a> {
    fn new(pair: &'a Pair, version: &Version) -> Option<Self> {
        let bench = Bench::on(support::gate(pair.fs.as_str(), Scratch::new(pair.fs, SCRATCH_BYTES))?, pair.strategy);
        let daemons = STORES.map(|name| {
            let durability = if name == "loose" { "none" } else { "commit" };
            let socket = if name == "store" { bench.socket() } else { bench.path(name).join("socket") };
            bench.daemon_of(&bench.path(&format!("root-{name}")), &socket, &["--durability", durability, "-q"])
        });
        let floor = bench.path("floor.sock");
        let serving = floor::serve(&floor, &bench.path("floor"));
        let plugins = [("loose", bench.path("loose/socket")), ("floor", floor)];
        let more = plugins
            .map(|(name, address)| format!("[proxy_plugins.{name}]\n  type = \"snapshot\"\n  address = {address:?}\n"));
        let containerd = Containerd::start_with(&bench, version, &more.concat());
        let behind = |name: &str| Plugin { name: name.to_owned(), namespace: "default".to_owned() };
        let clients = [
            Client::connect(&containerd.socket, behind(pair.theirs)),
            Client::connect(&containerd.socket, behind("strata")),
            Client::connect(&containerd.socket, behind("loose")),
            Client::connect(&bench.path("direct/socket"), Plugin::default()),
            Client::connect(&containerd.socket, behind("floor")),
        ];
        let clients = clients.map(|client| client.expect("connect")).into();
        let image = Image::new(PARENT_FILES, FILE_BYTES_MAX, 1);
        let place = Self { pair, bench, containerd, daemons, _floor: serving, clients, image };
        place.clients.iter().for_each(|client| unpack(client, &place.image));
        Some(place)
    }

    fn measure(&self, rounds: usize, table: &mut Table, notes: &mut Vec<String>) {
        let idle = memory(&self.daemons[2], "VmRSS");
        let mut timers: Vec<Timer> = SUBJECTS.iter().map(|_| Timer::default()).collect();
        for round in 0..=rounds {
            for subject in in_turn(round) {
                let (client, mut taken) = (&self.clients[subject], Timer::default());
                self.settle();
                let repeats = if subject == THEIRS { 1 } else { self.pair.repeats };
                (0..repeats).for_each(|repeat| cycle(client, &format!("{round}-{repeat}"), &mut taken));
                // The first round only warms the caches.
                if round > 0 {
                    timers[subject].extend(taken);
                }
            }
            self.collect();
        }
        for step in STEPS {
            let of = |timer: &Timer| Statistics::of(timer.samples(step)).expect("samples");
            row(table, &format!("{}: {step}", self.pair.strategy), timers.iter().map(of).collect());
        }
        let mut each = vec![Vec::new(); SUBJECTS.len()];
        for round in 0..LOOP_ROUNDS {
            for subject in in_turn(round) {
                self.settle();
                each[subject].push(loops(&self.clients[subject], (rounds / 10).max(1)));
                self.collect();
            }
        }
        let each = each.into_iter().filter_map(Statistics::of).collect();
        row(table, &format!("{}: {LOOPS} loops, each", self.pair.strategy), each);
        if self.pair.strategy == OVERLAY {
            self.imports(table);
            let (after, busy) = (memory(&self.daemons[2], "VmRSS"), memory(&self.daemons[0], "VmHWM"));
            notes.push(format!(
                "resident memory of the daemon: {idle} idle, {after} after these calls, at most {busy} with imports"
            ));
        }
    }

    /// Syncs the file system, because a subject that waits for the disk would also wait for the data of others.
    fn settle(&self) {
        let dir = File::open(self.bench.path("")).expect("open");
        rustix::fs::syncfs(dir).expect("sync");
    }

    /// Frees removed snapshots where that takes long: containerd only marks a removal, and its file system has no space
    /// for many copies of the parent.
    fn collect(&self) {
        if self.pair.slower == 1 {
            return;
        }
        self.containerd.ok(&["leases", "create", "--id", "collect"]);
        self.containerd.ok(&["leases", "delete", "--sync", "collect"]);
        for name in STORES {
            let mut gc = self.bench.strata(&["--quiet", "gc"]);
            let ended = gc.env("STRATA_ROOT", self.bench.path(&format!("root-{name}"))).output();
            harness::text(&ended.expect("start strata")).expect("gc");
        }
    }

    /// Imports the whole image with `ctr`, as users do.
    fn imports(&self, table: &mut Table) {
        let archive = self.bench.path("large.tar");
        write_archive(&self.clients[DIRECT], &archive);
        let mut imports = Imports::default();
        for _ in 0..IMPORTS {
            imports.read(&self.containerd, &archive);
            for (column, plugin) in [self.pair.theirs, "strata", "loose"].into_iter().enumerate() {
                imports.unpack(&self.containerd, column, plugin, &archive);
            }
        }
        let what = format!("{}: ctr images import, {} MiB", self.pair.strategy, self.image.size_bytes() >> 20);
        imports.rows(table, &what);
    }
}

/// Imports whole images with `ctr` of containerd 1.7, where strata's own differ applies the layers. containerd 1.6 of
/// the other rows has no differ plugins, so containerd writes the files whatever the snapshotter. The generated image
/// has one layer without compression.
fn imports_by_the_differ(table: &mut Table) {
    let Some(version) = Version::unpacked() else { return };
    let given = std::env::var_os("STRATA_IMAGE");
    for archive in std::iter::once(None).chain(given.as_deref().map(|path| Some(Path::new(path)))) {
        let mut imports = Imports::default();
        for (column, durability) in [(1, "commit"), (2, "none")] {
            let Some(scratch) = support::gate("ext4", Scratch::new(FsType::Ext4, SCRATCH_BYTES)) else { return };
            let bench = Bench::on(scratch, OVERLAY);
            let _daemon = bench.daemon_of(&bench.path("store"), &bench.socket(), &["--durability", durability, "-q"]);
            let containerd = Containerd::start(&bench, &version);
            let own = bench.path("large.tar");
            let archive = archive.unwrap_or_else(|| {
                let client = bench.client();
                unpack(&client, &Image::new(PARENT_FILES, FILE_BYTES_MAX, 1));
                write_archive(&client, &own);
                &own
            });
            for _ in 0..IMPORTS {
                imports.read(&containerd, archive);
                imports.unpack(&containerd, 0, "overlayfs", archive);
                imports.unpack(&containerd, column, "strata", archive);
            }
        }
        let name = archive.and_then(Path::file_name);
        let which = name.map_or_else(|| "made up".to_owned(), |name| name.display().to_string());
        let what = format!("overlay: ctr images import, 1.7 and strata's differ, {which}");
        imports.rows(table, &what);
    }
}

/// Times of imports of one archive.
#[derive(Default)]
struct Imports {
    /// Import into containerd's content store only, which does not depend on the snapshotter.
    read: Vec<Duration>,
    /// Import with unpacking: containerd's own, strata, strata without durability.
    whole: [Vec<Duration>; 3],
}

impl Imports {
    fn read(&mut self, containerd: &Containerd, archive: &Path) {
        self.read.push(import(containerd, &["--no-unpack"], archive));
    }

    fn unpack(&mut self, containerd: &Containerd, column: usize, plugin: &str, archive: &Path) {
        self.whole[column].push(import(containerd, &["--snapshotter", plugin], archive));
    }

    /// Adds rows for the whole import, and for the import without reading the archive.
    fn rows(&self, table: &mut Table, what: &str) {
        row(table, what, self.whole.iter().cloned().filter_map(Statistics::of).collect());
        let Some(read) = Statistics::of(self.read.clone()) else { return };
        let unpacking = |whole: &Vec<Duration>| {
            let read = Duration::from_nanos(read.median_ns);
            Statistics::of(whole.iter().map(|whole| whole.saturating_sub(read)).collect())
        };
        let what = format!("  of it without the {} of --no-unpack", three_digits(read.median_ns));
        row(table, &what, self.whole.iter().filter_map(unpacking).collect());
    }
}

/// Creates the committed snapshot `image`.
fn unpack(client: &Client, image: &Image) {
    client.prepare("unpack", "", &labels()).expect("prepare");
    client.apply("unpack", &mut |sink| image.produce(sink)).expect("apply");
    client.commit("image", "unpack", &labels()).expect("commit");
}

/// Writes the content of [`unpack`]'s snapshot as an archive with one layer.
fn write_archive(client: &Client, archive: &Path) {
    let mut describe = |_: &Path| Ok(Meta::implied_dir());
    let mut encoder = Encoder::new(Vec::new(), MtimePrecision::Nanoseconds, &mut describe);
    client.changes("image", Some(""), &mut encoder).expect("changes");
    let layers = vec![encoder.finish().expect("a layer")];
    image::Image { name: "test.local/large:1", layers }.write(archive);
}

/// Returns the time of importing an image, which is then removed.
fn import(containerd: &Containerd, options: &[&str], archive: &Path) -> Duration {
    let mut ctr = containerd.ctr(&["images", "import"]);
    let began = Instant::now();
    harness::text(&ctr.args(options).arg(archive).output().expect("run ctr")).expect("import");
    let took = began.elapsed();
    let names = containerd.ok(&["images", "ls", "-q"]);
    names.lines().for_each(|name| drop(containerd.ok(&["images", "rm", "--sync", name])));
    took
}

fn labels() -> Labels {
    [(GC_ROOT.to_owned(), "bench".to_owned())].into()
}

/// Performs the steps of a container and a build, timed separately.
fn cycle(client: &Client, name: &str, timer: &mut Timer) {
    let (idle, key) = (format!("idle {name}"), format!("key {name}"));
    timer.time("Prepare", || client.prepare(&idle, "image", &labels())).expect("prepare");
    timer.time("Remove", || client.remove(&idle)).expect("remove");
    client.prepare(&key, "image", &labels()).expect("prepare");
    write(client, &key);
    timer.time("Usage", || client.usage(&key)).expect("usage");
    timer.time("Commit", || client.commit(name, &key, &labels())).expect("commit");
    timer.time("Remove committed", || client.remove(name)).expect("remove");
}

fn write(client: &Client, key: &str) {
    let mounts = client.mounts(key).expect("mounts");
    let tree = Dir::from_fd(mount::detached(&mounts).expect("mount"), key);
    for number in 0..CHANGES {
        let mut file = tree.create_file(format!("change {number} of {key}")).expect("create");
        file.write_all(&[number as u8; 100]).expect("write");
    }
}

/// Returns the time of one Prepare, Commit and Remove while all loops run.
fn loops(client: &Client, rounds: usize) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..LOOPS {
            scope.spawn(move || {
                for round in 0..rounds {
                    let (name, key) = (format!("loop {number} {round}"), format!("key {number} {round}"));
                    client.prepare(&key, "image", &labels()).expect("prepare");
                    client.commit(&name, &key, &labels()).expect("commit");
                    client.remove(&name).expect("remove");
                }
            });
        }
    });
    began.elapsed() / u32::try_from(LOOPS * rounds).expect("few")
}

/// Returns a line of `/proc/PID/status`.
fn memory(daemon: &Process, what: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    size(kib << 10)
}

/// Adds a row: containerd's own, strata, and the other columns.
fn row(table: &mut Table, what: &str, taken: Vec<Statistics>) {
    let both = |of: Option<&Statistics>| match of {
        None => String::new(),
        Some(of) => format!("{} / {}", three_digits(of.median_ns), three_digits(of.percentile_99_ns)),
    };
    let ratio = |of: Option<&Statistics>| match of.map(|of| of.median_ns as f64 / taken[THEIRS].median_ns as f64) {
        None => String::new(),
        Some(small) if small < 0.1 => format!("{small:.4}"),
        Some(ratio) => format!("{ratio:.2}"),
    };
    let mut counts = taken.iter().map(|of| of.samples.to_string()).collect::<Vec<_>>();
    counts.dedup();
    let counts = counts.join(", ");
    let cells = [
        what.to_owned(),
        counts,
        both(taken.get(THEIRS)),
        both(taken.get(1)),
        ratio(taken.get(1)),
        both(taken.get(2)),
        ratio(taken.get(2)),
        both(taken.get(DIRECT)),
        both(taken.get(FLOOR)),
        ratio(taken.get(FLOOR)),
    ];
    // Printed at once, so that a run that is stopped early shows its results so far.
    eprintln!("{}", cells.join("  "));
    table.add_row(cells);
}
