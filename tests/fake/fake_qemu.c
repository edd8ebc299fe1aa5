/*
 * Stands in for qemu-system-x86_64: takes its command line, serves QMP on the listening socket that it inherits (or on
 * the connected one, where it is only asked what it can), and misbehaves as its script says (script.h). It has no guest
 * and emulates nothing, so a thousand of them fit on one machine.
 *
 * As QEMU it serves one client a socket, greets it, wants qmp_capabilities first, tells events once that is done, ends
 * with SHUTDOWN on SIGTERM and quit, and sends the reply to a client that has left to nobody. Unlike QEMU it waits for a
 * client that does not read.
 */
#include "tests/fake/machine.h"
#include "tests/fake/script.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHARDEVS_MAX 16
#define MESSAGE_MAX  (1 << 20)

struct chardev {
	char id[40];
	int listener; /* -1: it came connected */
	int conn;     /* -1: nobody */
};

static struct script script;
static struct machine machine;
static struct chardev chardevs[CHARDEVS_MAX];
static size_t n_chardevs;
static struct chardev *monitor;
static bool negotiated, silent;
static char *input;
static size_t input_len, input_size;
static struct timespec started;
static long sent_bytes, sent_events; /* cut: over the first connection; events: since the start */
static long events_from, events_before; /* events: when the monitor was negotiated, and how many had been sent then */
static bool was_cut;

/* ---- Out ---- */

static void hang_up(struct chardev *c)
{
	if (c->conn >= 0)
		(void)close(c->conn);
	c->conn = -1;
	if (c == monitor) {
		negotiated = false;
		input_len = 0;
	}
}

static long ms_since_start(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - started.tv_sec) * 1000 + (now.tv_nsec - started.tv_nsec) / 1000000;
}

