# shellcheck shell=bash disable=SC2034
# Helpers of the scripts in this folder; sourced. $T is a temporary folder, removed at the end.
set -euo pipefail
T=$(mktemp -d)
cleanup() {
  mountpoint -q "$T/merged" && umount "$T/merged"
  rm -rf --one-file-system "$T"
}
trap cleanup EXIT

unavailable() { echo "not run: $*" >&2; exit 2; }

# expect LABEL SEEN EXPECTED: prints what was seen; a difference ends the script with status 1.
expect() {
  echo "$1: $2"
  [[ $2 == "$3" ]] || { echo "the behaviour has changed: $1 was: $3" >&2; exit 1; }
}

# python_packages NAME==VERSION...: installs them in a virtual environment; $PYTHON runs there.
python_packages() {
  python3 -m venv "$T/venv"
  "$T/venv/bin/pip" -q --disable-pip-version-check install "$@" || unavailable "$*"
  PYTHON=$T/venv/bin/python
}

# npm_packages NAME@VERSION...: installs them below $T/js, where scripts of node find them.
npm_packages() {
  mkdir -p "$T/js"
  echo '{}' > "$T/js/package.json"
  npm install --silent --prefix "$T/js" "$@" || unavailable "$*"
}

# debian_package SUITE NAME VERSION PACKAGE...: unpacks packages of a Debian suite below $T/debian, without installing
# them, and makes sure that NAME has this version. $LOADER starts a program of that folder.
debian_package() {
  local suite=$1 name=$2 version=$3 mirror
  shift 3
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(SITE)' 2> /dev/null | grep -E '/debian/?$' | head -n 1)
  local include=$name each seen
  for each in "$@"; do include+=,$each; done
  mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' --include="$include" \
    "$suite" "$T/debian" "$mirror" > /dev/null 2> "$T/mmdebstrap.log" || unavailable "$name of $suite"
  seen=$(zcat "$T/debian/usr/share/doc/$name/changelog.Debian.gz" | sed -nE '1s/.*\(([^)]*)\).*/\1/p')
  [[ $seen == "$version" ]] || unavailable "$name of $suite is now $seen"
  LOADER=("$T/debian/usr/lib64/ld-linux-x86-64.so.2" --library-path "$T/debian/usr/lib/x86_64-linux-gnu")
}

# rust_program PACKAGE@VERSION[/FEATURE]...: builds the program of standard input, as $T/rust/target/debug/program.
rust_program() {
  local each
  cargo init --quiet --vcs none --name program "$T/rust"
  for each in "$@"; do
    cargo add --quiet --manifest-path "$T/rust/Cargo.toml" "${each%%/*}" --features "$(cut -s -d / -f 2 <<< "$each")" || unavailable "$each"
  done
  cat > "$T/rust/src/main.rs"
  cargo build --quiet --manifest-path "$T/rust/Cargo.toml"
  PROGRAM=$T/rust/target/debug/program
}
