/*
 * Clients: many, each with a QMP session of its own, over the one that QEMU gives.
 *
 * A client's commands keep QEMU's order: those for QEMU are passed on at once (8 in flight, then it is held back); one
 * of our operations starts when those before it are answered, and what follows waits for it.
 */
#include "qmpctl/drift.h"
#include "qmpctl/keeper.h"
#include "launcher/peril.h"
#include "proto/base.h"

#define CLIENTS_MAX 256 /* of control.sock, and as many of observe.sock */
/*
 * A client that does not negotiate has a place as long as nobody else wants it: time enough for somebody who types. One that
 * was served this long and said nothing gives its place to who comes.
 */
#define NEGOTIATE_MS 60000
#define GIVES_WAY_MS 2000
/* Waits for a client that does not read; small messages take almost twice their size. */
#define OUTPUT_MAX ((size_t)8 << 20)

/* A command that is on its way, for whom. */
struct relay {
	struct client *client; /* NULL: free */
	json_t *id;
	char command[40]; /* its name, cut; "": it only asks */
	json_t *(*beside)(void); /* what is added to the list that QEMU returns; NULL: nothing */
};

struct client {
	struct client *next;
	struct guest *guest;
	struct qmp_peer *peer; /* NULL: gone, but replies are still on their way */
	bool read_only;
	uint64_t since; /* uv_now() */
	size_t in_flight;
	bool op_runs;
	const struct op *held; /* waits for what is in flight */
	json_t *held_args, *held_id;
	struct relay relays[QMP_IN_FLIGHT]; /* what is taken from the client always has one */
};

/* ---- The end of a client: when nothing of it is under way ---- */

static void client_unref(struct client *c)
{
	if (c->peer || c->in_flight > 0 || c->op_runs)
		return;
	for (struct client **p = &c->guest->clients; *p; p = &(*p)->next)
		if (*p == c) {
			*p = c->next;
			break;
		}
	json_decref(c->held_args);
	json_decref(c->held_id);
	free(c);
}

static void on_client_close(void *data, struct qmp_peer *p, const struct qmp_error *why)
{
	struct client *c = data;

	UNUSED(why);
	qmp_peer_free(p);
	c->peer = NULL;
	c->held = NULL;
	client_unref(c);
}

/* ---- Answers ---- */

static void send_error(struct client *c, json_t *id, const struct qmp_error *why)
{
	json_auto_t *error = json_pack("{s:s, s:o, s:s}", "class", "GenericError", "desc", qmp_json_text(why->message),
				       "kind", qmp_error_kind_name(why->kind));
	size_t len;
	_cleanup_free_ char *text = error ? qmp_json_encode(error, JSON_COMPACT | JSON_ENSURE_ASCII, &len) : NULL;

	if (text && c->peer)
		qmp_peer_error_raw(c->peer, id, text, len);
	else if (c->peer) /* hangs up where it cannot answer either */
		qmp_peer_error(c->peer, id, "GenericError", why->message);
}

static void start_op(struct client *c, const struct op *op, json_t *args, json_t *id);

static struct relay *relay_take(struct client *c, json_t *id, json_t *(*beside)(void))
{
	struct relay *relay = c->relays;

	while (relay->client)
		relay++;
	*relay = (struct relay){.client = c, .id = json_incref(id), .beside = beside};
	return relay;
}

static void relay_done(struct relay *relay)
{
	json_decref(relay->id);
	relay->client = NULL;
}

/* One command less is under way: go on with what was held back. */
static void go_on(struct client *c)
{
	if (c->peer && c->held && c->in_flight == 0 && !c->op_runs) {
		const struct op *op = c->held;
		json_auto_t *args = take_ptr(c->held_args), *id = take_ptr(c->held_id);
		c->held = NULL;
		start_op(c, op, args, id);
	}
	if (c->peer && !c->held && !c->op_runs && c->in_flight < QMP_IN_FLIGHT)
		qmp_peer_resume(c->peer);
	client_unref(c);
}

static void on_op_done(void *data, json_t *result, const struct qmp_error *why)
{
	struct relay *relay = data;
	struct client *c = relay->client;

	c->op_runs = false;
	if (why)
		send_error(c, relay->id, why);
	else if (c->peer)
		qmp_peer_return(c->peer, relay->id, result);
	relay_done(relay);
	go_on(c);
}

static void start_op(struct client *c, const struct op *op, json_t *args, json_t *id)
{
	struct relay *relay = relay_take(c, id, NULL);

	c->op_runs = true;
	qmp_peer_pause(c->peer);
	op_run(c->guest, op, args, on_op_done, relay);
}

/* ---- Passing on ---- */

static bool is_query(const char *command)
{
	return strncmp(command, "query-", 6) == 0;
}

/* The lists in which our operations stand beside QEMU's commands. */
static json_t *(*ours_beside(const char *command))(void)
{
	return streq(command, "query-commands") ? op_names : streq(command, "query-qmp-schema") ? op_infos : NULL;
}

