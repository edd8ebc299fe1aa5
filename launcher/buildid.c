/*
 * Source: elf(5), and "Build ID" in the linker's manual: a note NT_GNU_BUILD_ID of the owner "GNU" in a segment PT_NOTE.
 * Only ELF files of 64 bits in the host's byte order, as the QEMU that runs here is. Every offset may lie.
 */
#include "launcher/buildid.h"
#include "proto/base.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>

#define SEGMENTS_MAX 64
#define NOTES_MAX    4096

static bool read_at(int fd, void *to, size_t size, uint64_t offset)
{
	return offset <= INT64_MAX - size && pread(fd, to, size, (off_t)offset) == (ssize_t)size;
}

static size_t padded(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

static bool find_in_notes(const unsigned char *notes, size_t size, char *ret)
{
	size_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		const unsigned char *name = notes + at + sizeof n;
		size_t left = size - at - sizeof n;

		memcpy(&n, notes + at, sizeof n);
		if (n.n_namesz > left || n.n_descsz > left || padded(n.n_namesz) + padded(n.n_descsz) > left)
			return false;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
			for (size_t i = 0; i < n.n_descsz && i < VM_BUILD_ID_MAX; i++)
				sprintf(ret + 2 * i, "%02x", name[padded(n.n_namesz) + i]);
			return n.n_descsz > 0;
		}
		at += sizeof n + padded(n.n_namesz) + padded(n.n_descsz);
	}
	return false;
}

static bool find_build_id(int fd, char *ret)
{
	Elf64_Ehdr e;

	if (!read_at(fd, &e, sizeof e, 0) || memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 ||
	    e.e_ident[EI_CLASS] != ELFCLASS64 || e.e_phentsize != sizeof(Elf64_Phdr))
		return false;
	for (size_t i = 0; i < e.e_phnum && i < SEGMENTS_MAX; i++) {
		unsigned char notes[NOTES_MAX];
		Elf64_Phdr p;
		if (e.e_phoff > INT64_MAX || !read_at(fd, &p, sizeof p, e.e_phoff + i * sizeof p))
			return false;
		if (p.p_type == PT_NOTE && p.p_filesz <= sizeof notes && read_at(fd, notes, p.p_filesz, p.p_offset) &&
		    find_in_notes(notes, p.p_filesz, ret))
			return true;
	}
	return false;
}

void vm_build_id(const char *path, char ret[2 * VM_BUILD_ID_MAX + 1])
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || !find_build_id(fd, ret))
		strcpy(ret, "-");
}
