#!/usr/bin/env bash
# Process 1 of the guest, without an init system: mounts file systems, runs the suite that the kernel's command line
# names as suite=, and passes its exit status to the emulator. The suite's output goes to the second serial port, where
# the kernel does not write.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
mkdir -p /strata /lib/modules /dev/pts /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777,size=80% tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose strata /strata
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose modules /lib/modules
# Without these links bash silently reads nothing from <(...).
ln -sf /proc/self/fd /dev/fd
# No udev runs here to create the nodes that load these modules when they are opened.
for module in loop fuse; do modprobe "$module"; done

# The kernel puts unknown parameters of its command line into the environment of process 1.
export STRATA_EVERY STRATA_FIRST
# shellcheck disable=SC2154 # suite comes from the kernel's command line
(cd / && exec "/strata/$suite") >/dev/ttyS1 2>&1 </dev/null
status=$?
echo "guest: $suite ended with $status" >/dev/ttyS1
# The emulator exits with twice this value, plus one.
printf '%b' "\\x$(printf %02x $((status & 0x7f)))" | dd of=/dev/port bs=1 seek=$((0x501)) count=1 conv=notrunc status=none
