#include "launcher/secret.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- Whose file it is ---- */

static bool is_trusted(uid_t owner)
{
	return owner == 0 || owner == geteuid();
}

static int refuse_owner(const char *path, const char *what, uid_t owner, struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_USAGE, -EACCES,
			     "the secret %s: %s the user %ld, who is neither root nor who runs qmpctl (%ld), so it is not read; make "
			     "it yours (chown), or name a file of yours",
			     path, what, (long)owner, (long)geteuid());
}

/* FD is what PATH leads to. */
static int check_file(const char *path, int fd, struct qmp_error *err)
{
	struct stat link, st;

	if (lstat(path, &link) < 0 || fstat(fd, &st) < 0)
		return qmp_error_errno(err, -errno, "reading the secret %s", path);
	if (S_ISLNK(link.st_mode) && !is_trusted(link.st_uid))
		return refuse_owner(path, "it is a symlink of", link.st_uid, err);
	if (!S_ISREG(st.st_mode))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the secret %s: it is no regular file; name a file that holds it, of mode 0600", path);
	if (!is_trusted(st.st_uid))
		return refuse_owner(path, "it belongs to", st.st_uid, err);
	if (st.st_mode & 077)
		return qmp_error_set(err, QMP_ERR_USAGE, -EACCES,
				     "the secret %s: its mode is %04o, so that others than its owner may use it; chmod 600 %s", path,
				     (unsigned)(st.st_mode & 07777), path);
	return 0;
}

/* ---- What it holds ---- */

/* QEMU takes a passphrase as text. Well-formed UTF-8 without a NUL: RFC 3629, section 4. */
static bool is_text(const unsigned char *p, size_t n)
{
	while (n > 0) {
		size_t more = *p < 0x80 ? 0 : *p >= 0xc2 && *p <= 0xdf ? 1 : (*p & 0xf0) == 0xe0 ? 2 : *p >= 0xf0 && *p <= 0xf4 ? 3 : 4;
		if (*p == 0 || more > 3 || more >= n)
			return false;
		if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
		    (*p == 0xf4 && p[1] > 0x8f))
			return false;
		for (size_t i = 1; i <= more; i++)
			if ((p[i] & 0xc0) != 0x80)
				return false;
		p += more + 1;
		n -= more + 1;
	}
	return true;
}

/* N bytes, or as many as there are. */
static ssize_t read_all(int fd, unsigned char *to, size_t n)
{
	size_t got = 0;

	while (got < n) {
		ssize_t k = read(fd, to + got, n - got);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		if (k == 0)
			break;
		got += (size_t)k;
	}
	return (ssize_t)got;
}

/* QEMU may be another user's: its mode is the kernel's 0777, and only who has it as an fd can name it. */
static int to_memory(const unsigned char *data, size_t n, int *ret)
{
	_cleanup_fd_ int fd = memfd_create("secret", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size_t put = 0;

	while (fd >= 0 && put < n) {
		ssize_t k = write(fd, data + put, n - put);
		if (k < 0 && errno != EINTR)
			return -errno;
		put += k > 0 ? (size_t)k : 0;
	}
	if (fd < 0 || lseek(fd, 0, SEEK_SET) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		return -errno;
	*ret = take_fd(&fd);
	return 0;
}

static int judge(const unsigned char *data, size_t n, const char *name, struct qmp_error *err)
{
	if (n > VM_SECRET_MAX)
		return qmp_error_set(err, QMP_ERR_USAGE, -E2BIG, "the secret %s: it is longer than %zu bytes, and so no secret", name,
				     VM_SECRET_MAX);
	if (n == 0)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "the secret %s: it is empty", name);
	if (!is_text(data, n))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the secret %s: it holds a NUL or is not UTF-8, and QEMU takes text alone; keep random bytes as "
				     "text (head -c 32 /dev/urandom | base64 -w 0)",
				     name);
	return 0;
}

int vm_secret_read(int fd, const char *name, bool line, int *ret_fd, struct qmp_error *err)
{
	unsigned char *data = malloc(VM_SECRET_MAX + 1);
	ssize_t n = data ? read_all(fd, data, VM_SECRET_MAX + 1) : -ENOMEM;
	int r = n < 0 ? qmp_error_errno(err, (int)n, "reading the secret %s", name) : 0;

	if (r == 0 && line && n > 0 && data[n - 1] == '\n')
		n--;
	if (r == 0 && line && n > 0 && data[n - 1] == '\r')
		n--;
	if (r == 0)
		r = judge(data, (size_t)n, name, err);
	if (r == 0) {
		r = to_memory(data, (size_t)n, ret_fd);
		if (r < 0)
			qmp_error_errno(err, r, "passing on the secret %s", name);
	}
	if (data)
		explicit_bzero(data, VM_SECRET_MAX + 1);
	free(data);
	return r;
}

int vm_secret_open(const char *path, bool line, int *ret_fd, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int r;

	if (fd < 0)
		return qmp_error_errno(err, -errno, "reading the secret %s", path);
	r = check_file(path, fd, err);
	return r < 0 ? r : vm_secret_read(fd, path, line, ret_fd, err);
}

int vm_secret_check(const char *path, struct qmp_error *err)
{
	_cleanup_fd_ int fd = -1;

	return vm_secret_open(path, false, &fd, err);
}
