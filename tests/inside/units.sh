# The unit qmpctl@.service under a real systemd: what docs/units/qmpctl@.service.in promises, and the limits of a VM in a real
# cgroup v2. It leaves the VM running: tests/systemd.sh looks what became of it when the host went down.
# Packages:
# Disks:

active() { systemctl is-active qmpctl@a; }
keeper() { systemctl show -p MainPID --value qmpctl@a; }
qemu() { for p in /proc/[0-9]*; do case $(readlink "$p/exe") in */qemu-system-*) echo "${p#/proc/}" ;; esac; done; }
said() { grep -c "$1" /var/tmp/serial.log; }
came_back() { [ "$(keeper)" != "$old" ] && active; }

rm -f /var/tmp/serial.log
sed 's/"args": \[\]/"args": ["-chardev", "file,id=s,path=\/var\/tmp\/serial.log,append=on", "-device", "isa-serial,chardev=s,iobase=0x3f8,irq=4"]/
	s/"name": "vm"/"name": "a"/' /payload/vm.json >/var/tmp/a.json
qmpctl create a --spec /var/tmp/a.json
systemctl start qmpctl@a
check "start returns when the VM is up" "0 active" "$? $(active)"
first=$(qemu)
check "the guest runs" 1 "$(becomes 1 said TINY-READY)"
systemctl restart qmpctl@a
check "restart takes the running VM over" "active $first" "$(active) $(qemu)"
old=$(keeper)
kill -9 "$old"
check "a keeper that was killed comes back to the same VM" "active $first" "$(becomes active came_back) $(qemu)"
systemctl stop qmpctl@a
check "stop leaves the guest running" "inactive $first" "$(active) $(qemu)"
systemctl start qmpctl@a
check "start takes it over" "active $first" "$(active) $(qemu)"
check "all that time the guest did not notice" 1 "$(said TINY-READY)"
qmpctl stop a
check "qmpctl stop ends the service well" "inactive success " "$(becomes inactive active) $(systemctl show -p Result --value qmpctl@a) $(qemu)"
check "by the power button" 1 "$(becomes 1 said BYE)"
qmpctl disk add a size=4M
qmpctl set a limits.cpu=100 limits.memory=512M limits.pids=200 limits.io.bps-write=1000000
systemctl start qmpctl@a
check "it starts again" "active 2" "$(active) $(becomes 2 said TINY-READY)"
group=$(find /sys/fs/cgroup -name 'qmpctl-a-*')
check "in a control group of its own" "$(qemu)" "$(cat "$group/cgroup.procs")"
check "which holds it to its limits" "100000 100000 536870912 200 $(cat /sys/block/vda/dev) rbps=max wbps=1000000 riops=max wiops=max" \
	"$(cd "$group" && cat cpu.max memory.max pids.max io.max | tr '\n' ' ' | sed 's/ $//')"
