#include "launcher/spec-table.h"

#include <stddef.h>

#define CHOICES(...) ((const char *const[]){__VA_ARGS__, NULL})

static const struct vm_field machine_fields[] = {
	{"type", VM_T_MACHINE, "q35, pc, or a versioned name such as pc-q35-7.2", .default_json = "\"q35\""},
	{"ports", VM_T_INT, "PCI ports for disks and NICs, hot-plugged ones included", .default_json = "16",
	 .min = 1, .max = 64},
	{0},
};

static const struct vm_field cpu_fields[] = {
	{"model", VM_T_STRING, "auto, or a model as QEMU's -cpu takes it", .default_json = "\"auto\""},
	{"hyperv", VM_T_BOOL, "what a Windows guest heeds of Hyper-V, as far as the host's KVM has it", .default_json = "false"},
	{"count", VM_T_INT, "vCPUs", .default_json = "1", .min = 1, .max = 512},
	{"sockets", VM_T_INT, "sockets; with cores and threads it must make up count", .min = 1, .max = 512},
	{"cores", VM_T_INT, "cores in a socket", .min = 1, .max = 512},
	{"threads", VM_T_INT, "threads in a core", .min = 1, .max = 512},
	{0},
};

static const struct vm_field boot_fields[] = {
	{"order", VM_T_STRINGS, "what the firmware tries, in order", .choices = CHOICES("disk", "cdrom", "network")},
	{"menu", VM_T_BOOL, "show the firmware's boot menu", .default_json = "false"},
	{"kernel", VM_T_PATH, "a kernel that QEMU loads itself"},
	{"initrd", VM_T_PATH, "its initial RAM disk"},
	{"cmdline", VM_T_STRING, "its command line"},
	{0},
};

static const struct vm_field firmware_fields[] = {
	{"type", VM_T_CHOICE, "the firmware's kind", .default_json = "\"bios\"", .choices = CHOICES("bios", "uefi")},
	{"path", VM_T_PATH, "another file than QEMU's own, or (uefi) than what the host's packages describe"},
	{"vars-template", VM_T_PATH, "uefi: what the VM's variables begin as; goes with path"},
	{"secure-boot", VM_T_BOOL, "uefi: with Secure Boot, and the usual keys enrolled", .default_json = "false"},
	{0},
};

/* QEMU's own (util/throttle.c, THROTTLE_VALUE_MAX). */
#define LIMIT_MAX 1000000000000000

static const struct vm_field throttle_fields[] = {
	{"bps-total", VM_T_INT, "bytes a second", .min = 1, .max = LIMIT_MAX},
	{"bps-read", VM_T_INT, "bytes a second", .min = 1, .max = LIMIT_MAX},
	{"bps-write", VM_T_INT, "bytes a second", .min = 1, .max = LIMIT_MAX},
	{"iops-total", VM_T_INT, "operations a second", .min = 1, .max = LIMIT_MAX},
	{"iops-read", VM_T_INT, "operations a second", .min = 1, .max = LIMIT_MAX},
	{"iops-write", VM_T_INT, "operations a second", .min = 1, .max = LIMIT_MAX},
	{"bps-total-max", VM_T_INT, "bytes a second in a burst", .min = 1, .max = LIMIT_MAX},
	{"bps-read-max", VM_T_INT, "bytes a second in a burst", .min = 1, .max = LIMIT_MAX},
	{"bps-write-max", VM_T_INT, "bytes a second in a burst", .min = 1, .max = LIMIT_MAX},
	{"iops-total-max", VM_T_INT, "operations a second in a burst", .min = 1, .max = LIMIT_MAX},
	{"iops-read-max", VM_T_INT, "operations a second in a burst", .min = 1, .max = LIMIT_MAX},
	{"iops-write-max", VM_T_INT, "operations a second in a burst", .min = 1, .max = LIMIT_MAX},
	{0},
};

