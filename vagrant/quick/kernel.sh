#!/usr/bin/env bash
# kernel.sh KERNEL DIR: unpacks a kernel of Debian, named by the beginning of its version (6.1, 6.18.15), below DIR with
# its modules and an initial ramdisk. The content of DIR is kept if the archive has no newer kernel; if the archive is
# out of reach, the script says so and uses the content of DIR.
#
#   DIR/vmlinuz  DIR/initrd  DIR/version  DIR/lib/modules/VERSION
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=vagrant/archive.sh
. "$here/../archive.sh"
# shellcheck source=vagrant/made_of.sh
. "$here/../made_of.sh"
kernel=$1 dir=$2
archive=$(dirname "$dir")/archive

# The newest kernel of a series is used, whichever release has it.
SUITES=(bookworm bookworm-backports trixie trixie-backports)

# Modules of the initial ramdisk for finding the root and the host's shared directory. Some are built in.
MODULES=(virtio_pci virtio_blk virtio_rng ext4 overlay 9pnet_virtio 9p)

# Prints the version, as in the package's name, of the newest kernel that begins with $kernel. The cloud kernels lack
# 9p, and the real-time kernels are different kernels.
find_version() {
  local series=${kernel//./\\.}
  private_apt "$archive" apt-cache search --names-only "^linux-(image|binary)-$series(\\.|-|\\+).*[0-9]-amd64\$" |
    sed -E 's/^linux-(image|binary)-([^ ]*) .*/\2/' | sort -uV | tail -n 1
}

# Newer kernels come in two packages.
packages() {
  if [[ -n $(private_apt "$archive" apt-cache search --names-only "^linux-binary-${version//+/\\+}\$") ]]; then
    printf '%s\n' "linux-binary-$version" "linux-modules-$version"
  else
    printf '%s\n' "linux-image-$version"
  fi
}

unpack() {
  local packages package
  mapfile -t packages < <(packages)
  (cd "$work" && private_apt "$archive" apt-get download "${packages[@]}" >&2)
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/unpacked"; done
  mkdir -p "$new/lib/modules"
  mv "$(find "$work/unpacked" -path '*/lib/modules/*' -prune -type d -print -quit)" "$new/lib/modules/$version"
  mv "$(find "$work/unpacked" "$new" -name 'vmlinuz*' -type f -print -quit)" "$new/vmlinuz"
  depmod -b "$new" "$version"
}

# The modules that the initial ramdisk loads, in order and without duplicates.
module_files() {
  local module
  for module in "${MODULES[@]}"; do
    modprobe -d "$new" -S "$version" --show-depends "$module"
  done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'
}

make_initrd() {
  local root=$work/initrd file name
  mkdir -p "$root"/{bin,dev,proc,sys,new,ro,rw,modules}
  cp "$(command -v busybox)" "$root/bin/busybox"
  while read -r file; do
    name=$(basename "$file" | sed 's/\.ko.*//')
    case $file in
      *.xz) xz -dc "$file" ;;
      *.zst) zstd -qdc "$file" ;;
      *) cat "$file" ;;
    esac >"$root/modules/$name.ko"
    echo "$name" >>"$root/modules/order"
  done < <(module_files)
  install -m 755 "$here/initrd.sh" "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet | zstd -q -3) >"$new/initrd"
}

mkdir -p "$archive"
if ! archive_lists "$archive" "${SUITES[@]}"; then
  [[ -e $dir/version ]] || { echo "the archive of Debian is out of reach, and no kernel $kernel is kept" >&2; exit 2; }
  echo "the archive of Debian is out of reach: $(<"$dir/version") is taken, the newest $kernel or not" >&2
  exit 0
fi
version=$(find_version)
[[ -n $version ]] || { echo "Debian (${SUITES[*]}) has no kernel $kernel" >&2; exit 2; }
digest=$(made_of "$here/kernel.sh" "$here/initrd.sh" <(echo "$version"))
if is_made_of "$dir" "$digest"; then exit 0; fi
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT
new=$work/new
unpack
make_initrd
echo "$version" >"$new/version"
keep "$new" "$dir" "$digest"
