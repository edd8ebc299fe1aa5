/*
 * The build id of an ELF file: what the linker says of its contents.
 */
#pragma once

#include <stddef.h>

#define VM_BUILD_ID_MAX 20

/* In hexadecimal; "-" where the file cannot be read, is no ELF file or has none. */
void vm_build_id(const char *path, char ret[2 * VM_BUILD_ID_MAX + 1]);
