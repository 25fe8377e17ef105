#!/usr/bin/env bash
# usage: image.sh OUTDIR
#
# Makes the images for measuring imports, once, and prints the directory that holds them, OUTDIR/KEY:
#
#   image.tar  an OCI archive, five layers of 1.4 GB of files: a small Debian, Python, pandas and what
#              goes with it, compilers, git
#   image/     the same as a layout, tag "image"
#   usr/       a layout with one gzip layer, tag "usr": the /usr of the Debian with Python
#
# Needs root. The base is that of tests/support/real-image.sh; apt fetches the packages as it does
# for this machine, and dpkg unpacks them in a chroot, without a network.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
base=$("$here/tests/support/real-image.sh" "$here/target/real-image")
key=$({ cat "$0"; echo "$base"; } | sha256sum | cut -c 1-16)
exec 9>"$out/lock"
flock 9
if [[ ! -d $out/$key ]]; then
  find "$out" -mindepth 1 -maxdepth 1 -type d -exec rm -rf --one-file-system {} +
  new=$out/new
  trap 'rm -rf --one-file-system "$new"' EXIT
  mkdir -m 0700 "$new" # there are setuid programs in it
  mkdir "$new/image"
  cp -a "$base/oci/." "$new/image"
  umoci unpack --image "$new/image:layer1" "$new/bundle"
  export TMPDIR=$new
  number=1
  for packages in python3 python3-pandas "g++ gfortran python3-scipy python3-matplotlib" git; do
    "$here/benches/import/packages.sh" "$new/bundle/rootfs" "$packages" >&2
    number=$((number + 1))
    umoci repack --refresh-bundle --image "$new/image:$number" "$new/bundle"
    [[ $number -gt 2 ]] || tar -C "$new/bundle/rootfs" --xattrs -cf "$new/usr.tar" usr
  done
  umoci tag --image "$new/image:$number" image
  for tag in layer1 layer2 layer3 layer4 2 3 4 5; do umoci rm --image "$new/image:$tag"; done
  umoci gc --layout "$new/image"
  tar -C "$new/image" -cf "$new/image.tar" .
  umoci init --layout "$new/usr"
  umoci new --image "$new/usr:usr"
  umoci raw add-layer --image "$new/usr:usr" "$new/usr.tar"
  umoci gc --layout "$new/usr"
  rm -rf --one-file-system "$new/bundle" "$new/usr.tar"
  mv -T "$new" "$out/$key"
fi
echo "$out/$key"
