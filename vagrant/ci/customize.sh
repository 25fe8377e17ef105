#!/usr/bin/env bash
# customize.sh ROOT: makes the packages in ROOT a system that boots, gets an address and lets Vagrant in.
set -euo pipefail
root=$1

# The key that every Vagrant knows: the box is thrown away, and only this machine sees it.
key=$(dpkg -L vagrant | sed -n '/\/keys\/vagrant\.pub$/p')
chroot "$root" useradd -m -s /bin/bash vagrant
install -d -m 700 "$root/home/vagrant/.ssh"
install -m 600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
echo 'vagrant ALL=(ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"

cat >"$root/etc/systemd/network/10-dhcp.network" <<NETWORK
[Match]
Name=en* eth*
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
NETWORK
chroot "$root" systemctl --quiet enable systemd-networkd ssh
# Services that would run beside the suites, or would wait for a network that does not exist.
chroot "$root" systemctl --quiet mask systemd-networkd-wait-online.service apt-daily.timer \
  apt-daily-upgrade.timer man-db.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer containerd.service
echo strata >"$root/etc/hostname"
echo '127.0.0.1 localhost strata' >"$root/etc/hosts"
echo 'UseDNS no' >>"$root/etc/ssh/sshd_config"
echo '/dev/vda1 / ext4 defaults,noatime 0 1' >"$root/etc/fstab"

# Interrupts of an emulated timer can come too late for the kernel's timer check, which then panics.
version=$(ls "$root/lib/modules")
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<GRUB
set timeout=0
linux /boot/vmlinuz-$version root=/dev/vda1 rw console=ttyS0 quiet mitigations=off no_timer_check net.ifnames=0
initrd /boot/initrd.img-$version
boot
GRUB