static const struct vm_field encryption_fields[] = {
	{"key-file", VM_T_PATH,
	 "the file that holds the passphrase, byte for byte (a line's end counts, as for qemu-img and cryptsetup); only its owner, "
	 "you or root, may read it",
	 .required = 1},
	{0},
};

#define FORMATS CHOICES("raw", "qcow2", "luks", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels")

static const struct vm_field tls_fields[] = {
	{"dir", VM_T_PATH,
	 "the directory with ca-cert.pem and, where the server wants to know who comes, client-cert.pem and client-key.pem; or with "
	 "keys.psk",
	 .required = 1},
	{"type", VM_T_CHOICE, "certificates, or a key that both sides have", .default_json = "\"x509\"",
	 .choices = CHOICES("x509", "psk")},
	{"hostname", VM_T_STRING, "x509: the name that the server's certificate is for, where it is not the URL's host"},
	{"username", VM_T_STRING, "psk: which key of keys.psk; QEMU's own default is qemu"},
	{0},
};

static const struct vm_field backing_fields[] = {
	{"path", VM_T_LOCATION, "the backing image", .required = 1},
	{"format", VM_T_CHOICE, "its format", .choices = FORMATS, .required = 1},
	{"tls", VM_T_OBJECT, "NBD: the connection is encrypted, and the server has to show who it is", .fields = tls_fields},
	{"password-file", VM_T_PATH,
	 "iSCSI: the file that holds the user's password (CHAP); rbd: the user's key; only its owner, you or root, may read it"},
	{"encryption", VM_T_OBJECT, "how it is encrypted", .fields = encryption_fields},
	{"backing", VM_T_OBJECT, "what it is backed by itself", .recursive = 1},
	{0},
};

static const struct vm_field disk_qemu_fields[] = {
	{"file", VM_T_RAW, "merged into the protocol node"},
	{"format", VM_T_RAW, "merged into the format node"},
	{"throttle", VM_T_RAW, "merged into the throttle node"},
	{"device", VM_T_RAW, "merged into the device"},
	{0},
};

static const struct vm_field disk_fields[] = {
	{"id", VM_T_ID, "its name in QEMU and in the verbs: vda, ..."},
	{"type", VM_T_CHOICE, "what the guest sees", .default_json = "\"disk\"", .choices = CHOICES("disk", "cdrom")},
	{"path", VM_T_LOCATION, "the image or block device; a CD-ROM without it is an empty drive"},
	{"format", VM_T_CHOICE, "the image's format: never guessed by QEMU", .choices = FORMATS},
	{"tls", VM_T_OBJECT, "NBD: the connection is encrypted, and the server has to show who it is", .fields = tls_fields},
	{"password-file", VM_T_PATH,
	 "iSCSI: the file that holds the user's password (CHAP); rbd: the user's key; only its owner, you or root, may read it"},
	{"backing", VM_T_OBJECT, "the backing chain, named in full", .fields = backing_fields},
	{"encryption", VM_T_OBJECT, "of an image that is encrypted with LUKS: format luks, or qcow2 made so",
	 .fields = encryption_fields},
	{"bus", VM_T_CHOICE, "how the guest reaches it", .default_json = "\"virtio\"",
	 .choices = CHOICES("virtio", "scsi", "sata", "ide", "nvme")},
	{"cache", VM_T_CHOICE, "host cache mode", .default_json = "\"writeback\"",
	 .choices = CHOICES("none", "writeback", "writethrough", "directsync", "unsafe")},
	{"aio", VM_T_CHOICE, "host I/O interface, for files", .default_json = "\"threads\"",
	 .choices = CHOICES("threads", "native", "io_uring")},
	{"discard", VM_T_CHOICE, "what a guest's discard does", .default_json = "\"unmap\"",
	 .choices = CHOICES("unmap", "ignore")},
	{"detect-zeroes", VM_T_CHOICE, "turn written zeroes into holes", .default_json = "\"off\"",
	 .choices = CHOICES("off", "on", "unmap")},
	{"read-only", VM_T_BOOL, "the guest cannot write; a CD-ROM always is", .default_json = "false"},
	{"serial", VM_T_STRING, "serial number that the guest reads"},
	{"iothread", VM_T_BOOL, "an I/O thread of its own (virtio)", .default_json = "false"},
	{"throttle", VM_T_OBJECT, "I/O limits", .fields = throttle_fields},
	{"boot-index", VM_T_INT, "place in the firmware's boot order", .min = 0, .max = 1000},
	{"port", VM_T_INT, "PCI port; chosen once and kept", .min = 1, .max = 64},
	{"qemu", VM_T_OBJECT, "raw QAPI members", .fields = disk_qemu_fields},
	{0},
};

