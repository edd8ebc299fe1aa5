/*
 * A small program on libqmpproto: connects to a QMP socket (QEMU's, or a VM's control.sock), runs one command, prints its
 * reply and every event that came meanwhile.
 *
 *     cc example.c -o example $(pkg-config --cflags --libs qmpproto)
 *     ./example SOCKET COMMAND [ARGUMENTS]          ./example vm.sock query-block
 *                                                   ./example vm.sock qom-list '{"path": "/machine"}'
 */
#include <errno.h>
#include <qmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct example {
	uv_loop_t loop;
	struct qmp_session *session;
	struct qmp_command command;
	int status; /* of the program */
};

static void complain(const struct qmp_error *why)
{
	fprintf(stderr, "example: %s\n", why->message);
}

/* The reply is valid in here alone; the session may be freed in here, too. */
static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct example *e = data;

	if (reply->status == 0) {
		char *text = qmp_json_encode(reply->value, JSON_INDENT(2), NULL);
		puts(text ? text : "(out of memory)");
		free(text);
		e->status = 0;
	} else {
		complain(&reply->error);
	}
	qmp_session_free(e->session);
	e->session = NULL;
}

static void on_event(void *data, const struct qmp_event *event)
{
	(void)data;
	printf("event: %.*s\n", (int)event->raw_len, event->raw);
}

/* Comes once, when the connection has ended by itself; each command has had its reply before. */
static void on_close(void *data, const struct qmp_error *why)
{
	struct example *e = data;

	complain(why);
	qmp_session_free(e->session);
	e->session = NULL;
}

static int connect_to(const char *path)
{
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memset(&address, 0, sizeof address);
	address.sun_family = AF_UNIX;
	if (strlen(path) >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	return fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
}

int main(int argc, char **argv)
{
	struct example e = {.status = 1};
	struct qmp_session_options options = {.on_close = on_close, .data = &e};
	struct qmp_error err = {.kind = QMP_ERR_NONE};
	json_t *arguments = NULL;
	int fd;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: example SOCKET COMMAND [ARGUMENTS]\n");
		return 2;
	}
	if (argc == 4 && !(arguments = qmp_json_decode(argv[3], strlen(argv[3]), &err))) {
		complain(&err);
		return 2;
	}
	fd = connect_to(argv[1]);
	if (fd < 0) {
		fprintf(stderr, "example: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	uv_loop_init(&e.loop);
	if (qmp_session_new(&e.loop, fd, &options, &e.session, &err) < 0) {
		complain(&err);
		return 1;
	}
	qmp_session_subscribe(e.session, NULL, on_event, &e);
	/* Queued until the session has negotiated. */
	e.command.name = argv[2];
	e.command.arguments = arguments;
	if (qmp_session_execute(e.session, &e.command, on_reply, &e, NULL, &err) < 0) {
		complain(&err);
		qmp_session_free(e.session);
	}
	uv_run(&e.loop, UV_RUN_DEFAULT); /* until the session is freed */
	uv_loop_close(&e.loop);
	json_decref(arguments);
	return e.status;
}
