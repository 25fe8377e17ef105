#!/usr/bin/env bash
# boot.sh KERNELDIR ROOT SHARE SUITE OUT: boots, runs SHARE/SUITE as root in the guest and exits with its status, or
# with 125 if it never ended. The suite's output goes to OUT, the kernel's to OUT.console. The guest can write neither
# to the root image nor to the host: both are read-only for it.
set -euo pipefail
kernel=$1 root=$2 share=$3 suite=$4 out=$5
here=$(cd "$(dirname "$0")" && pwd)

MEMORY_MB=2048
# A guest that hangs must not block the others for ever.
TIMEOUT_S=${STRATA_VM_TIMEOUT_S:-900}

if [[ $("$here/../accelerator.sh") == kvm ]]; then
  accelerator=(-accel kvm -cpu host)
else
  accelerator=(-accel "tcg,thread=multi,tb-size=512" -cpu max)
fi

share() { # DIRECTORY TAG
  printf '%s\n' -fsdev "local,id=$2,path=$1,security_model=none,readonly=on,multidevs=remap" \
    -device "virtio-9p-pci,fsdev=$2,mount_tag=$2"
}
mapfile -t shares < <(share "$kernel/lib/modules" modules; share "$share" strata)

status=0
timeout --foreground "$TIMEOUT_S" qemu-system-x86_64 "${accelerator[@]}" -smp "${STRATA_VM_CPUS:-$(nproc)}" -m "$MEMORY_MB" \
  -nodefaults -display none -monitor none -no-reboot \
  -kernel "$kernel/vmlinuz" -initrd "$kernel/initrd" \
  -append "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr no_timer_check suite=$suite STRATA_EVERY=${STRATA_EVERY:-1} STRATA_FIRST=${STRATA_FIRST:-0}" \
  -serial "file:$out.console" -serial "file:$out" \
  -device isa-debug-exit,iobase=0x501,iosize=2 -device virtio-rng-pci \
  -drive "file=$root,if=none,id=root,format=raw,readonly=on" -device virtio-blk-pci,drive=root \
  "${shares[@]}" </dev/null || status=$?
# An even status comes from the emulator or the timeout: the guest has returned none.
if ((status % 2)); then exit $((status / 2)); fi
echo "the guest did not end its suite (status $status of the emulator)" >&2
exit 125
