# NFS with a real server, on this very host: what is said of its locks, that they hold, and a server that goes away.
# Packages: nfs-kernel-server nfs-common
# Disks: nfs:512M

# The server and its client, without what Debian's units add to it. Version 4 alone: no rpcbind, no statd.
mkfs.ext4 -q "$(disk nfs)"
mkdir -p /srv/export /mnt/nfs /var/lib/nfs/v4recovery
mount "$(disk nfs)" /srv/export
modprobe nfsd
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
for time in nfsv4gracetime nfsv4leasetime; do echo 10 >/proc/fs/nfsd/$time; done
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
touch /etc/exports
exportfs -o rw,sync,no_root_squash,no_subtree_check,fsid=0 127.0.0.1:/srv/export
serve() { rpc.nfsd --no-udp -N 3 "$1"; }
serve 4
rpc.mountd --no-udp -N 3
mount -t nfs4 -o vers=4.2,hard 127.0.0.1:/ /mnt/nfs

qmpctl pool create nf mount,path=/mnt/nfs
qmpctl pool info nf
check "the pool knows what it is on, and what locks are worth there" "nfs4 True" \
	"$(ask nf 'P["filesystem"], any(n.startswith("NFS: QEMU") for n in P["notes"])' | tr -d "(),'")"
qmpctl image create nf:a.raw 32M
dd if=/dev/urandom of=/mnt/nfs/a.raw bs=1M count=2 conv=notrunc,fsync status=none
qmpctl image clone nf:a.raw nf:b.raw
check "a clone has what the image has" "$(md5sum </mnt/nfs/a.raw)" "$(md5sum </srv/export/b.raw)"
qmpctl image create nf:base.qcow2 1G
qmpctl image clone nf:base.qcow2 nf:overlay.qcow2 --linked
check "a linked one is backed by it" "base.qcow2 False" \
	"$(ask nf 'V["overlay.qcow2"]["origin"].split("/")[-1]') $(stat -c %A /mnt/nfs/base.qcow2 | grep -q w && echo True || echo False)"
spec p '[{"path": "nf:a.raw", "format": "raw"}, {"path": "nf:overlay.qcow2", "format": "qcow2",
	"backing": {"path": "nf:base.qcow2", "format": "qcow2"}}]'
qmpctl start p
check "a VM runs from it" running "$(state p)"
qmpctl disk add p nf:b.raw,id=more,format=raw
qmpctl disk remove p more --timeout 60
check "a disk comes and goes" 2 "$(qmpctl disk list p -o json | python3 -c 'import json, sys; print(len(json.load(sys.stdin)))')"

# Somebody of whom qmpctl knows nothing, as on another host.
sed 's/"name": "p"/"name": "q"/' /var/tmp/p.json | sed "s|nf:|/mnt/nfs/|g" >/var/tmp/q.json
qmpctl --root /var/tmp/other create q --spec /var/tmp/q.json
refused "QEMU's lock keeps another one off it" '"write" lock' qmpctl --root /var/tmp/other start q

# The server goes away. Who has nothing there must not wait for it.
soon() { timeout -s KILL 240 "$@" >/var/tmp/soon.txt 2>&1; echo $?; }
spec local '[]'
serve 0
dd if=/mnt/nfs/b.raw of=/dev/null bs=1M count=1 iflag=direct status=none &
reader=$!
check "the server is away" D "$(becomes D awk '{print $3}' /proc/$reader/stat)"
check "another VM starts" "0 running" "$(soon qmpctl start local) $(state local)"
check "gets a disk" 0 "$(soon qmpctl disk add local size=1M)"
check "and none from there" 8 "$(soon qmpctl disk add local nf:b.raw)"
cat /var/tmp/soon.txt
check "the VM that has images there is told of" "0 running" "$(soon qmpctl status p) $(state p)"
check "and stands in the list" 0 "$(soon qmpctl list)"
check "pools are told apart" "0 unavailable" "$(soon qmpctl pool list) $(qmpctl pool list -o json | python3 -c 'import json, sys
print(*[p["state"] for p in json.load(sys.stdin) if p["name"] == "nf"])')"
cat /var/tmp/soon.txt
serve 4
wait "$reader"
check "when it is back, the one who waited goes on" 0 $?
check "and the VM has not noticed" running "$(becomes running state p)"
check "it gets a disk from there" 0 "$(becomes 0 soon qmpctl disk add p nf:b.raw,id=more,format=raw)"
qmpctl kill local
qmpctl delete local --disks

# The kernel does not end a process that has locks there.
serve 0
check "killing a VM whose server is away says that it is pending" 6 "$(soon qmpctl kill p)"
cat /var/tmp/soon.txt
serve 4
check "and gone" stopped "$(becomes stopped state p)"
qmpctl delete p
qmpctl --root /var/tmp/other delete q
