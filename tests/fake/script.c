#include "tests/fake/script.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME    "fake-qemu"
#define ANSWERS_NAME "fake-answers"

enum kind { FLAG, LONG, INT, TEXT };

static const struct {
	const char *name;
	enum kind kind;
	size_t offset;
} words[] = {
	{"exit-after", LONG, offsetof(struct script, exit_after)},
	{"exit-at", TEXT, offsetof(struct script, exit_at)},
	{"exit-status", INT, offsetof(struct script, exit_status)},
	{"signal", INT, offsetof(struct script, signal)},
	{"stderr", TEXT, offsetof(struct script, stderr_text)},
	{"no-listen", FLAG, offsetof(struct script, no_listen)},
	{"silent", TEXT, offsetof(struct script, silent)},
	{"slow", LONG, offsetof(struct script, slow)},
	{"garbage", TEXT, offsetof(struct script, garbage)},
	{"wrong-id", TEXT, offsetof(struct script, wrong_id)},
	{"refuse", TEXT, offsetof(struct script, refuse)},
	{"close", TEXT, offsetof(struct script, close)},
	{"flood", LONG, offsetof(struct script, flood)},
	{"events", LONG, offsetof(struct script, events)},
	{"cut", LONG, offsetof(struct script, cut)},
	{"trickle", LONG, offsetof(struct script, trickle)},
	{"no-unplug", FLAG, offsetof(struct script, no_unplug)},
	{"no-powerdown", FLAG, offsetof(struct script, no_powerdown)},
	{"hang-at-end", FLAG, offsetof(struct script, hang_at_end)},
	{"no-quit", FLAG, offsetof(struct script, no_quit)},
	{"talks", FLAG, offsetof(struct script, talks)},
	{"count", FLAG, offsetof(struct script, count)},
	{"probe", FLAG, offsetof(struct script, probe)},
};

static _Noreturn void refuse(const char *word)
{
	fprintf(stderr, "fake_qemu: script: \"%s\" is unknown; script.h lists the words\n", word);
	exit(64);
}

static void take_word(struct script *s, char *word)
{
	char *value = strchr(word, '=');
	void *place;
	size_t i;

	if (value)
		*value++ = '\0';
	for (i = 0; i < sizeof words / sizeof *words && strcmp(words[i].name, word) != 0; i++)
		;
	if (i == sizeof words / sizeof *words || (words[i].kind == FLAG) != (value == NULL))
		refuse(word);
	place = (char *)s + words[i].offset;
	if (words[i].kind == FLAG)
		*(bool *)place = true;
	else if (words[i].kind == LONG)
		*(long *)place = strtol(value, NULL, 10);
	else if (words[i].kind == INT)
		*(int *)place = (int)strtol(value, NULL, 10);
	else
		*(const char **)place = value;
}

/* TEXT is kept: the script points into it. */
static void take_words(struct script *s, char *text)
{
	for (char *save = NULL, *w = strtok_r(text, " \t\n", &save); w; w = strtok_r(NULL, " \t\n", &save))
		take_word(s, w);
}

static char *read_file(void)
{
	char *text = calloc(1, 4096);
	int fd = open(FILE_NAME, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && text && read(fd, text, 4095) < 0)
		text[0] = '\0';
	if (fd >= 0)
		(void)close(fd);
	return text;
}

struct script script_of_nobody(void)
{
	return (struct script){.exit_after = -1, .slow = -1, .flood = -1, .events = -1, .cut = -1, .trickle = -1, .exit_status = 1,
			       .exit_at = "", .silent = "", .garbage = "", .wrong_id = "", .refuse = "", .close = ""};
}

void script_read(struct script *s)
{
	const char *environment = getenv("FAKE_QEMU"), *answers = getenv("FAKE_ANSWERS");
	char *text = environment ? strdup(environment) : NULL, *file = read_file();

	*s = script_of_nobody();
	s->answers = json_load_file(answers ? answers : ANSWERS_NAME, JSON_ALLOW_NUL, NULL);
	if (text)
		take_words(s, text);
	if (file)
		take_words(s, file);
}

bool script_has(const char *list, const char *command)
{
	size_t len = strlen(command);

	for (const char *p = list; (p = strstr(p, command)); p += len)
		if ((p == list || p[-1] == ',') && (p[len] == ',' || p[len] == '\0'))
			return true;
	return false;
}

const json_t *script_answer(struct script *s, const char *command)
{
	json_t *list = json_object_get(s->answers, command), *answer = json_array_get(list, 0);

	if (json_array_size(list) > 1) {
		/* It stays referenced, as long as we live. */
		json_incref(answer);
		json_array_remove(list, 0);
	}
	return json_is_null(answer) ? NULL : answer;
}

_Noreturn void script_end(const struct script *s)
{
	for (const char *p = s->stderr_text; p && *p; p++)
		fputc(*p == '_' ? ' ' : *p, stderr);
	if (s->stderr_text)
		fputc('\n', stderr);
	if (s->signal) {
		(void)signal(s->signal, SIG_DFL);
		(void)raise(s->signal);
	}
	exit(s->exit_status);
}
