#!/bin/bash
# debian.sh [OUT]: a Debian that is a guest, in OUT (default build/debian): disk.img (an ext4 file system, no partitions),
# vmlinuz, initrd.img. Made once, and again when this file changes; takes root, and minutes of network.
#
# Boot it under TCG with -cpu max -kernel vmlinuz -initrd initrd.img, a writable overlay of disk.img as a virtio disk, and
#   root=/dev/vda rw console=ttyS0 quiet loglevel=3 mitigations=off nokaslr
# ttyS0 has a root shell then, by autologin. What is in there: systemd, cloud-init (which does nothing where it finds no seed),
# the guest agent, sshd, LVM, md, and what qmpctl and QEMU themselves need, to be run inside.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-${QMPCTL_BUILD:-$HERE/../../build}/debian}
PACKAGES=(systemd-sysv dbus udev kmod iproute2 linux-image-cloud-amd64
	cloud-init qemu-guest-agent openssh-server python3
	lvm2 mdadm thin-provisioning-tools parted e2fsprogs
	libjansson4 libuv1 libcurl4 qemu-system-x86 qemu-utils)

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
exec 9>"$OUT/.lock"
flock 9
want=$(sha256sum <"$HERE/debian.sh")
[ "$want" != "$(cat "$OUT/.made" 2>/dev/null)" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "debian.sh: making a Debian takes root" >&2; exit 1; }
"$HERE/../setup.sh" --debian

echo "debian.sh: making a Debian in $OUT; minutes" >&2
ROOT=$OUT/root
# Never into what may still be mounted there.
trap 'rm -rf --one-file-system "$ROOT" "$OUT"/*.new' EXIT
rm -rf --one-file-system "$ROOT" "$OUT/.made"

# Before the kernel's package makes the initrd: only what finds the root and a seed in time, so that a
# guest under TCG has little to unpack.
small='mkdir -p "$1/etc/initramfs-tools/conf.d"
	printf "%s\n" MODULES=list COMPRESS=lz4 FSTYPE=ext4 RESUME=none >"$1/etc/initramfs-tools/conf.d/small"
	printf "%s\n" virtio_pci virtio_blk virtio_scsi sd_mod sr_mod ext4 >"$1/etc/initramfs-tools/modules"'
mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${PACKAGES[*]}")" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--extract-hook="$small" bookworm "$ROOT"

echo '/dev/vda / ext4 defaults 0 1' >"$ROOT/etc/fstab"
passwd --root "$ROOT" --delete root >/dev/null
mkdir -p "$ROOT/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$ROOT/etc/systemd/system/serial-getty@ttyS0.service.d/test.conf" <<'EOS'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 %I linux
EOS
# What costs a booting guest seconds and serves no test. (Locales cannot be made without what was left out above.)
printf '%s\n' 'locale: false' 'ssh_genkeytypes: [ed25519]' >"$ROOT/etc/cloud/cloud.cfg.d/90-test.cfg"
chroot "$ROOT" systemctl disable --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service fstrim.timer
rm -rf "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/cache/apt/*.bin

cp "$ROOT"/boot/vmlinuz-* "$OUT/vmlinuz.new"
cp "$ROOT"/boot/initrd.img-* "$OUT/initrd.img.new"
rm "$ROOT"/boot/initrd.img-*
truncate -s 4G "$OUT/disk.img.new"
mkfs.ext4 -q -F -E lazy_itable_init=1 -d "$ROOT" "$OUT/disk.img.new"
for f in vmlinuz initrd.img disk.img; do
	mv "$OUT/$f.new" "$OUT/$f"
done
echo "$want" >"$OUT/.made"
