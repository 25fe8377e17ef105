//! A Dockerfile of three stages on a real distribution: packages, a compiler, a slim result.
//!
//! The base is the lowest layer of the image that `support/real-image.sh` makes from the distribution's own packages.
//! The packages that are installed come from the machine's own apt sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use strata::build::start;
use strata::image::{Options, Place, Source, import};
use strata::mount::scratch::Scratch;

use super::run::{Quiet, shell};
use super::{Bench, Heard, MATRIX, Wish, runtime, support};

/// Room for copies of the distribution; only what is written takes memory.
const COPIES_BYTES: u64 = 3 << 30;

const DOCKERFILE: &str = "\
ARG BASE
FROM $BASE AS tools
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get -q update && apt-get -qy --no-install-recommends install tcc libc6-dev

FROM tools AS build
WORKDIR /src
COPY hello.c .
RUN mkdir /out && tcc -o /out/hello hello.c

FROM $BASE
COPY --from=build /out/hello /usr/local/bin/hello
COPY --chown=daemon:daemon hello.c /usr/local/src/
USER daemon
CMD [\"hello\"]
";

const SOURCE: &str = "#include <stdio.h>\nint main(void) { puts(\"hello from the last stage\"); return 42; }\n";

/// The directory with the image, or `None` where it cannot be made.
fn real_image() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("tests/support/real-image.sh")).arg(root.join("target/real-image")).output();
    let output = output.expect("run real-image.sh");
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("failed without a word").to_owned();
    let made = if output.status.success() { Ok(()) } else { Err(last) };
    let path = String::from_utf8(output.stdout).expect("a path");
    support::require("real-image", made).then(|| PathBuf::from(path.trim_end()))
}

/// The proxy of the machine's apt, if it has one: as build arguments.
fn proxy() -> Option<String> {
    let output = Command::new("apt-config").args(["shell", "proxy", "Acquire::http::Proxy"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().strip_prefix("proxy='")?.strip_suffix('\'')?.to_owned())
}

#[test]
fn three_stages_agree_on_every_strategy() {
    let Some(image) = real_image() else { return };
    let proxy = proxy();
    let mut arguments = vec![("BASE", "distribution:1")];
    arguments.extend(proxy.as_deref().map(|proxy| ("http_proxy", proxy)));
    let mut agreed = None;
    for (strategy, fs) in MATRIX {
        let Some(scratch) = support::gate(fs.as_str(), Scratch::new(fs, COPIES_BYTES)) else { continue };
        let Some(bench) = Bench::on(strategy, scratch) else { continue };
        bench.write("hello.c", SOURCE);
        let source = Source { place: Place::Path(image.join("oci")), reference: Some("layer1".to_owned()) };
        let options = Options { name: Some("distribution:1".to_owned()), ..Options::default() };
        import(&bench.store, &source, &options, &()).unwrap_or_else(|error| panic!("{}", error.chain()));
        let heard = Heard::default();
        let wish = Wish { arguments: &arguments, epoch: Some(1_600_000_000), ..Wish::default() };
        let built = bench.build_with("hello", DOCKERFILE, &wish, &heard).unwrap_or_else(|error| {
            panic!("{strategy}: {}\n{}", error.chain(), String::from_utf8_lossy(&heard.output.borrow()))
        });
        assert_eq!(built.layers.len(), 3, "{strategy}: the distribution, and two copies");
        let (first, layers) = agreed.get_or_insert_with(|| (strategy, built.layers.clone()));
        assert_eq!(built.layers, *layers, "{strategy} and {first}");
        let plain = start(&bench.store, &runtime(None).expect("a runtime"), &shell("hello", &[]), &mut Quiet);
        assert_eq!(plain.expect("run").exit.0, 42, "{strategy}");
        bench.assert_clean();
    }
}
