#!/usr/bin/env bash
# Installs the packages for building and testing strata, on Debian 12 and 13 and on Ubuntu. No other file installs
# packages: the Makefile, CI and the virtual machines all call this script. It may be run repeatedly, and returns at
# once if nothing is missing.
#
#   provision.sh            packages for building and testing
#   provision.sh --quick    also the emulator for vagrant/quick.sh
#   provision.sh --vagrant  also Vagrant, libvirt and the tools that make a box, for vagrant/ci.sh
#   provision.sh --compare  only the packages for `make compare`
#   provision.sh --guest    only the packages for the suites, with programs built elsewhere
#   provision.sh --list     prints the packages of --guest, installs nothing
#
# It only adds packages, and unpacks some below target/. No service is started or left enabled, and no setting of the
# machine is changed. Without root it uses sudo. Without sudo it prints the command to run and continues, because tests
# skip by name what is missing. Only a missing compiler is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin"
# shellcheck source=vagrant/archive.sh
. vagrant/archive.sh

# PROGRAM:PACKAGE. A program that exists is not installed again, wherever it comes from. Otherwise, for example,
# Debian's containerd and runc would replace Docker's.
BUILD=(
  # rusqlite and zstd compile C
  g++:build-essential make:make git:git
)
FILE_SYSTEMS=(mkfs.btrfs:btrfs-progs mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs losetup:mount unshare:util-linux)
TESTS=(
  # a real image, made from the distribution's own packages
  debootstrap:debootstrap
  # other implementations that check our input and output
  umoci:umoci skopeo:skopeo buildah:buildah podman:podman bsdtar:libarchive-tools pigz:pigz
  # a registry for the tests, and certificates and passwords for it
  docker-registry:docker-registry openssl:openssl
  # to measure the processor time and the memory of whole programs (make bench-import)
  /usr/bin/time:time
  # shells that read our completions
  zsh:zsh fish:fish
  # to check these scripts
  shellcheck:shellcheck
)
SUITES=(
  "${FILE_SYSTEMS[@]}"
  # file systems and their attributes
  sfdisk:fdisk modprobe:kmod setfattr:attr setfacl:acl setcap:libcap2-bin newuidmap:uidmap
  # programs that use strata as a plugin, and that run containers
  containerd:containerd crun:crun runc:runc pasta:passt busybox:busybox-static zstd:zstd xz:xz-utils jq:jq
  # block devices that log writes or fail; in Debian 12 the second package has them
  qemu-storage-daemon:qemu-utils qemu-storage-daemon:qemu-system-common setpriv:util-linux
  # debugging, and failing system calls
  strace:strace
)
QUICK=(qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap cpio:cpio)
VAGRANT=(
  vagrant:vagrant /usr/share/vagrant-plugins/plugins.d/vagrant-libvirt.json:vagrant-libvirt
  libvirtd:libvirt-daemon /usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so:libvirt-daemon-driver-qemu
  virsh:libvirt-clients qemu-img:qemu-utils dnsmasq:dnsmasq-base iptables:iptables rsync:rsync
  grub-mkimage:grub-common /usr/lib/grub/i386-pc/boot.img:grub-pc-bin
)
# Browser for testing the page of strata compare. Ubuntu's is a snap, which a test cannot use.
if grep -q '^ID=debian' /etc/os-release; then TESTS+=(chromium:chromium); fi

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

# Prints the packages of those PROGRAM:PACKAGE whose program or file is missing.
missing_of() {
  local need
  for need in "$@"; do
    command -v "${need%%:*}" >/dev/null || [[ -f ${need%%:*} ]] || printf '%s\n' "${need#*:}"
  done | sort -u
}

# Prints the names of the units that are started at boot.
enabled_units() {
  find /etc/systemd/system -type l -path '*.wants/*' -printf '%f\n' 2>/dev/null | sort -u
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get -qy --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}

# Installs packages while every service start is denied, then disables the units that came with them.
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
  if [[ " $* " == *" qemu-system-x86 "* && $(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null) == *~bpo* ]]; then
    install_emulator_from_backports
  fi
  apt_install install "$@"
  if command -v systemctl >/dev/null; then
    while read -r unit; do
      say "leaving $unit disabled"
      as_root systemctl --quiet disable "$unit"
    done < <(comm -13 <(printf '%s\n' "$before") <(enabled_units))
  fi
}