static const struct vm_field forward_fields[] = {
	{"protocol", VM_T_CHOICE, "tcp or udp", .default_json = "\"tcp\"", .choices = CHOICES("tcp", "udp")},
	{"host-address", VM_T_STRING, "where the host listens", .default_json = "\"127.0.0.1\""},
	{"host-port", VM_T_INT, "port on the host", .min = 1, .max = 65535, .required = 1},
	{"guest-port", VM_T_INT, "port in the guest", .min = 1, .max = 65535, .required = 1},
	{0},
};

static const struct vm_field nic_qemu_fields[] = {
	{"netdev", VM_T_RAW, "merged into the netdev"},
	{"device", VM_T_RAW, "merged into the device"},
	{0},
};

static const struct vm_field nic_fields[] = {
	{"id", VM_T_ID, "its name in QEMU and in the verbs: net0, ..."},
	{"model", VM_T_CHOICE, "the card", .default_json = "\"virtio\"", .choices = CHOICES("virtio", "e1000e", "e1000", "rtl8139")},
	{"mac", VM_T_MAC, "made once and kept, in 52:54:00:..."},
	{"backend", VM_T_CHOICE, "what it is connected to", .default_json = "\"user\"",
	 .choices = CHOICES("user", "tap", "bridge", "stream", "dgram", "none")},
	{"forwards", VM_T_LIST, "user: ports of the host that lead into the guest", .fields = forward_fields},
	{"restrict", VM_T_BOOL, "user: the guest reaches nothing outside", .default_json = "false"},
	{"hostname", VM_T_STRING, "user: the name that the guest is given by DHCP"},
	{"net", VM_T_STRING, "user: the guest's IPv4 network, as in 10.0.2.0/24"},
	{"interface", VM_T_STRING, "tap: the interface's name"},
	{"bridge", VM_T_STRING, "bridge: its name; QEMU's bridge helper makes the tap"},
	{"socket", VM_T_PATH, "stream: the UNIX socket"},
	{"server", VM_T_BOOL, "stream: listen there instead of connecting", .default_json = "false"},
	{"local", VM_T_PATH, "dgram: the UNIX socket of this end"},
	{"remote", VM_T_PATH, "dgram: the UNIX socket of the other end"},
	{"boot-index", VM_T_INT, "place in the firmware's boot order", .min = 0, .max = 1000},
	{"port", VM_T_INT, "PCI port; chosen once and kept", .min = 1, .max = 64},
	{"qemu", VM_T_OBJECT, "raw QAPI members", .fields = nic_qemu_fields},
	{0},
};

static const struct vm_field console_fields[] = {
	{"id", VM_T_ID, "its name: con0, ..."},
	{"type", VM_T_CHOICE, "serial port or virtio console", .default_json = "\"serial\"",
	 .choices = CHOICES("serial", "virtio")},
	{0},
};

