#!/bin/bash
# mkinitrd.sh OUT [--qga] [--gz] [--extra PATH...]: the initial RAM disk of the Linux test guest.
# Made of busybox-static and the modules of a Debian cloud kernel (KV: which one); needs cpio and kmod. --qga adds
# qemu-ga (QGA: which one) with its shared libraries, --extra any other program.
#
# What the guest says on ttyS0 (115200, raw): "GUEST-READY <uptime>" once it is up; then each input line
#   "<id> <shell command>"  is answered by  "@<id> BEGIN", the output, "@<id> END <status>".
# In between, as it happens: "UEVENT <action> <subsystem> <name> ...", "POWERBUTTON", "GUEST-OFF".
# Words of the kernel command line that it knows:
#   test.nopwr         ignore the power button            test.exit     power off once ready
#   test.qga           start qemu-ga on the port org.qemu.guest_agent.0
#   test.ip=A.B.C.D/N  eth0's address                     test.dhcp     eth0 by DHCP
#   test.run=CMD       run CMD (no blanks) before ready   test.nomods   load no modules
#   test.root=/dev/X   an ext4 root: switch_root to its /sbin/init
set -e
OUT=$1; shift; QGAON=; GZ=cat; EXTRA=()
while [ $# -gt 0 ]; do case $1 in --qga) QGAON=1;; --gz) GZ="gzip -1";; --extra) shift; EXTRA+=("$1");; esac; shift; done
KV=${KV:-$(ls /lib/modules | sort -V | tail -1)}
MODS=${MODS:-"virtio_pci virtio_mmio virtio_blk virtio_net virtio_scsi sd_mod sr_mod virtio_console virtio_balloon virtio-rng
 virtio_mem vmw_vsock_virtio_transport virtiofs isofs vfat nls_cp437 nls_iso8859-1 nls_ascii evdev button qemu_fw_cfg efivarfs pvpanic-pci pvpanic"}
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT
mkdir -p "$D"/{bin,sbin,dev,proc,sys,run,tmp,mnt,etc/acpi/PWRF,lib/m,var/run,var/log,root,lib64,usr/lib,usr/share/udhcpc,etc/udhcpc}
cp "$(command -v busybox)" "$D/bin/busybox"
for a in $(busybox --list | grep -vx busybox); do ln -sf /bin/busybox "$D/bin/$a"; done
: > "$D/lib/m/order"
for m in $MODS; do modprobe -S "$KV" --show-depends "$m" 2>/dev/null || echo "skip $m" >&2; done |
 awk '$1=="insmod"{print $2}' | awk '!s[$0]++' | while read -r f; do cp "$f" "$D/lib/m/"; basename "$f" >> "$D/lib/m/order"; done
echo 'root:x:0:0:root:/root:/bin/sh' > "$D/etc/passwd"; echo 'root:x:0:' > "$D/etc/group"
cat > "$D/etc/acpi/PWRF/00000080" <<'X'
#!/bin/sh
echo POWERBUTTON > /dev/ttyS0
[ -e /run/nopwr ] || { echo GUEST-OFF > /dev/ttyS0; sync; poweroff -f; }
X
cat > "$D/bin/hotplug" <<'X'
#!/bin/sh
# run by "uevent" for each kernel event
case $SUBSYSTEM in
 block) mdev -s >/dev/null 2>&1; echo "UEVENT $ACTION block ${DEVNAME} $( [ "$ACTION" = add ] && cat /sys/block/$DEVNAME/size 2>/dev/null)" >/dev/ttyS0;;
 net) echo "UEVENT $ACTION net $INTERFACE" >/dev/ttyS0;;
 virtio-ports) mkdir -p /dev/virtio-ports; n=$(cat /sys/class/virtio-ports/${DEVNAME}/name 2>/dev/null); [ "$n" ] && ln -sf ../$DEVNAME /dev/virtio-ports/$n; echo "UEVENT $ACTION vport $DEVNAME $n" >/dev/ttyS0;;
 cpu|memory) [ "$ACTION" = add ] && { echo 1 > /sys$DEVPATH/online; echo online > /sys$DEVPATH/state; } 2>/dev/null; echo "UEVENT $ACTION $SUBSYSTEM $DEVPATH" >/dev/ttyS0;;
