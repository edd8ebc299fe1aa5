# Pools of LVM and of md arrays, which take device-mapper and md.
# Packages:
# Disks: lvm:512M md0:64M md1:64M

vgcreate -q vg0 "$(disk lvm)" >/dev/null
lvcreate -q --type thin-pool -L 200M -n thin vg0 >/dev/null
refused "a volume group that is not there" "nix" qmpctl pool create nix lvm,vg=nix
refused "a thin pool that is not there" "has no thin pool nix" qmpctl pool create nix lvm-thin,vg=vg0,thin-pool=nix
qmpctl pool create lv lvm,vg=vg0
qmpctl pool create th lvm-thin,vg=vg0,thin-pool=thin
check "a pool of LVM is as large as its volume group" "$(vgs --noheadings --nosuffix --units b -o vg_size vg0 | tr -d ' ')" \
	"$(ask lv 'P["capacity"]')"

qmpctl image create lv:a 32M
check "a logical volume" "33554432 33554432 True False" \
	"$(ask lv 'V["a"]["capacity"], V["a"]["allocation"], V["a"]["active"], P["overcommitted"]' | tr -d '(),')"
refused "a logical volume that is there" "lv:a is there already" qmpctl image create lv:a 32M
refused "more than there is room for" "insufficient free space" qmpctl image create lv:huge 10G
dd if=/dev/urandom of=/dev/vg0/a bs=1M count=1 status=none
first=$(extent /dev/vg0/a)
qmpctl image clone lv:a lv:b
check "a clone has what the volume has" "$first a" "$(extent /dev/vg0/b) $(ask lv 'V["b"]["origin"]')"
dd if=/dev/zero of=/dev/vg0/b bs=1M count=1 conv=notrunc status=none
sync
check "and is written to by itself" "$first" "$(extent /dev/vg0/a)"
qmpctl image delete lv:b
qmpctl image resize lv:a 64M
check "a logical volume that grew" 67108864 "$(ask lv 'V["a"]["capacity"]')"
refused "one that is to shrink" "shrink" qmpctl image resize lv:a 32M

qmpctl image create th:big 10G
check "a thin volume takes nothing, and its promise is told" "10737418240 0 True" \
	"$(ask th 'V["big"]["capacity"], V["big"]["allocation"], P["overcommitted"]' | tr -d '(),')"
dd if=/dev/urandom of=/dev/vg0/big bs=1M count=4 conv=fsync status=none
first=$(extent /dev/vg0/big)
check "it takes what was written" True "$(ask th '4 << 20 <= V["big"]["allocation"] < 32 << 20')"
qmpctl image clone th:big th:other
check "a thin clone has it, too" "$first big" "$(extent /dev/vg0/other) $(ask th 'V["other"]["origin"]')"
check "the two pools of one volume group know their own" "['a'] ['big', 'other']" "$(ask lv 'sorted(V)') $(ask th 'sorted(V)')"
eight() { ask "$1" "sorted(n for n in V if n[0] == '$2' and len(n) == 2) == ['$2%d' % i for i in range(8)]"; }
check "eight at once in LVM, each of them twice" "8 True" "$(at_once qmpctl image create lv:v@ 8M) $(eight lv v)"
check "eight at once in a thin pool" "8 True" "$(at_once qmpctl image create th:t@ 8M) $(eight th t)"
qmpctl pool create folder dir,path=/var/tmp/folder
check "eight at once in a folder" "8 True" "$(at_once qmpctl image create folder:f@ 8M) $(eight folder f)"
check "of which nothing else is left" 8 "$(ls -A /var/tmp/folder | wc -l)"

spec p '[{"path": "lv:a", "format": "raw"}]'
qmpctl start p
qmpctl disk add p th:big,id=thin,format=raw
check "QEMU has both" "/dev/vg0/a /dev/vg0/big" \
	"$(qmpctl qmp p query-named-block-nodes | python3 -c 'import json, sys
nodes = json.load(sys.stdin)
nodes = nodes.get("return", nodes) if isinstance(nodes, dict) else nodes
print(*sorted({n["file"] for n in nodes if n["file"].startswith("/dev/")}))')"
refused "a volume that a VM has" "in use by the VM p" qmpctl image delete th:big
refused "a pool that a VM has" "has disks of p" qmpctl pool delete th
qmpctl kill p
qmpctl delete p

lvcreate -q -an -Zn -Wn -L 4M -n qmpctl-new.x vg0 >/dev/null 2>&1
vgchange -q -an vg0 >/dev/null
check "a pool that is not active says so" False "$(ask lv 'V["a"]["active"]')"
qmpctl pool refresh lv >/dev/null
check "refresh activates it, and sweeps" "True False True" \
	"$(ask lv 'V["a"]["active"]') $(ask lv '"qmpctl-new.x" in V') $([ -e /dev/vg0/a ] && ! lvs vg0/qmpctl-new.x >/dev/null 2>&1 && echo True)"
qmpctl image delete th:other th:big lv:a $(seq -f 'lv:v%.0f' 0 7) $(seq -f 'th:t%.0f' 0 7) >/dev/null
check "all of it is gone again" "{} {} thin" "$(ask lv V) $(ask th V) $(lvs --noheadings -o lv_name vg0 | tr -d ' ')"
qmpctl pool list
qmpctl pool delete th
qmpctl pool delete lv

mdadm --quiet --create /dev/md/r1 --level=1 --raid-devices=2 --metadata=1.2 --run --assume-clean "$(disk md0)" "$(disk md1)"
udevadm settle
qmpctl pool create ar block,path=/dev/md
check "an md array is a volume, and whole" "raid1 2 True" "$(ask ar 'V["r1"]["md"]["level"], V["r1"]["md"]["devices"], V["r1"]["md"]["healthy"]' | tr -d "(),'")"
spec p '[{"path": "ar:r1", "format": "raw"}]'
qmpctl start p
check "a VM runs from it" "/dev/md/r1" "$(qmpctl args p | grep -o '/dev/md/r1')"
mdadm --quiet "/dev/md/r1" --fail "$(disk md1)"
check "one that lost a device says so" "degraded: 1 of 2 devices missing" "$(ask ar 'V["r1"]["md"]["health"]')"
qmpctl pool info ar
check "and the VM runs on" running "$(state p)"
qmpctl kill p
qmpctl delete p