static const struct vm_field display_fields[] = {
	{"type", VM_T_CHOICE, "none, or VNC on the UNIX socket vnc.sock in the VM's run directory",
	 .default_json = "\"none\"", .choices = CHOICES("none", "vnc")},
	{"password-file", VM_T_PATH,
	 "vnc: the file that holds the password, of which VNC counts 8 characters; only its owner, you or root, may read it"},
	{0},
};

static const struct vm_field limits_io_fields[] = {
	{"bps-read", VM_T_INT, "bytes a second", .min = 1, .max = LIMIT_MAX},
	{"bps-write", VM_T_INT, "bytes a second", .min = 1, .max = LIMIT_MAX},
	{"iops-read", VM_T_INT, "operations a second", .min = 1, .max = UINT32_MAX},
	{"iops-write", VM_T_INT, "operations a second", .min = 1, .max = UINT32_MAX},
	{0},
};

static const struct vm_field limits_fields[] = {
	{"cpu", VM_T_INT, "percent of one processor: 150 is one and a half", .min = 1, .max = 100000},
	{"memory", VM_T_SIZE, "RAM of the whole process: at its end the kernel ends QEMU", .min = 1 << 20, .max = (int64_t)1 << 44},
	{"pids", VM_T_INT, "threads; QEMU ends where it needs one more", .min = 100, .max = 4194304},
	{"io", VM_T_OBJECT, "of each disk of the host that an image stands on", .fields = limits_io_fields},
	{0},
};

static const struct vm_field restart_fields[] = {
	{"policy", VM_T_CHOICE, "when a VM that ended by itself is started again", .default_json = "\"never\"",
	 .choices = CHOICES("never", "on-failure", "always")},
	{"delay", VM_T_INT, "seconds before the first start; doubled for each in a row", .default_json = "1", .min = 0,
	 .max = 86400},
	{"max-delay", VM_T_INT, "seconds that the delay grows to", .default_json = "60", .min = 0, .max = 86400},
	{"limit", VM_T_INT, "starts in a row before it gives up; 0: none", .default_json = "10", .min = 0, .max = 1000000},
	{"healthy-after", VM_T_INT, "seconds after which a VM counts as well again", .default_json = "60", .min = 1,
	 .max = 86400},
	{0},
};

static const struct vm_field seed_fields[] = {
	{"user", VM_T_STRING, "an account that may sudo, in the place of the image's own"},
	{"ssh-keys", VM_T_STRINGS, "public keys that may log in, each as in a .pub file"},
	{"password-hash-file", VM_T_PATH, "a file with the hash of the account's password, as mkpasswd prints it"},
	{"hostname", VM_T_STRING, "the guest's name; the VM's unless given"},
	{"packages", VM_T_STRINGS, "packages of the distribution to install"},
	{"run", VM_T_STRINGS, "shell commands, run by root at the end of the first boot"},
	{"user-data", VM_T_PATH, "a file in the place of all of these"},
	{"meta-data", VM_T_PATH, "a file in the place of the instance-id and the hostname"},
	{"vendor-data", VM_T_PATH, "a file with vendor-data"},
	{"network-config", VM_T_PATH, "a file with the network's configuration"},
	{"instance-id", VM_T_STRING, "made once and kept; with another one the guest takes its next boot for its first"},
	{"url", VM_T_STRING, "where cloud-init fetches it all (NoCloud, told by SMBIOS), as in http://10.0.2.2:8000/"},
	{"ignition", VM_T_PATH, "a configuration for Ignition (fw_cfg), for guests that have it in the place of cloud-init"},
	{0},
};

static const struct vm_field watchdog_fields[] = {
	{"model", VM_T_CHOICE, "the device", .default_json = "\"i6300esb\"", .choices = CHOICES("i6300esb")},
	{"action", VM_T_CHOICE, "when it fires", .default_json = "\"reset\"",
	 .choices = CHOICES("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi")},
	{0},
};

