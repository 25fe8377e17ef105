#!/usr/bin/env bash
# stage.sh DIR [TEST...]: builds strata, and the programs of those tests, and puts them into DIR for the
# guests, where building would take hours. Without debug information: they are shared with the guest or
# copied to it.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
shift

# The programs that cargo built, as NAME PATH.
built() {
  jq -r 'select(.reason == "compiler-artifact" and .executable != null) | "\(.target.name) \(.executable)"'
}

stage() {
  local name path count=0
  while read -r name path; do
    strip --strip-debug -o "$bin/$name.new" "$path"
    mv "$bin/$name.new" "$bin/$name"
    count=$((count + 1))
  done
  [[ $count -gt 0 ]] || { echo "stage: cargo built no program" >&2; return 1; }
}

rm -rf "$bin"
mkdir -p "$bin"
cargo build --locked --bin strata --message-format=json-render-diagnostics | built | stage
if [[ $# -gt 0 ]]; then
  tests=()
  for name in "$@"; do tests+=(--test "$name"); done
  cargo test --locked --no-run "${tests[@]}" --message-format=json-render-diagnostics | built |
    { grep -v '^strata ' || true; } | stage
fi
# The tests have this path in them.
pwd >"$bin/checkout"
