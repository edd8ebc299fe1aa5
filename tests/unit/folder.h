/*
 * Files of a test, in a folder that it made.
 */
#pragma once

#include "tests/unit/check.h"

#include <fcntl.h>
#include <unistd.h>

/* FOLDER/NAME, until it was called eight times more. */
static inline const char *path_in(const char *folder, const char *name)
{
	static char path[8][256];
	static unsigned i;

	i = (i + 1) % 8;
	snprintf(path[i], sizeof path[i], "%s/%s", folder, name);
	return path[i];
}

/* The path of a file of N bytes of DATA there. */
static inline const char *file_in(const char *folder, const char *name, const void *data, size_t n)
{
	const char *path = path_in(folder, name);
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0640);

	CHECK(fd >= 0);
	CHECK_INT(write(fd, data, n), n);
	(void)close(fd);
	return path;
}
