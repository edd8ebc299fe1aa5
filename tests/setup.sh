#!/bin/bash
# setup.sh [--build-only | --tests | --debian | --secure-boot | --qemu10]:
# What a Debian 12 machine needs, installed where it is missing.
#
#   (nothing)     what building and running qmpctl needs
#   --build-only  what building needs
#   --tests       what the tests and the test guests need as well
#   --debian      what tests/guest/debian.sh needs as well
#   --secure-boot boot loaders with a signature that Secure Boot takes, unpacked into build/guest and not installed
#   --qemu10      a second QEMU (10.0, from backports), unpacked under build/qemu10 and not installed;
#                 prints the path of its qemu-system-x86_64
#
# Asks dpkg first: where nothing is missing it does nothing, and takes no root. QMPCTL_BUILD names another
# folder than build/.
set -euo pipefail

TOP=$(cd "$(dirname "$0")/.." && pwd)
BUILD=${QMPCTL_BUILD:-$TOP/build}

# Every program that a build or a run needs comes from one of these.
BUILD_PACKAGES=(gcc libc6-dev binutils cmake ninja-build pkg-config libuv1-dev libjansson-dev
	libcurl4-openssl-dev libssl-dev liblzma-dev libzstd-dev zlib1g-dev libbz2-dev)
RUN_PACKAGES=(qemu-system-x86 qemu-utils xorriso)
TEST_PACKAGES=(qemu-guest-agent busybox-static linux-image-cloud-amd64 cpio kmod python3 python3-jsonschema iproute2
	qemu-block-extra openssl zstd ovmf openssh-server openssh-client tgt mtools osinfo-db
	btrfs-progs e2fsprogs xfsprogs
	clang-14 libclang-rt-14-dev clang g++ systemd groff-base zsh fish)
CEPH_PACKAGES=(ceph-mon ceph-osd ceph-common)
DEBIAN_PACKAGES=(mmdebstrap e2fsprogs)
# Only looked into: installing them is about how this machine itself boots.
SIGNED_PACKAGES=(shim-signed grub-efi-amd64-signed)
SIGNED_FILES=(usr/lib/shim/shimx64.efi.signed usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed)
QEMU10_PACKAGES=(qemu-system-x86 qemu-system-common qemu-system-data qemu-utils qemu-block-extra seabios)

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "needs root for: $*"
	fi
}

# Names the packages among the arguments that are not installed, one a line. One dpkg-query for all of them:
# it fails when it does not know one, and still prints the others.
missing() {
	local installed p
	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p') || :
	for p in "$@"; do
		grep -qxF "$p" <<<"$installed" || echo "$p"
	done
}

install_missing() {
	local want
	mapfile -t want < <(missing "$@")
	[ ${#want[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "missing, and there is no apt-get here to install it: ${want[*]}"
	say "installing ${want[*]}"
	local install=(apt-get install -y -qq --no-install-recommends "${want[@]}") env=(env DEBIAN_FRONTEND=noninteractive)
	# The lists may not be there, or be too old to fetch by: then once more, with new ones.
	if ! "${install[@]}" --simulate >/dev/null 2>&1 || ! as_root "${env[@]}" "${install[@]}" >/dev/null; then
		as_root apt-get update -qq
		as_root "${env[@]}" "${install[@]}" >/dev/null
	fi
}

# build/guest/shimx64.efi.signed and grubx64.efi.signed. The lists may not be there, or be too old to fetch by.
fetch_signed() {
	local dir=$BUILD/guest deb file
	[ ! -e "$dir/grubx64.efi.signed" ] || return 0
	mkdir -p "$dir/signed"
	local download=(apt-get -o APT::Sandbox::User=root download -qq "${SIGNED_PACKAGES[@]}")
	(cd "$dir/signed" && { "${download[@]}" 2>/dev/null || { as_root apt-get update -qq && "${download[@]}"; }; }) >&2
	for deb in "$dir"/signed/*.deb; do
		dpkg-deb -x "$deb" "$dir/signed"
	done
	for file in "${SIGNED_FILES[@]}"; do
		mv "$dir/signed/$file" "$dir/"
	done
	rm -rf "$dir/signed"
}

# NAME [ARGUMENTS]: build/qemu10/NAME, which runs the one of the unpacked packages.
wrap10() {
	local dir=$BUILD/qemu10
	cat >"$dir/$1.new" <<-EOF
		#!/bin/sh
		# QEMU 10 out of its unpacked packages.
		QEMU_MODULE_DIR=$dir/root/usr/lib/x86_64-linux-gnu/qemu
		export QEMU_MODULE_DIR
		exec $dir/root/usr/bin/$1 ${2-} "\$@"
	EOF
	chmod +x "$dir/$1.new"
	"$dir/$1.new" --version >&2 || die "the unpacked $1 of QEMU 10 does not run"
	mv "$dir/$1.new" "$dir/$1"
}

# QEMU 10.0 beside the installed one. Its libraries are those that the installed QEMU depends on.
fetch_qemu10() {
	local dir=$BUILD/qemu10 wrapper=$BUILD/qemu10/qemu-system-x86_64
	if [ -x "$wrapper" ] && "$wrapper" --version >/dev/null 2>&1; then
		[ -x "$dir/qemu-img" ] || wrap10 qemu-img
		echo "$wrapper"
		return
	fi
	install_missing "${RUN_PACKAGES[@]}" dpkg
	local apt=$dir/apt mirror
	rm -rf "$dir"
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$dir/deb" "$dir/root"
	# The mirror is the one that this machine takes bookworm from.
	mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
		awk '$2 == "bookworm" {print $1; exit}')
	[ -n "$mirror" ] || die "no apt source for bookworm here: QEMU 10 comes from its backports"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm-backports main" >"$apt/sources.list"
	local private=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
		-o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
	apt-get "${private[@]}" update -qq >&2
	(cd "$dir/deb" && apt-get "${private[@]}" download -qq "${QEMU10_PACKAGES[@]}" >&2)
	local deb
	for deb in "$dir"/deb/*.deb; do
		dpkg-deb -x "$deb" "$dir/root"
	done
	rm -rf "$dir/deb" "$apt"
	wrap10 qemu-img
	wrap10 qemu-system-x86_64 "-L $dir/root/usr/share/qemu -L $dir/root/usr/share/seabios -L /usr/lib/ipxe/qemu"
	echo "$wrapper"
}

case ${1-} in
'') install_missing "${BUILD_PACKAGES[@]}" "${RUN_PACKAGES[@]}" ;;
--build-only) install_missing "${BUILD_PACKAGES[@]}" ;;
--tests) install_missing "${BUILD_PACKAGES[@]}" "${RUN_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${CEPH_PACKAGES[@]}" ;;
--debian) install_missing "${BUILD_PACKAGES[@]}" "${RUN_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${CEPH_PACKAGES[@]}" "${DEBIAN_PACKAGES[@]}" ;;
--secure-boot) fetch_signed ;;
--qemu10) fetch_qemu10 ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
