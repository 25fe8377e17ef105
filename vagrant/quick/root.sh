#!/usr/bin/env bash
# root.sh IMAGE: makes the root file system of the guests from this machine's own release of Debian, so that programs
# built here run there. An existing image is kept if it was made of the same inputs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=vagrant/archive.sh
. "$here/../archive.sh"
# shellcheck source=vagrant/made_of.sh
. "$here/../made_of.sh"
image=$1

# Packages beyond Debian's essential ones: the file systems under test, and modules.
PACKAGES=btrfs-progs,xfsprogs,e2fsprogs,kmod,mount
IMAGE_SIZE=600M

release=$(debian_release) || { echo "this is no Debian: its programs would not fit the guest's" >&2; exit 2; }
digest=$(made_of "$here/root.sh" "$here/guest.sh" <(echo "$release"))
if is_made_of "$image" "$digest"; then exit 0; fi
site=$(debian_site)
mkdir -p "$(dirname "$image")"
work=$(mktemp -d "$image.XXXXXX")
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=essential --components=main --include="$PACKAGES" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  "$release" "$work/root" "deb [signed-by=$KEYRING] $site $release main"
install -m 755 "$here/guest.sh" "$work/root/guest.sh"
mkdir -p "$work/root/strata" "$work/root/lib/modules"
mkfs.ext4 -q -O '^has_journal' -d "$work/root" "$work/image" "$IMAGE_SIZE"
keep "$work/image" "$image" "$digest"