esac
X
cat > "$D/sbin/shutdown" <<'X'
#!/bin/sh
# what qemu-ga's guest-shutdown runs: shutdown -P|-H|-r -h +0 "..."
echo GUEST-OFF > /dev/ttyS0; sync
case " $* " in *" -r "*) reboot -f;; *" -H "*) halt -f;; *) poweroff -f;; esac
X
chmod +x "$D/sbin/shutdown"; ln -s /bin/busybox "$D/sbin/hwclock"
cat > "$D/usr/share/udhcpc/default.script" <<'X'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev $interface; ip addr add $ip/${mask:-24} dev $interface
for r in $router; do ip route add default via $r; done; for n in $dns; do echo "nameserver $n"; done > /etc/resolv.conf
X
cat > "$D/init" <<'X'
#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/pts /dev/shm; mount -t devpts dp /dev/pts; mount -t tmpfs tmp /run
S=/dev/ttyS0; [ -c $S ] || S=/dev/console
stty -F $S raw -echo 115200 2>/dev/null
CMD=$(cat /proc/cmdline); has() { case " $CMD " in *" $1 "*) return 0;; esac; return 1; }
val() { for w in $CMD; do case $w in $1=*) echo "${w#*=}"; return;; esac; done; }
has test.nomods || while read -r m; do insmod /lib/m/$m 2>/dev/null; done < /lib/m/order
r=$(val test.root); [ "$r" ] && { for i in 1 2 3 4 5 6 7 8 9; do [ -b $r ] && break; sleep 0.2; done; mount -t ext4 $r /mnt && { umount /dev/pts; mount --move /dev /mnt/dev; umount /sys /proc; exec switch_root /mnt /sbin/init; }; }
mkdir -p /dev/virtio-ports; for p in /sys/class/virtio-ports/*; do [ -e $p/name ] && ln -sf ../${p##*/} /dev/virtio-ports/$(cat $p/name); done
has test.nopwr && touch /run/nopwr
setsid uevent /bin/hotplug >/dev/null 2>&1 </dev/null &
ls /dev/input/event* >/dev/null 2>&1 && setsid acpid -f -l /dev/null -c /etc/acpi >/dev/null 2>&1 </dev/null &
ip link set lo up; a=$(val test.ip); [ "$a" ] && { ip link set eth0 up; ip addr add $a dev eth0; }
has test.dhcp && { ip link set eth0 up; udhcpc -q -n -i eth0 >/dev/null 2>&1; }
has test.qga && [ -x /bin/qemu-ga ] && setsid qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -l /run/qga.log >/dev/null 2>&1 </dev/null &
[ -x /bin/late ] && /bin/late
r=$(val test.run); [ "$r" ] && $r
# Open from before it says so: what comes in while nobody has the port open is lost.
exec < $S > $S 2>&1
read u x < /proc/uptime; echo "GUEST-READY $u"
has test.exit && { echo GUEST-OFF; poweroff -f; }
# Not in this shell: whatever is orphaned becomes the first process's child, and the end of a child has "read" begin a line anew.
( while :; do
 read -r id cmd || { sleep 0.2; continue; }
 [ "$id" ] || continue
 echo "@$id BEGIN"; ( eval "$cmd" ) </dev/null; rc=$?; echo "@$id END $rc"
done )
X
cp "$D/usr/share/udhcpc/default.script" "$D/etc/udhcpc/"; chmod +x "$D/etc/udhcpc/default.script" "$D/init" "$D/bin/hotplug" "$D/etc/acpi/PWRF/00000080" "$D/usr/share/udhcpc/default.script"
addbin() { cp "$1" "$D/bin/"; ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | while read -r l; do mkdir -p "$D$(dirname "$l")"; cp -nL "$l" "$D$l"; done; }
[ "$QGAON" ] && addbin "${QGA:-$(command -v qemu-ga || echo /usr/sbin/qemu-ga)}"
for e in "${EXTRA[@]}"; do addbin "$e"; done
( cd "$D"; find . -print0 | cpio --null -o -H newc --quiet ) | $GZ > "$OUT"
