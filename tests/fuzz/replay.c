/*
 * Runs a harness on files and on all files in folders: fuzz_NAME FILE|FOLDER... For builds without libFuzzer.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static size_t replay_file(int dir, const char *name)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *data = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !(data = malloc((size_t)st.st_size + 1)) ||
	    (n = read(fd, data, (size_t)st.st_size)) != st.st_size) {
		fprintf(stderr, "%s: cannot be read\n", name);
		exit(2);
	}
	fprintf(stderr, "-- %s\n", name);
	LLVMFuzzerTestOneInput((uint8_t *)data, (size_t)n);
	return 1;
}

static size_t replay_folder(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = opendir(path);
	const struct dirent *e;
	size_t n = 0;

	if (fd < 0 || !dir) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(2);
	}
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			n += replay_file(fd, e->d_name);
	closedir(dir);
	return n;
}

int main(int argc, char **argv)
{
	size_t n = 0;

	for (int i = 1; i < argc; i++) {
		struct stat st;
		if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode))
			n += replay_folder(argv[i]);
		else
			n += replay_file(AT_FDCWD, argv[i]);
	}
	fprintf(stderr, "%zu inputs\n", n);
	return n > 0 ? 0 : 2;
}
