#!/usr/bin/env bash
# Installs what building and testing strata needs, on Debian 12 and 13 and on Ubuntu. This is the
# one place that does: the Makefile, CI and the virtual machine all call it. It may be run any
# number of times and answers at once when nothing is missing.
#
# It adds packages, and unpacks one below target/, and nothing else: no service is started or
# left enabled, no setting of the machine is changed. Without root it uses sudo; without sudo it
# says what to run and goes on, as the tests skip by name whatever is missing. Only a missing
# compiler is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin"

# PROGRAM:PACKAGE. A program that is there is not installed again, whoever brought it: Docker's own
# containerd and runc, for one, would otherwise be thrown out for Debian's.
NEEDS=(
  # to build: rusqlite and zstd compile C
  g++:build-essential make:make git:git
  # the file systems under test, and their attributes
  mkfs.btrfs:btrfs-progs mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs losetup:mount unshare:util-linux
  sfdisk:fdisk modprobe:kmod setfattr:attr setfacl:acl setcap:libcap2-bin newuidmap:uidmap
  # a real image, made from the distribution's own packages
  debootstrap:debootstrap
  # the outside judges of what we read and write
  umoci:umoci skopeo:skopeo buildah:buildah podman:podman containerd:containerd
  pigz:pigz crun:crun runc:runc busybox:busybox-static bsdtar:libarchive-tools zstd:zstd xz:xz-utils jq:jq
  # to measure the processor time and the memory of whole programs (make bench-import)
  /usr/bin/time:time
  # the shells that read our completions
  zsh:zsh fish:fish
  # a disk whose writes are noted or fail; Debian 12 has it in the second package
  qemu-storage-daemon:qemu-utils qemu-storage-daemon:qemu-system-common setpriv:util-linux
  # to look into what went wrong, and to check these scripts
  strace:strace shellcheck:shellcheck
)

missing=()
for need in "${NEEDS[@]}"; do
  command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done

say() { printf 'provision: %s\n' "$*" >&2; }

as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif [[ -t 0 ]]; then
    sudo "$@"
  else
    sudo -n "$@" # nobody is there to type a password
  fi
}

# The names of the units that are started at boot.
enabled_units() {
  find /etc/systemd/system -type l -path '*.wants/*' -printf '%f\n' 2>/dev/null | sort -u
}

# Installs packages with every service start denied, then disables the units that came with them.
install_packages() {
  local policy=/usr/sbin/policy-rc.d before unit
  before=$(enabled_units)
  if [[ ! -e $policy ]]; then
    # shellcheck disable=SC2064 # $policy is local: expand it now
    trap "as_root rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
  fi
  as_root apt-get -q update
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get -qy --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install "$@"
  if command -v systemctl >/dev/null; then
    while read -r unit; do
      say "leaving $unit disabled"
      as_root systemctl --quiet disable "$unit"
    done < <(comm -13 <(printf '%s\n' "$before") <(enabled_units))
  fi
}

# Whether the cargo in reach is as new as Cargo.toml asks for.
cargo_suffices() {
  local want have
  command -v cargo >/dev/null || return 1
  want=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
  have=$(cargo --version | cut -d ' ' -f 2)
  [[ $(printf '%s\n' "$want" "$have" | sort -V | head -n 1) == "$want" ]]
}

if [[ ${#missing[@]} -gt 0 ]]; then
  say "missing: ${missing[*]}"
  if [[ $EUID -ne 0 ]] && ! as_root true 2>/dev/null; then
    say "not root, and sudo does not work: to install them, run as root: $PWD/vagrant/provision.sh"
  else
    install_packages "${missing[@]}"
  fi
fi

if ! cargo_suffices; then
  say "no cargo, or too old a one: installing Rust with rustup for user $(id -un)"
  command -v curl >/dev/null || install_packages curl ca-certificates
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
    sh -s -- -y -q --no-modify-path --profile minimal --component clippy,rustfmt
fi

# A second containerd for the tests: that of Debian 13, which also runs on Debian 12. It is not
# installed but unpacked, from the archive that this machine's own sources name, checked by apt.
SECOND=target/containerd-1.7
SECOND_SUITE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Runs an apt tool on lists and a cache of its own in $1, with that archive alone.
private_apt() {
  local dir=$1 tool=$2
  shift 2
  "$tool" -q -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Acquire::Languages=none \
    -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=0 "$@"
}

unpack_second_containerd() {
  local site dir
  # shellcheck disable=SC2016 # it is apt that expands it
  site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
    sort -u | head -n 1)
  [[ -n $site ]] || { say "no archive of Debian among apt's sources: run apt-get update"; return; }
  dir=$(mktemp -d "${TMPDIR:-/tmp}/strata-provision.XXXXXX")
  mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/unpacked"
  printf 'deb [signed-by=%s] %s %s main\n' "$KEYRING" "$site" "$SECOND_SUITE" >"$dir/sources.list"
  if private_apt "$dir" apt-get update >&2 &&
    (cd "$dir" && private_apt "$dir" apt-get download containerd >&2) &&
    dpkg -x "$dir"/containerd_*.deb "$dir/unpacked"; then
    mkdir -p target && rm -rf "$SECOND" && mv "$dir/unpacked" "$SECOND"
  else
    say "containerd of Debian $SECOND_SUITE could not be had: the tests with it are skipped"
  fi
  rm -rf "$dir"
}

if [[ ! -x $SECOND/usr/bin/containerd && -e $KEYRING ]]; then
  say "unpacking a second containerd below $SECOND"
  unpack_second_containerd
fi
