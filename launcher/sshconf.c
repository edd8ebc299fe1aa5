#include "launcher/sshconf.h"
#include "proto/base.h"

#include <ctype.h>
#include <fcntl.h>
#include <glob.h>
#include <pwd.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>

enum { FILE_MAX_LEN = 1 << 20, DEPTH_MAX = 16 }; /* libssh includes 16 deep, too */

/* The next word of a line: quotes are taken off, and "Key=Value" is two. */
static bool next_word(const char **line, const char *end, char *word, size_t size)
{
	const char *p = *line;
	bool quoted;
	size_t n = 0;

	while (p < end && (isspace((unsigned char)*p) || *p == '='))
		p++;
	quoted = p < end && *p == '"';
	p += quoted;
	for (; p < end && (quoted ? *p != '"' : !isspace((unsigned char)*p) && *p != '='); p++)
		if (n < size - 1)
			word[n++] = *p;
	word[n] = '\0';
	*line = p + (quoted && p < end);
	return n > 0;
}

static bool line_runs(const char *line, const char *end, bool (*include)(void *, const char *), void *data)
{
	char word[1024];

	if (!next_word(&line, end, word, sizeof word))
		return false;
	if (strcasecmp(word, "include") == 0) {
		while (next_word(&line, end, word, sizeof word))
			if (include && include(data, word))
				return true;
		return false;
	}
	if (strcasecmp(word, "match") != 0)
		return false;
	while (next_word(&line, end, word, sizeof word))
		if (strcasecmp(word, "exec") == 0 || strcasecmp(word, "!exec") == 0)
			return true;
	return false;
}

bool vm_ssh_config_text_runs(const char *text, size_t len, bool (*include)(void *data, const char *pattern), void *data)
{
	const char *end = text + len;

	while (text < end) {
		const char *stop = memchr(text, '\n', (size_t)(end - text));
		if (line_runs(text, stop ? stop : end, include, data))
			return true;
		text = stop ? stop + 1 : end;
	}
	return false;
}

struct place {
	const char *folder; /* what relative names are relative to */
	int depth;
};

static bool file_runs(const char *path, const struct place *at);

static bool pattern_runs(void *data, const char *pattern)
{
	const struct place *at = data, below = {at->folder, at->depth + 1};
	_cleanup_free_ char *whole = *pattern == '/'  ? strdup(pattern)
				     : *pattern == '~' ? qmp_asprintf("%s/..%s", at->folder, pattern + 1)
						       : qmp_asprintf("%s/%s", at->folder, pattern);
	glob_t found = {0};
	bool runs = false;

	if (whole && glob(whole, 0, NULL, &found) == 0)
		for (size_t i = 0; i < found.gl_pathc && !runs; i++)
			runs = file_runs(found.gl_pathv[i], &below);
	globfree(&found);
	return runs;
}

/* One that cannot be read is none of QEMU's either. */
static bool file_runs(const char *path, const struct place *at)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || at->depth > DEPTH_MAX)
		return false;
	text = st.st_size <= FILE_MAX_LEN ? malloc((size_t)st.st_size + 1) : NULL;
	n = text ? read(fd, text, (size_t)st.st_size) : -1;
	return n < 0 || vm_ssh_config_text_runs(text, (size_t)n, pattern_runs, (void *)at);
}

bool vm_ssh_config_runs(const char *user)
{
	const struct passwd *pw = user ? getpwnam(user) : getpwuid(geteuid());
	_cleanup_free_ char *folder = pw ? qmp_asprintf("%s/.ssh", pw->pw_dir) : NULL;
	_cleanup_free_ char *own = folder ? qmp_asprintf("%s/config", folder) : NULL;

	return (own && file_runs(own, &(struct place){folder, 0})) ||
	       file_runs("/etc/ssh/ssh_config", &(struct place){"/etc/ssh", 0});
}