static void nap(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* How many of LEN bytes may go at once. */
static size_t allowed(size_t len)
{
	if (script.trickle >= 0)
		nap(script.trickle), len = 1;
	if (script.cut >= 0 && !was_cut && (size_t)(script.cut - sent_bytes) < len)
		len = (size_t)(script.cut - sent_bytes);
	return len;
}

static void send_text(const char *text, size_t len)
{
	while (len > 0 && monitor->conn >= 0) {
		size_t now = allowed(len);
		ssize_t n = now > 0 ? send(monitor->conn, text, now, MSG_NOSIGNAL) : -1;
		was_cut |= now == 0;
		if (n > 0)
			sent_bytes += n;
		if (n < 0 && now > 0 && errno == EINTR)
			continue;
		if (n < 0) {
			hang_up(monitor);
			return;
		}
		text += n;
		len -= (size_t)n;
	}
}

static void send_consume(json_t *message)
{
	char *text = json_dumps(message, JSON_ENSURE_ASCII);
	size_t len = strlen(text);

	text = realloc(text, len + 3);
	memcpy(text + len, "\r\n", 3);
	send_text(text, len + 2);
	free(text);
	json_decref(message);
}

static void send_event(const char *name, json_t *data_consume)
{
	struct timespec now;
	json_t *event;

	clock_gettime(CLOCK_REALTIME, &now);
	event = json_pack("{s:{s:I, s:I}, s:s}", "timestamp", "seconds", (json_int_t)now.tv_sec, "microseconds",
			  (json_int_t)now.tv_nsec / 1000, "event", name);
	if (data_consume)
		json_object_set_new(event, "data", data_consume);
	if (negotiated)
		send_consume(event);
	else
		json_decref(event);
}

static void send_error(const char *class, const char *desc, json_t *id)
{
	send_consume(json_pack("{s:{s:s, s:s}, s:O*}", "error", "class", class, "desc", desc, "id", id));
}

/* TEXT as script.h has it: bytes, and $ID. */
static void send_bytes(const json_t *text, json_t *id)
{
	const char *p = json_string_value(text), *end = p + json_string_length(text);
	char *id_text = id ? json_dumps(id, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : strdup("null");
	char *bytes = malloc((size_t)(end - p) * (strlen(id_text) + 1) + 1);
	size_t n = 0;

	while (p < end) {
		unsigned char c = (unsigned char)*p++;
		if (c == '$' && end - p >= 2 && memcmp(p, "ID", 2) == 0) {
			memcpy(bytes + n, id_text, strlen(id_text));
			n += strlen(id_text);
			p += 2;
		} else if (c >= 0xc2 && c <= 0xc3 && p < end) {
			bytes[n++] = (char)((c & 3) << 6 | (*p++ & 0x3f));
		} else {
			bytes[n++] = (char)c;
		}
	}
	send_text(bytes, n);
	free(bytes);
	free(id_text);
}

static void send_without_end(void)
{
	static char block[1 << 16];

	memset(block, 'x', sizeof block);
	while (monitor->conn >= 0)
		send_text(block, sizeof block);
}

/* Whether the script has bytes of its own for this command: they are sent. */
static bool answers_by_script(const char *command, json_t *id)
{
	const json_t *answer = script_answer(&script, command), *say = json_object_get(answer, "say");
	const json_t *trickle = json_object_get(answer, "trickle");
	const char *then = json_string_value(json_object_get(answer, "then"));
	long usual = script.trickle;

	if (!answer)
		return false;
	if (trickle)
		script.trickle = (long)json_integer_value(trickle);
	if (json_string_length(say ? say : answer) > 0)
		send_bytes(say ? say : answer, id);
	script.trickle = usual;
	if (then && strcmp(then, "close") == 0)
		hang_up(monitor);
	else if (then && strcmp(then, "endless") == 0)
		send_without_end();
	else if (then)
		script_end(&script);
	return true;
}

static void greet(void)
{
	static const char greeting[] =
		"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, \"package\": \"fake_qemu\"}, "
		"\"capabilities\": [\"oob\"]}}\r\n";

	silent |= script_has(script.silent, "greeting");
	if (!silent && !answers_by_script("greeting", NULL))
		send_text(greeting, sizeof greeting - 1);
}

/* ---- In ---- */

static void negotiate(json_t *id)
{
	send_consume(json_pack("{s:{}, s:O*}", "return", "id", id));
	negotiated = true;
	events_from = ms_since_start();
	events_before = sent_events;
	for (long i = 0; i < script.flood; i++)
		send_event("RTC_CHANGE", json_pack("{s:I}", "offset", (json_int_t)i));
}

static void answer(const char *command, json_t *arguments, json_t *id)
{
	const char *class;
	char desc[200];
	json_t *value;

	if (script_has(script.refuse, command)) {
		send_error("GenericError", "refused, as the script says", id);
		return;
	}
	value = machine_run(&machine, command, arguments, &class, desc);
	if (script_has(script.wrong_id, command))
		send_consume(json_pack("{s:{s:s}, s:s}", "return", "for", "somebody else", "id", "1"));
	if (value)
		send_consume(json_pack("{s:o, s:O*}", "return", value, "id", id));
	else
		send_error(class, desc, id);
	if (machine.ends && !script.hang_at_end)
		exit(0);
	silent |= machine.ends;
	machine_settle(&machine);
}

/* What the script has for this command, before it is run. True: it is not run. */
static bool misbehaves(const char *command)
{
	static const char garbage[] = "}{ \xfe\x80 this is no QMP\r\n";

	if (script.slow > 0)
		nap(script.slow);
	if (script_has(script.exit_at, command))
		script_end(&script);
	if (script_has(script.silent, command))
		silent = true;
	else if (script_has(script.garbage, command))
		send_text(garbage, sizeof garbage - 1);
	else if (script_has(script.close, command))
		hang_up(monitor);
	else
		return false;
	return true;
}

static void take_message(json_t *message)
{
	json_t *id = json_object_get(message, "id"), *arguments = json_object_get(message, "arguments");
	const char *command = json_string_value(json_object_get(message, "execute"));
	json_t *none = json_object();

	if (!command)
		command = json_string_value(json_object_get(message, "exec-oob"));
	if (!command)
		send_error("GenericError", "QMP input lacks member 'execute'", id);
	else if (misbehaves(command))
		;
	else if (answers_by_script(command, id))
		negotiated |= strcmp(command, "qmp_capabilities") == 0;
	else if (strcmp(command, "qmp_capabilities") == 0 && !negotiated)
		negotiate(id);
	else if (strcmp(command, "qmp_capabilities") == 0)
		send_error("CommandNotFound", "Capabilities negotiation is already complete, command ignored", id);
	else if (!negotiated)
		send_error("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'", id);
	else
		answer(command, arguments ? arguments : none, id);
	json_decref(none);
}

/* Cuts what was read into messages. What is half a message stays. */
static void take_input(void)
{
	while (input_len > 0 && monitor->conn >= 0 && !silent) {
		json_error_t why;
		json_t *message = json_loadb(input, input_len, JSON_DISABLE_EOF_CHECK, &why);
		size_t used = message ? (size_t)why.position : 0;

		if (!message && json_error_code(&why) == json_error_premature_end_of_input)
			return;
		if (message)
			take_message(message);
		else
			send_error("GenericError", "JSON parse error", NULL);
		json_decref(message);
		if (monitor->conn < 0)
			return; /* the input went with it */
		used = message ? used : input_len;
		memmove(input, input + used, input_len - used);
		input_len -= used;
		while (input_len > 0 && strchr(" \t\r\n", input[0]) && input[0]) {
			memmove(input, input + 1, input_len - 1);
			input_len--;
		}
	}
}

static void drop_fds(struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = c->cmsg_type == SCM_RIGHTS ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			(void)close(fd);
		}
	}
}