# If qemu-utils came from backports, the emulator of the release itself cannot be installed beside it.
install_emulator_from_backports() {
  local PRIVATE dir release
  dir=$(mktemp -d "${TMPDIR:-/tmp}/strata-provision.XXXXXX")
  release=$(debian_release)
  private_options "$dir"
  archive_lists "$dir" "$release" "$release-updates" "$release-backports" &&
    apt_install "${PRIVATE[@]}" -t "$release-backports" install qemu-system-x86
  as_root rm -rf "$dir"
}

# Succeeds if the cargo in PATH is at least as new as Cargo.toml requires.
cargo_suffices() {
  local want have
  command -v cargo >/dev/null || return 1
  want=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
  have=$(cargo --version | cut -d ' ' -f 2)
  [[ $(printf '%s\n' "$want" "$have" | sort -V | head -n 1) == "$want" ]]
}

install_rust() {
  say "no cargo, or too old a one: installing Rust with rustup for user $(id -un)"
  command -v curl >/dev/null || install_packages curl ca-certificates
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
    sh -s -- -y -q --no-modify-path --profile minimal --component clippy,rustfmt
}

# More programs for the tests, as DIRECTORY:SUITES:PACKAGES: the containerd of Debian 13, the newest that Debian has, and
# the newest Docker, of the first of those suites that is served. All run on Debian 12, too. They are not installed but
# unpacked.
UNPACKED=(
  target/containerd-1.7:trixie:containerd target/containerd-2:forky:containerd
  "target/docker:sid forky:docker.io docker-cli docker-buildx containerd"
)

# Unpacks the packages $3 of the first suite of $2 that has them all below $1.
unpack() {
  local dir target=$1 suite suites packages
  read -ra suites <<<"$2"
  read -ra packages <<<"$3"
  for suite in "${suites[@]}"; do
    say "unpacking ${packages[*]} of Debian $suite below $target"
    dir=$(mktemp -d "${TMPDIR:-/tmp}/strata-provision.XXXXXX")
    if archive_lists "$dir" "$suite" &&
      (cd "$dir" && private_apt "$dir" apt-get download "${packages[@]}" >&2) && unpack_all "$dir"; then
      mkdir -p target && rm -rf "$target" && mv "$dir/unpacked" "$target"
      rm -rf "$dir"
      return
    fi
    rm -rf "$dir"
  done
  say "${packages[*]} could not be had: the tests with it are skipped"
}

# Unpacks the packages in the directory $1, and prints their versions.
unpack_all() {
  local package
  for package in "$1"/*.deb; do
    say "this is $(dpkg-deb -W "$package")" &&
      dpkg -x "$package" "$1/unpacked" || return
  done
}

case ${1-} in
  '') needs=("${BUILD[@]}" "${TESTS[@]}" "${SUITES[@]}") ;;
  --compare) needs=("${BUILD[@]}" "${FILE_SYSTEMS[@]}") ;;
  --quick) needs=("${BUILD[@]}" "${TESTS[@]}" "${SUITES[@]}" "${QUICK[@]}") ;;
  --vagrant) needs=("${BUILD[@]}" "${TESTS[@]}" "${SUITES[@]}" "${QUICK[@]}" "${VAGRANT[@]}") ;;
  --guest) needs=("${SUITES[@]}") ;;
  --list) printf '%s\n' "${SUITES[@]#*:}" | sort -u; exit ;;
  *) say "usage: provision.sh [--compare | --quick | --vagrant | --guest | --list]"; exit 2 ;;
esac

mapfile -t missing < <(missing_of "${needs[@]}")
if [[ ${#missing[@]} -gt 0 ]]; then
  say "missing: ${missing[*]}"
  if [[ $EUID -ne 0 ]] && ! as_root true 2>/dev/null; then
    say "not root, and sudo does not work: to install them, run as root: $PWD/vagrant/provision.sh $*"
  else
    install_packages "${missing[@]}"
  fi
fi
[[ ${1-} != --guest ]] || exit 0
cargo_suffices || install_rust
[[ ${1-} != --compare ]] || exit 0
command -v dpkg >/dev/null || exit 0
for entry in "${UNPACKED[@]}"; do
  IFS=: read -r target suites packages <<<"$entry"
  [[ -d $target ]] || unpack "$target" "$suites" "$packages"
done