/* QEMU's list is large, and passed on as it is: ours is put before its closing bracket. */
static void return_with_ours(struct client *c, json_t *id, const struct qmp_reply *reply, json_t *(*beside)(void))
{
	json_auto_t *list = beside();
	size_t len = 0;
	_cleanup_free_ char *ours = list ? qmp_json_encode(list, JSON_COMPACT | JSON_ENSURE_ASCII, &len) : NULL;
	_cleanup_free_ char *all = ours ? malloc(reply->raw_len + len) : NULL;

	if (!all || reply->raw_len < 3 || reply->raw[reply->raw_len - 1] != ']') {
		qmp_peer_return_raw(c->peer, id, reply->raw, reply->raw_len);
		return;
	}
	memcpy(all, reply->raw, reply->raw_len - 1);
	all[reply->raw_len - 1] = ',';
	memcpy(all + reply->raw_len, ours + 1, len - 1); /* with its closing bracket */
	qmp_peer_return_raw(c->peer, id, all, reply->raw_len + len - 1);
}

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct relay *relay = data;
	struct client *c = relay->client;

	c->in_flight--;
	if (reply->status == 0 && *relay->command)
		drift_on_command(c->guest, relay->command);
	if (c->peer && reply->status == 0 && relay->beside)
		return_with_ours(c, relay->id, reply, relay->beside);
	else if (c->peer && reply->status == 0)
		qmp_peer_return_raw(c->peer, relay->id, reply->raw, reply->raw_len);
	else if (c->peer && reply->status == -EREMOTEIO)
		qmp_peer_error_raw(c->peer, relay->id, reply->raw, reply->raw_len);
	else if (c->peer)
		send_error(c, relay->id, &reply->error);
	relay_done(relay);
	go_on(c);
}

static void send_on(struct client *c, const struct qmp_peer_command *command)
{
	struct vm *vm = c->guest->vm;
	struct qmp_command out = {
		.name = command->name,
		.arguments = command->arguments,
		.fds = command->fds,
		.n_fds = c->read_only ? 0 : command->n_fds, /* QEMU would keep them */
		.timeout_ms = UINT64_MAX, /* the client has its own patience */
		.oob = command->oob,
		.raw = true,
	};
	struct qmp_error err = {0};
	struct qmp_session *s = vm_session(vm, &err);
	struct relay *relay = relay_take(c, command->id, ours_beside(command->name));

	if (!is_query(command->name)) {
		(void)snprintf(relay->command, sizeof relay->command, "%s", command->name);
		vm_expect_command(vm, command->name, command->arguments);
	}
	if (!s || qmp_session_execute(s, &out, on_reply, relay, NULL, &err) < 0) {
		relay_done(relay);
		send_error(c, command->id, &err);
		return;
	}
	if (++c->in_flight >= QMP_IN_FLIGHT)
		qmp_peer_pause(c->peer);
}

/* A command that waits for what QEMU says of a chardev; its client's next ones wait, too. */
struct vetted {
	struct client *client;
	char *name, *chardev;
	json_t *id, *arguments;
	bool oob;
};

static void vetted_free(struct vetted *v)
{
	free(v->name);
	free(v->chardev);
	json_decref(v->id);
	json_decref(v->arguments);
	free(v);
}

static void on_chardevs(void *data, const struct qmp_reply *reply)
{
	struct vetted *v = data;
	struct client *c = v->client;
	struct qmp_error err = reply->error;

	c->op_runs = false;
	if (reply->status == 0)
		vm_peril_check_chardev(v->name, v->chardev, reply->value, &err);
	if (err.kind != QMP_ERR_NONE)
		send_error(c, v->id, &err);
	else if (c->peer)
		send_on(c, &(struct qmp_peer_command){.name = v->name, .arguments = v->arguments, .id = v->id, .oob = v->oob});
	vetted_free(v);
	go_on(c);
}

static void vet(struct client *c, const struct qmp_peer_command *command, const char *chardev)
{
	struct vetted *v = calloc(1, sizeof *v);
	struct qmp_command ask = {.name = "query-chardev", .timeout_ms = UINT64_MAX};
	struct qmp_error err = {0};
	struct qmp_session *s = vm_session(c->guest->vm, &err);

	if (!v)
		qmp_error_errno(&err, -ENOMEM, "%s", command->name);
	if (v)
		*v = (struct vetted){c, strdup(command->name), strdup(chardev), command->id ? json_incref(command->id) : NULL,
				     json_incref(command->arguments), command->oob};
	if (v && (!v->name || !v->chardev))
		qmp_error_errno(&err, -ENOMEM, "%s", command->name);
	if (err.kind != QMP_ERR_NONE || qmp_session_execute(s, &ask, on_chardevs, v, NULL, &err) < 0) {
		send_error(c, command->id, &err);
		if (v)
			vetted_free(v);
		return;
	}
	c->op_runs = true;
	qmp_peer_pause(c->peer);
}

