#!/usr/bin/env bash
# usage: packages.sh ROOT PACKAGES
#
# Installs Debian packages into the tree ROOT: fetched by this machine's apt for what ROOT has,
# unpacked and configured in a chroot without a network.
set -euo pipefail

root=$1
debs=$(mktemp -d)
trap 'rm -rf "$debs" "$root/debs"' EXIT
mkdir -p "$debs/partial"
# shellcheck disable=SC2086 # several packages
apt-get -qy --no-install-recommends --download-only -o APT::Sandbox::User=root \
  -o Dir::State::status="$root/var/lib/dpkg/status" -o Dir::Cache::archives="$debs" \
  -o Dir::State::extended_states=/dev/null install $2
mkdir "$root/debs"
cp "$debs"/*.deb "$root/debs"
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
# shellcheck disable=SC2016 # expanded in the chroot
unshare --mount --net --pid --fork --kill-child chroot "$root" /bin/sh -ec '
  mount -t proc proc /proc
  printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
  dpkg --force-depends --unpack /debs/*.deb >/debs/log 2>&1 || { tail /debs/log; exit 1; }
  dpkg --configure -a >/debs/log 2>&1 || { tail /debs/log; exit 1; }
  rm -f /usr/sbin/policy-rc.d /var/log/dpkg.log /var/cache/debconf/*-old
'