const struct vm_field vm_spec_fields[] = {
	{"name", VM_T_NAME, "the VM's name", .required = 1},
	{"description", VM_T_STRING, "for people"},
	{"uuid", VM_T_UUID, "made once and kept"},
	{"qemu-binary", VM_T_PATH, "another QEMU than the one in PATH"},
	{"machine", VM_T_OBJECT, "the machine", .default_json = "{}", .fields = machine_fields},
	{"accel", VM_T_CHOICE, "auto takes kvm where /dev/kvm opens, else tcg", .default_json = "\"auto\"",
	 .choices = CHOICES("auto", "kvm", "tcg")},
	{"cpu", VM_T_OBJECT, "the processors", .default_json = "{}", .fields = cpu_fields},
	{"clock", VM_T_CHOICE, "what the guest's hardware clock shows", .default_json = "\"utc\"", .choices = CHOICES("utc", "localtime")},
	{"memory", VM_T_SIZE, "RAM", .default_json = "\"512M\"", .min = 1 << 20, .max = (int64_t)1 << 44},
	{"boot", VM_T_OBJECT, "what is booted", .default_json = "{}", .fields = boot_fields},
	{"firmware", VM_T_OBJECT, "the firmware", .default_json = "{}", .fields = firmware_fields},
	{"seed", VM_T_OBJECT, "what the guest is told at its first boot, for cloud-init or Ignition", .fields = seed_fields},
	{"disks", VM_T_LIST, "disks and CD-ROM drives", .default_json = "[]", .fields = disk_fields},
	{"nics", VM_T_LIST, "network cards", .default_json = "[]", .fields = nic_fields},
	{"consoles", VM_T_LIST, "text consoles", .default_json = "[{\"id\": \"con0\"}]", .fields = console_fields},
	{"rng", VM_T_BOOL, "a random number device", .default_json = "true"},
	{"balloon", VM_T_BOOL, "a memory balloon", .default_json = "true"},
	{"agent", VM_T_BOOL, "a channel for the guest agent", .default_json = "true"},
	{"display", VM_T_OBJECT, "the display", .default_json = "{}", .fields = display_fields},
	{"on-reboot", VM_T_CHOICE, "when the guest reboots", .default_json = "\"reset\"",
	 .choices = CHOICES("reset", "shutdown")},
	{"on-shutdown", VM_T_CHOICE, "when the guest powers off", .default_json = "\"poweroff\"",
	 .choices = CHOICES("poweroff", "pause")},
	{"on-panic", VM_T_CHOICE, "when the guest says that it panicked", .default_json = "\"shutdown\"",
	 .choices = CHOICES("pause", "shutdown", "exit-failure", "none")},
	{"panic-device", VM_T_BOOL, "an ISA pvpanic device, so that it can say so", .default_json = "true"},
	{"watchdog", VM_T_OBJECT, "a watchdog", .fields = watchdog_fields},
	{"user", VM_T_STRING, "the user that QEMU runs as, where qmpctl is root; it needs no rights on the images"},
	{"group", VM_T_STRING, "QEMU's main group; the user's own unless given"},
	{"observe-group", VM_T_STRING, "a group whose members may look at the VM through observe.sock"},
	{"sandbox", VM_T_BOOL, "QEMU's seccomp filter: it runs no program and wins no privilege", .default_json = "true"},
	{"limits", VM_T_OBJECT, "what QEMU may use of the host", .fields = limits_fields},
	{"restart", VM_T_OBJECT, "what the keeper does when the VM ends", .default_json = "{}", .fields = restart_fields},
	{"log-limit", VM_T_SIZE, "what all logs of the VM may take together: QEMU's words, the keeper's, and its consoles'", .default_json = "\"8M\"",
	 .min = 1 << 20, .max = (int64_t)1 << 44},
	{"scsi-port", VM_T_INT, "PCI port of the SCSI controller; chosen once and kept", .min = 1, .max = 64},
	{"args", VM_T_STRINGS, "raw arguments, at the end of QEMU's command line"},
	{0},
};