/* Nothing is perilous that only asks, and most commands do. */
static void pass_on(struct client *c, const struct qmp_peer_command *command)
{
	const char *chardev = vm_peril_chardev(command->name, command->arguments);
	struct vm_host host;
	struct qmp_error err = {0};

	if (is_query(command->name)) {
		send_on(c, command);
		return;
	}
	host = vm_host_of(c->guest->vm);
	if (vm_peril_check(command->name, command->arguments, &host, &err) < 0)
		send_error(c, command->id, &err);
	else if (chardev)
		vet(c, command, chardev);
	else
		send_on(c, command);
}

/* What a secret holds can be read as a property of it. Source: QEMU crypto/secret.c, secret_common.c. */
static bool is_secret(const json_t *property)
{
	const char *name = json_string_value(property);

	return name && (streq(name, "data") || streq(name, "rawdata"));
}

static bool may(const struct client *c, const struct op *op, const struct qmp_peer_command *command)
{
	const char *name = command->name;

	if (!c->read_only)
		return true;
	if (op)
		return !op->changes;
	if (streq(name, "qom-get"))
		return !is_secret(json_object_get(command->arguments, "property"));
	return is_query(name) || streq(name, "qom-list");
}

static void on_command(void *data, struct qmp_peer *p, const struct qmp_peer_command *command)
{
	struct client *c = data;
	const struct op *op = op_find(command->name);

	if (!may(c, op, command)) {
		qmp_peer_error(p, command->id, "GenericError", "This socket is for looking only; use control.sock");
	} else if (!op) {
		pass_on(c, command);
	} else if (c->in_flight > 0) {
		c->held = op;
		c->held_args = json_incref(command->arguments);
		c->held_id = command->id ? json_incref(command->id) : NULL;
		qmp_peer_pause(p);
	} else {
		start_op(c, op, command->arguments, command->id);
	}
}

/* ---- Who is served ---- */

/* What a client hears before QEMU has said anything itself. */
static json_t *greeting_of(const struct guest *g)
{
	json_t *version = json_object_get(g->vm->host_facts, "qemu-version");

	if (g->vm->greeting)
		return json_incref(g->vm->greeting);
	return json_pack("{s:{s:O, s:s}, s:[]}", "version", "qemu", version ? version : json_null(), "package", "",
			 "capabilities");
}

/* The one that has said nothing for longest, and for long enough; of the same kind, so that no observer makes one go. */
static struct client *oldest_silent(const struct guest *g, bool read_only)
{
	struct client *oldest = NULL;
	uint64_t now = uv_now(g->keeper->loop);

	for (struct client *c = g->clients; c; c = c->next)
		if (c->peer && c->read_only == read_only && !qmp_peer_is_ready(c->peer) && now - c->since >= GIVES_WAY_MS &&
		    (!oldest || c->since <= oldest->since))
			oldest = c;
	return oldest;
}

bool client_gives_way(struct guest *g, bool read_only)
{
	struct client *c = oldest_silent(g, read_only);

	if (!c)
		return false;
	qmp_peer_error(c->peer, NULL, "GenericError",
		       "others wait for a place and this connection has not sent qmp_capabilities; connect again");
	qmp_peer_free(take_ptr(c->peer));
	client_unref(c);
	return true;
}

int client_new(struct guest *g, int fd_consume, bool read_only, struct qmp_error *err)
{
	json_auto_t *greeting = greeting_of(g);
	struct qmp_peer_options o = {.greeting = greeting, .max_output = OUTPUT_MAX, .negotiation_timeout_ms = NEGOTIATE_MS,
				     .on_command = on_command, .on_close = on_client_close};
	struct client *c;
	size_t n = 0;
	int r;

	for (const struct client *other = g->clients; other; other = other->next)
		n += other->read_only == read_only;
	if (n >= CLIENTS_MAX && !client_gives_way(g, read_only))
		return qmp_error_set(err, QMP_ERR_LIMIT, -EUSERS,
				     "%d clients of %s are served already, which is the most; close one, or try again",
				     CLIENTS_MAX, g->vm->name);
	c = calloc(1, sizeof *c);
	if (!c)
		return qmp_error_errno(err, -ENOMEM, "serving one more client of %s", g->vm->name);
	o.data = c;
	r = qmp_peer_new(g->keeper->loop, fd_consume, &o, &c->peer, err);
	if (r < 0) {
		free(c);
		return r;
	}
	c->guest = g;
	c->read_only = read_only;
	c->since = uv_now(g->keeper->loop);
	c->next = g->clients;
	g->clients = c;
	return 0;
}

/* At the very end: QEMU's session and the operations are gone already. */
void clients_free(struct guest *g)
{
	while (g->clients) {
		struct client *c = g->clients;
		g->clients = c->next;
		qmp_peer_free(c->peer);
		json_decref(c->held_args);
		json_decref(c->held_id);
		free(c);
	}
}

void guest_send(struct guest *g, const char *raw, size_t len)
{
	for (struct client *c = g->clients; c; c = c->next)
		if (c->peer)
			qmp_peer_send_raw(c->peer, raw, len);
}
