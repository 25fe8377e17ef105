#!/usr/bin/env bash
# usage: real-image.sh OUTDIR
#
# Makes a real image of four layers from the distribution's own packages and prints the directory
# that holds it, OUTDIR/KEY. KEY is a digest of this script and of what it uses, so a second run
# has nothing to do, and a changed script makes a new image. There:
#
#   oci/                    an OCI layout with the tags layer1 to layer4, each one layer more
#   oci-zstd/               the same image, tag layer4, its layers compressed with zstd
#   oci-archive.tar         the same image as an OCI archive
#   docker-archive.tar      the same image as a docker archive, named strata.test/real:layer4
#   rootfs/layer1..layer4/  what umoci, the judge, makes of each tag
#
# It needs root (debootstrap does) and the programs that vagrant/provision.sh installs. The package
# mirror is the one that the machine's own apt uses.
set -euo pipefail

layers=(layer1 layer2 layer3 layer4)

umoci() { command umoci --log=error "$@"; }
say() { printf 'real-image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[[ $# -eq 1 ]] || die "usage: real-image.sh OUTDIR"
[[ $EUID -eq 0 ]] || die "needs root, because debootstrap does"
for program in debootstrap umoci skopeo setcap setfacl setfattr; do
  command -v "$program" >/dev/null || die "$program is missing: run vagrant/provision.sh"
done

# shellcheck source=/dev/null
. /etc/os-release # gives ID and VERSION_CODENAME
suite=$VERSION_CODENAME
key=$({ cat "$0"; echo "$suite"; umoci --version; skopeo --version; } | sha256sum | cut -c 1-16)
mkdir -p "$1"
out=$(cd "$1" && pwd)

exec 9>"$out/lock"
flock 9 # of several tests at once, one makes the image
if [[ -d $out/$key ]]; then
  echo "$out/$key"
  exit
fi

# Everything is made in new/ and renamed when it is complete. The lock is held, so any other file here is left from an
# interrupted run or is the image of an older script.
find "$out" -mindepth 1 -maxdepth 1 -regex '.*/\(new\|[0-9a-f]+\)' \
  -exec rm -rf --one-file-system {} +
new=$out/new
root=$new/bundle/rootfs
mkdir -m 0700 "$new" # there are setuid programs in it
trap 'rm -rf --one-file-system "$new"' EXIT
trap 'exit 1' INT TERM HUP
export TMPDIR=$new
umask 022

# The mirror of the distribution itself, not one of another vendor for the same suite.
mirror() {
  # shellcheck disable=SC2016 # the fields are expanded by apt
  apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' \
    'Created-By: Packages' "Codename: $suite" 'Component: main' |
    awk -v vendor="$ID" -v suite="$suite" \
      'tolower($1) == vendor && $2 !~ /-/ && !done { print $3; done = 1 }'
}

# layer1: a minimal Debian (or Ubuntu).
make_base() {
  local uri
  uri=$(mirror)
  if [[ -z $uri ]]; then # the package lists have never been fetched
    apt-get -q update >&2
    uri=$(mirror)
  fi
  [[ -n $uri ]] || die "apt has no source for $suite main"
  eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
  [[ -z ${http_proxy:-} ]] || export http_proxy
  # The mounts of debootstrap go away with its mount namespace, however it ends.
  unshare --mount debootstrap --variant=minbase "$suite" "$root" "$uri" >"$new/log" 2>&1 ||
    { tail -n 20 "$new/log" >&2; die "debootstrap failed"; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  # Entries that the later layers change and no distribution has.
  ln "$root/usr/bin/env" "$root/usr/bin/env-too"
  mkdir -p "$root/opt/"{renamed/sub,replaced,opaque/sub}
  echo 1 | tee "$root/opt/renamed/"{a,sub/b} "$root/opt/replaced/"{gone,changed,kept} \
    "$root/opt/opaque/"{hidden,changed,sub/hidden} >"$root/opt/becomes-dir"
}

# layer2: every kind of change to a file. For the content of a directory that is replaced with another type, umoci
# writes whiteouts below that file or symlink: readers must ignore them.
edit_once() (
  cd "$root"
  # deletions
  rm etc/issue
  rm -r usr/share/man
  rm usr/bin/env-too # a hard link group that only loses a name
  # attributes of files and directories whose content stays
  chown 12345:54321 etc/debian_version
  chown 3000000:3000000 usr/share/doc/base-files/copyright # too large for an octal tar field
  chown -R 1000:1000 etc/skel
  chmod 0700 var/log
  chmod 1777 srv
  chmod 0755 usr/bin/passwd # no longer setuid
  touch -d '1965-04-03 02:01:00 UTC' etc/issue.net
  touch -d '2250-01-02 03:04:05 UTC' etc/bash.bashrc # beyond 33 bits; umoci fails from 2262 on
  # renames
  mv opt/renamed opt/new-name
  mv etc/profile etc/profile.old
  # replaced with another file type
  mv usr/share/common-licenses usr/share/licenses
  ln -s licenses usr/share/common-licenses # a symlink for a directory with content
  rm var/run
  mkdir var/run # a directory for a symlink to a directory
  echo 2 >var/run/file
  ln -sfn nowhere etc/localtime # a symlink for a symlink
  rm etc/os-release
  cp usr/lib/os-release etc/os-release # a file for a symlink
  rm opt/becomes-dir
  mkdir opt/becomes-dir # a directory for a file
  echo 2 >opt/becomes-dir/file
  # a directory removed and created again
  rm -r opt/replaced
  mkdir -m 0750 opt/replaced
  echo 2 | tee opt/replaced/{new,changed} >/dev/null
  cp -p usr/share/doc/base-files/copyright opt/replaced/kept
  # new things
  mkdir -p opt/new/links
  echo link >opt/new/one
  ln opt/new/one opt/new/links/two
  ln opt/new/one opt/three
  ln usr/bin/env usr/bin/env-three # a new name for a file of the lower layer
  cp usr/bin/true opt/new/setuid
  chmod 6755 opt/new/setuid
  cp usr/bin/true opt/new/capable
  setcap cap_net_raw,cap_net_bind_service+ep opt/new/capable
  setfattr -n user.strata -v $'two\nlines' opt/new/one
  setfattr -n user.strata -v 'on a directory' opt/new/links
  setfacl -m u:1000:rwx,g:2000:r-x opt/new/links
  setfacl -d -m u:1000:rwx opt/new/links
  mkfifo -m 0640 opt/new/fifo
  mknod -m 0660 opt/new/char c 1 3
  mknod -m 0600 opt/new/block b 7 200
  : >opt/new/empty
  truncate -s 8M opt/new/sparse
  printf 'end' >>opt/new/sparse
  echo 2 >"opt/new/a name with spaces, #, % and \\"
  echo 2 >opt/new/$'\xc3\xa9t\xc3\xa9'
  echo 2 >opt/new/$'not \xff\xfe UTF-8'
  echo 2 >opt/new/$'two\nlines'
  echo 2 >"opt/new/$(printf 'n%.0s' {1..255})"
  deep=opt/new/$(printf 'directory/%.0s' {1..30}) # longer than any field of a tar header
  mkdir -p "$deep"
  echo 2 >"$deep/file"
)

# layer3: changes to entries that layer2 changed.
edit_again() (
  cd "$root"
  echo 'back again' >etc/issue
  mkdir -p usr/share/man/man1
  echo 3 >usr/share/man/man1/new.1
  rm -r opt/becomes-dir
  echo 3 >opt/becomes-dir
  rm opt/new/fifo opt/new/links/two
  rm -r opt/new-name/sub
  mv opt/new-name opt/renamed
  echo 3 >>opt/new/sparse
  setfattr -x user.strata opt/new/one
  setfattr -n user.strata -v 'changed' opt/new/links
  rm usr/share/common-licenses
  mv usr/share/licenses usr/share/common-licenses
  rm -r var/run
  ln -s /run var/run
  rm -r opt/replaced
  mkdir opt/replaced
  echo 3 >opt/replaced/changed
  chmod 4755 usr/bin/passwd
)

umoci init --layout "$new/oci"
umoci new --image "$new/oci:empty"
umoci config --image "$new/oci:empty" --config.cmd /bin/sh --no-history \
  --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umoci unpack --image "$new/oci:empty" "$new/bundle"
for step in layer1:make_base layer2:edit_once layer3:edit_again; do
  say "making ${step%%:*} ($SECONDS s)"
  "${step#*:}"
  umoci repack --refresh-bundle --image "$new/oci:${step%%:*}" --history.created_by "${step#*:}" \
    "$new/bundle"
done

# layer4: an opaque directory. A repack never writes one.
say "making layer4 ($SECONDS s)"
mkdir -p "$new/opaque"
echo 4 | tee "$new/opaque/"{changed,new} >/dev/null
umoci insert --opaque --image "$new/oci:layer3" --tag layer4 "$new/opaque" /opt/opaque
umoci rm --image "$new/oci:empty"
umoci gc --layout "$new/oci"
rm -rf --one-file-system "$new/bundle" "$new/opaque" "$new/log"

say "unpacking what umoci makes of it ($SECONDS s)"
mkdir "$new/rootfs"
for layer in "${layers[@]}"; do
  umoci raw unpack --image "$new/oci:$layer" "$new/rootfs/$layer"
done

say "converting ($SECONDS s)"
copy() { skopeo --insecure-policy --tmpdir "$new" copy --quiet "$@" >&2; }
copy "oci:$new/oci:layer4" "oci-archive:$new/oci-archive.tar:layer4"
copy "oci:$new/oci:layer4" "docker-archive:$new/docker-archive.tar:strata.test/real:layer4"
copy --dest-compress-format zstd "oci:$new/oci:layer4" "oci:$new/oci-zstd:layer4"

sync -f "$new"
mv -T "$new" "$out/$key"
say "done ($SECONDS s)"
echo "$out/$key"
