/*
 * Whether what has come from elsewhere is an image that may be kept: not empty, no page of HTML, no archive, and none that
 * would have QEMU open another file.
 */
#pragma once

#include "proto/qmp.h"

struct img_vetted {
	char format[16];       /* as its header says (header.h); "raw" where it says nothing */
	uint64_t size;         /* bytes of the file */
	uint64_t virtual_size; /* bytes; that of the file where the format does not say */
};

/* FD: of the whole file. SHOWN: its source, for messages. -EBADMSG: it is none. */
int img_vet(int fd, const char *shown, struct img_vetted *ret, struct qmp_error *err);
