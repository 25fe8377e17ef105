#!/usr/bin/env bash
# box.sh BOX: makes a box for Vagrant's libvirt provider from Debian's packages alone: this machine's own release, with
# the kernel of its backports and the packages that the suites need. It needs no loop device, no mount and no installer
# of a boot loader. An existing box is kept if it was made of the same scripts, packages and kernel.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=vagrant/archive.sh
. "$here/../archive.sh"
# shellcheck source=vagrant/made_of.sh
. "$here/../made_of.sh"
box=$1
archive=$box.archive

# Packages of a box: a system that boots, gets an address and lets Vagrant in.
SYSTEM=systemd,systemd-sysv,udev,dbus,openssh-server,sudo,rsync,iproute2,procps,initramfs-tools,zstd
DISK_MB=8192
# The first partition begins after this offset; the boot loader lies before it.
BEFORE_MB=1

# Prints the version of the kernel that the archive has for the box.
kernel_version() {
  archive_lists "$archive" "$release" "$release-backports" || return
  private_apt "$archive" apt-cache madison linux-image-amd64 | awk -v suite="$release-backports/main" '$6 == suite { print $3; exit }'
}

make_root() {
  local site
  site=$(debian_site)
  mmdebstrap --quiet --variant=minbase --components=main \
    --include="$SYSTEM,$packages,linux-image-amd64/$release-backports" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --aptopt="APT::Default-Release \"$release\"" \
    "$release" "$work/root" \
    "deb [signed-by=$KEYRING] $site $release main" "deb [signed-by=$KEYRING] $site $release-backports main"
}

# Writes a partition table, a file system with the tree, and GRUB with its modules built in.
make_disk() {
  local disk=$work/disk part=$work/part
  truncate -s "${DISK_MB}M" "$disk"
  echo "$((BEFORE_MB * 2048)),,L,*" | sfdisk -q --label dos "$disk"
  truncate -s "$((DISK_MB - BEFORE_MB))M" "$part"
  mkfs.ext4 -q -F -L root -d "$work/root" "$part"
  dd if="$part" of="$disk" bs=1M seek="$BEFORE_MB" conv=notrunc,sparse status=none
  grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$work/core" biosdisk part_msdos ext2 linux normal boot configfile
  dd if=/usr/lib/grub/i386-pc/boot.img of="$disk" bs=440 count=1 conv=notrunc status=none
  dd if="$work/core" of="$disk" bs=512 seek=1 conv=notrunc status=none
  qemu-img convert -O qcow2 "$disk" "$work/box.img"
}

pack() {
  echo "{\"provider\":\"libvirt\",\"format\":\"qcow2\",\"virtual_size\":$((DISK_MB / 1024))}" >"$work/metadata.json"
  echo 'Vagrant.configure("2") { |config| config.vm.provider(:libvirt) { |libvirt| libvirt.disk_bus = "virtio" } }' >"$work/Vagrantfile"
  tar -C "$work" -cf "$work/box" metadata.json Vagrantfile box.img
}

release=$(debian_release) || { echo "this is no Debian: its programs would not fit the guest's" >&2; exit 2; }
mkdir -p "$archive"
version=$(kernel_version)
[[ -n $version ]] || { echo "the archive of Debian has no kernel for the box, or is out of reach" >&2; exit 2; }
packages=$("$here/../provision.sh" --list | paste -sd ,)
digest=$(made_of "$here/box.sh" "$here/customize.sh" <(echo "$release" "$version" "$packages"))
if is_made_of "$box" "$digest"; then exit 0; fi
echo "making the box: $release, kernel $version" >&2
work=$(mktemp -d "$box.XXXXXX")
trap 'rm -rf "$work"' EXIT
make_root
"$here/customize.sh" "$work/root"
make_disk
pack
keep "$work/box" "$box" "$digest"
