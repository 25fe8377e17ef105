//! Writes the Rust of the protocols that strata speaks into the directory that is its only argument.

use std::path::Path;

/// Protocols that strata serves and uses.
const SERVED: &[&str] = &["types.proto", "snapshots.proto", "diff.proto"];

/// Protocols that strata only uses.
const USED: &[&str] = &["content.proto", "introspection.proto", "leases.proto", "version.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args_os().nth(1).ok_or("usage: strata-protobuf DIR")?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/containerd/proto");
    for (protocols, is_served) in [(SERVED, true), (USED, false)] {
        let files = protox::compile(protocols, [&sources])?;
        let builder = tonic_prost_build::configure().build_transport(false).build_server(is_served);
        builder.out_dir(&target).compile_fds(files)?;
    }
    Ok(())
}
