#!/usr/bin/env bash
# fuse-overlayfs loses what was written to a file with several hard links, as soon as the file system is mounted again.
#
# One would expect: the kernel's overlayfs breaks the hard link at copy-up. The name that was written has the new
# content, the other name has the old one, and both stay so.
# Seen (fuse-overlayfs 1.14 of Debian 13, with libfuse 3.17): while mounted both names show the new content. The upper
# directory holds one file only, under the name that is not the written one. After a mount of the same directories both
# names show the old content of the lower directory, although the upper directory still holds the new one: a container
# that is stopped and started again has lost the write. The image layers of a distribution have such files: perl, git.
# Needs: root, /dev/fuse, mmdebstrap.
# shellcheck source=findings/common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
debian_package trixie fuse-overlayfs 1.14-1 fuse3

mount_again() {
  if mountpoint -q "$T/merged"; then umount "$T/merged"; fi
  "${LOADER[@]}" "$T/debian/usr/bin/fuse-overlayfs" \
    -o "lowerdir=$T/lower,upperdir=$T/upper,workdir=$T/work" "$T/merged" 2> "$T/said" || unavailable "$(cat "$T/said")"
}
last_lines() { tail -q -n 1 "$T/merged/d/first" "$T/merged/d/second" | paste -sd ' '; }

mkdir -p "$T/lower/d" "$T/upper" "$T/work" "$T/merged"
echo old > "$T/lower/d/first"
ln "$T/lower/d/first" "$T/lower/d/second"
mount_again
ls "$T/merged/d" > /dev/null
echo new >> "$T/merged/d/first"
expect "last lines while mounted" "$(last_lines)" "new new"
mount_again
expect "last lines after another mount" "$(last_lines)" "old old"
expect "files of the upper directory" "$(cd "$T/upper" && find . -type f)" "./d/second"
expect "its content" "$(paste -sd ' ' "$T/upper/d/second")" "old new"
