#!/usr/bin/env bash
# stage.sh DIR [TEST...]: builds strata, and the programs of those tests, and puts them into DIR for the
# guests, where building would take hours. Without debug information: they are shared with the guest or
# copied to it.
#
# It is the strata that the tests run: `cargo build` would compile half of what it depends on again, with
# the fewer features that suffice without them.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
shift

# The programs that cargo built of those names, as NAME PATH.
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
# Where no test is named the smallest one has to do: strata comes with each.
tests=()
for name in "${@:-tidy}"; do tests+=(--test "$name"); done
cargo test --locked --no-run "${tests[@]}" --message-format=json-render-diagnostics | built strata "$@" | stage $((1 + $#))
# The tests have this path in them.
pwd >"$bin/checkout"
