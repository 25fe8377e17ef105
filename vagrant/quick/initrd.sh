#!/bin/busybox sh
# shellcheck shell=dash
# The first program of the guest: mounts the root image read-only, with writes going to memory.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
  insmod "/modules/$module.ko" 2>/dev/null # some newer kernels have it built in
done </modules/order
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 -o ro,noload /dev/vda /ro || exit 1 # the kernel panics, and the emulator leaves
mount -t tmpfs -o size=25% tmpfs /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work root /new
mount --move /dev /new/dev
mount --move /proc /new/proc
mount --move /sys /new/sys
exec switch_root /new /bin/bash /guest.sh
