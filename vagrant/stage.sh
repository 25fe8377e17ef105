#!/usr/bin/env bash
# stage.sh DIR [TEST...]: builds strata and the programs of the given tests, and puts them into DIR for guests, where
# building would take hours. The programs have no debug information, because they are shared with the guest or copied to
# it.
#
# The strata program is the one that the tests run: `cargo build` would compile half of the dependencies again, with the
# fewer features that suffice without tests.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
shift

# Prints the programs that cargo built for those names, as NAME PATH.
built() {
  jq -r 'select(.reason == "compiler-artifact" and .executable != null and (.target.name | IN($ARGS.positional[])))
    | "\(.target.name) \(.executable)"' --args "$@"
}

stage() {
  local name path count=0
  while read -r name path; do
    strip --strip-debug -o "$bin/$name.new" "$path"
    mv "$bin/$name.new" "$bin/$name"
    count=$((count + 1))
  done
  [[ $count -eq $1 ]] || { echo "stage: cargo built $count programs instead of $1" >&2; return 1; }
}

rm -rf "$bin"
mkdir -p "$bin"
# Without a named test the smallest test is built, because strata is built with every test.
tests=()
for name in "${@:-tidy}"; do tests+=(--test "$name"); done
cargo test --locked --no-run "${tests[@]}" --message-format=json-render-diagnostics | built strata "$@" | stage $((1 + $#))
# The tests contain this path.
pwd >"$bin/checkout"
