#!/usr/bin/env bash
# The Rust crate oci-spec drops a health check when it reads an image configuration and writes it again.
#
# Docker, BuildKit and buildah write Healthcheck, OnBuild, Shell and ArgsEscaped into the configuration of an image.
# The image specification reserves these names and does not define them.
# Seen (oci-spec 0.10.0): ImageConfiguration has no such fields and keeps no unknown ones, so a tool that only wants to
# add a label writes an image without its health check, without its triggers, and with another shell. There is no error.
# A configuration with "diff_ids": null, as a Go program writes for an image without layers, is refused, although
# "history": null is read.
# Needs: cargo, a C linker.
# shellcheck source=findings/common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
rust_program oci-spec@0.10.0/image serde_json@1 <<'RUST'
use oci_spec::image::ImageConfiguration;
fn main() {
    let text = std::env::args().nth(1).expect("a configuration");
    match serde_json::from_str::<ImageConfiguration>(&text) {
        Ok(read) => println!("{}", serde_json::to_string(&read).expect("json")),
        Err(error) => println!("refused: {error}"),
    }
}
RUST

with() { echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":$1,\"rootfs\":{\"type\":\"layers\",\"diff_ids\":$2}${3-}}"; }
settings='{"User":"app","Healthcheck":{"Test":["CMD","/check"]},"OnBuild":["RUN make"],"Shell":["/bin/bash","-c"]}'
expect "written again" "$("$PROGRAM" "$(with "$settings" '[]')")" "$(with '{"User":"app"}' '[]')"
expect "diff_ids null" "$("$PROGRAM" "$(with '{}' null)" | cut -d ' ' -f 1-7)" \
  "refused: invalid type: null, expected a sequence"
expect "history null" "$("$PROGRAM" "$(with '{}' '[]' ',"history":null')")" "$(with '{}' '[]')"