static void read_monitor(void)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * 16)];
		struct cmsghdr align;
	} control;
	struct iovec iov;
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n;

	if (input_len == input_size) {
		input_size = input_size ? 2 * input_size : 2048;
		input = input_size <= MESSAGE_MAX ? realloc(input, input_size) : NULL;
		if (!input)
			exit(1);
	}
	iov = (struct iovec){input + input_len, input_size - input_len};
	n = recvmsg(monitor->conn, &msg, MSG_CMSG_CLOEXEC);
	if (n <= 0) {
		hang_up(monitor);
		return;
	}
	drop_fds(&msg);
	input_len += (size_t)n;
	take_input();
}

/* A console, or the agent's port: nobody is at its other end. */
static void read_chardev(struct chardev *c)
{
	char bytes[512];

	if (read(c->conn, bytes, sizeof bytes) <= 0)
		hang_up(c);
}

static void accept_client(struct chardev *c)
{
	c->conn = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);
	if (c == monitor && c->conn >= 0)
		greet();
}

/* ---- The command line ---- */

/* The value of KEY in "socket,id=qmp,fd=3,server=on". False: it has none. */
static bool find_key(const char *text, const char *key, char *value, size_t size)
{
	size_t len = strlen(key);

	for (const char *p = text; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (strncmp(p, key, len) != 0 || p[len] != '=')
			continue;
		snprintf(value, size, "%.*s", (int)strcspn(p + len + 1, ","), p + len + 1);
		return true;
	}
	return false;
}

static void take_chardev(const char *value)
{
	struct chardev *c = &chardevs[n_chardevs];
	char fd[16], server[8] = "";

	if (n_chardevs == CHARDEVS_MAX || !find_key(value, "id", c->id, sizeof c->id) ||
	    !find_key(value, "fd", fd, sizeof fd)) {
		fprintf(stderr, "fake_qemu: -chardev %s: not understood\n", value);
		exit(1);
	}
	find_key(value, "server", server, sizeof server);
	c->listener = c->conn = -1;
	*(strcmp(server, "on") == 0 ? &c->listener : &c->conn) = (int)strtol(fd, NULL, 10);
	n_chardevs++;
}

static void take_monitor(const char *value)
{
	char id[40];

	for (size_t i = 0; i < n_chardevs && find_key(value, "chardev", id, sizeof id); i++)
		if (strcmp(chardevs[i].id, id) == 0)
			monitor = &chardevs[i];
}

static void take_command_line(char **argv)
{
	for (argv++; *argv; argv++) {
		const char *value = argv[1] ? argv[1] : "";
		if (strcmp(*argv, "-S") == 0)
			machine.status = "prelaunch";
		else if (strcmp(*argv, "-chardev") == 0)
			take_chardev(value);
		else if (strcmp(*argv, "-mon") == 0)
			take_monitor(value);
		else if (strcmp(*argv, "-name") == 0)
			machine.name = strncmp(value, "guest=", 6) == 0 ? value + 6 : value;
		else if (strcmp(*argv, "-uuid") == 0)
			machine.uuid = value;
		else
			(void)machine_take_option(&machine, *argv, value);
	}
	if (!monitor) {
		fprintf(stderr, "fake_qemu: no -mon with a -chardev socket that has an fd\n");
		exit(1);
	}
}

/* The lock is held as long as we live. */
static void count_start(void)
{
	int lock = open("fake-alive", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int log = open("fake-starts", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	char line[64];
	int n = snprintf(line, sizeof line, "%d%s\n", (int)getpid(), flock(lock, LOCK_EX | LOCK_NB) < 0 ? " double" : "");

	if (write(log, line, (size_t)n) != n)
		exit(1);
	(void)close(log);
}

static void take_script(void)
{
	struct script all;

	script_read(&all);
	if (monitor->listener < 0 && !all.probe)
		all = script_of_nobody();
	script = all;
	machine.unplugs = !script.no_unplug;
	machine.powers_down = !script.no_powerdown;
	machine.quits = !script.no_quit;
	if (script.count)
		count_start();
	if (script.no_listen)
		script_end(&script);
}

/* ---- The loop ---- */

/* Those that are due, at most a block of them: commands come in between. */
static void send_due_events(void)
{
	static char block[1 << 17];
	long due = events_before + script.events * (ms_since_start() - events_from) / 1000 - sent_events;
	size_t n = 0;

	if (due <= 0)
		return;
	for (; due > 0 && n < sizeof block - 200; due--, sent_events++)
		n += (size_t)snprintf(block + n, sizeof block - n,
				      "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 0}, \"event\": \"RTC_CHANGE\", "
				      "\"data\": {\"offset\": %ld}}\r\n", sent_events);
	send_text(block, n);
}

/* What nobody reads is lost, as the serial port of a PC loses it. */
static void say_on_consoles(void)
{
	static const char line[] = "All work and no play makes a guest that talks without end, to whoever may listen to it.\r\n";

	for (size_t i = 0; i < n_chardevs; i++)
		if (&chardevs[i] != monitor && chardevs[i].conn >= 0)
			(void)send(chardevs[i].conn, line, sizeof line - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Milliseconds until the script ends us; -1: never. */
static int time_left(void)
{
	long passed;

	if (script.exit_after < 0)
		return -1;
	passed = ms_since_start();
	return passed < script.exit_after ? (int)(script.exit_after - passed) : 0;
}

static int watch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void take_sigterm(void)
{
	if (!machine.quits)
		return;
	if (!machine.ends)
		machine_end(&machine, "host-signal", false);
	exit(0);
}

static void take_signal(int fd)
{
	struct signalfd_siginfo info;

	if (read(fd, &info, sizeof info) < 0)
		return;
	if (info.ssi_signo == SIGTERM)
		take_sigterm();
	else if (info.ssi_signo == SIGUSR1)
		machine_toggle(&machine);
	else
		machine_let_go(&machine);
}

static void turn(int signals)
{
	struct pollfd p[CHARDEVS_MAX + 1];
	int left = time_left();

	p[0] = (struct pollfd){signals, POLLIN, 0};
	for (size_t i = 0; i < n_chardevs; i++) {
		struct chardev *c = &chardevs[i];
		p[i + 1] = (struct pollfd){silent ? -1 : c->conn >= 0 ? c->conn : c->listener, POLLIN, 0};
	}
	if (left == 0)
		script_end(&script);
	if (script.events > 0 && negotiated) {
		send_due_events();
		left = left < 0 || left > 1 ? 1 : left;
	}
	if (script.talks) {
		say_on_consoles();
		left = left < 0 || left > 10 ? 10 : left;
	}
	if (poll(p, (nfds_t)n_chardevs + 1, left) <= 0)
		return;
	if (p[0].revents)
		take_signal(signals);
	for (size_t i = 0; i < n_chardevs; i++) {
		struct chardev *c = &chardevs[i];
		if (!p[i + 1].revents)
			continue;
		if (c->conn < 0)
			accept_client(c);
		else if (c == monitor)
			read_monitor();
		else
			read_chardev(c);
	}
	if (monitor->listener < 0 && monitor->conn < 0)
		exit(0); /* who asked has gone */
}

int main(int argc, char **argv)
{
	int signals = watch_signals();

	(void)argc;
	clock_gettime(CLOCK_MONOTONIC, &started);
	machine_init(&machine);
	machine.event = send_event;
	take_command_line(argv);
	take_script();
	if (monitor->conn >= 0)
		greet();
	for (;;)
		turn(signals);
}
