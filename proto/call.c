#include "proto/call.h"
#include "proto/base.h"
#include "proto/wire.h"

#include <fcntl.h>

void qmp_call_free(struct qmp_call *c)
{
	qmp_fds_free(c->fds, c->n_fds);
	free(c->name);
	free(c->text);
	free(c);
}

static bool dup_fds(struct qmp_call *c, const struct qmp_command *command)
{
	if (command->n_fds == 0)
		return true;
	c->fds = calloc(command->n_fds, sizeof *c->fds);
	if (!c->fds)
		return false;
	for (; c->n_fds < command->n_fds; c->n_fds++) {
		c->fds[c->n_fds] = fcntl(command->fds[c->n_fds], F_DUPFD_CLOEXEC, 0);
		if (c->fds[c->n_fds] < 0)
			return false;
	}
	return true;
}

struct qmp_call *qmp_call_new(const struct qmp_command *command, qmp_reply_cb cb, void *data)
{
	struct qmp_call *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	c->cb = cb;
	c->data = data;
	c->oob = command->oob;
	c->raw = command->raw;
	c->name = strdup(command->name);
	if (!c->name || !dup_fds(c, command)) {
		int saved = errno;
		qmp_call_free(c);
		errno = saved;
		return NULL;
	}
	return c;
}

char *qmp_call_encode(const struct qmp_command *command, const char *id, size_t *ret_len)
{
	_cleanup_free_ char *name = NULL, *arguments = NULL;
	json_auto_t *name_value = json_string(command->name);
	char *text;

	name = name_value ? qmp_json_encode(name_value, JSON_ENSURE_ASCII, NULL) : NULL;
	if (json_object_size(command->arguments) > 0)
		arguments = qmp_json_encode(command->arguments, JSON_COMPACT | JSON_ENSURE_ASCII, NULL);
	if (!name || (json_object_size(command->arguments) > 0 && !arguments))
		return NULL;
	text = qmp_asprintf("{\"%s\":%s%s%s%s%s%s}\n", command->oob ? "exec-oob" : "execute", name,
			    arguments ? ",\"arguments\":" : "", arguments ? arguments : "", id ? ",\"id\":\"" : "",
			    id ? id : "", id ? "\"" : "");
	if (text)
		*ret_len = strlen(text);
	return text;
}

/* ---- The callback, and with it the end ---- */

static void fire_consume(struct qmp_call *c, const struct qmp_reply *reply)
{
	c->cb(c->data, reply);
	qmp_call_free(c);
}

static void refuse_consume(struct qmp_call *c, const struct qmp_span *error, const json_t *value)
{
	const char *class = json_string_value(json_object_get(value, "class"));
	const char *desc = json_string_value(json_object_get(value, "desc"));
	struct qmp_reply reply = {
		.status = -EREMOTEIO,
		.raw = error->text,
		.raw_len = error->len,
		.error_class = class ? class : "GenericError",
		.error_desc = desc ? desc : "(no description)",
	};

	qmp_error_set(&reply.error, QMP_ERR_REFUSED, -EREMOTEIO, "%s: %s", c->name, reply.error_desc);
	fire_consume(c, &reply);
}

int qmp_call_answer_consume(struct qmp_call *c, const struct qmp_span *value, const struct qmp_span *error)
{
	const struct qmp_span *span = error->text ? error : value;
	struct qmp_reply reply = {.raw = span->text, .raw_len = span->len};
	json_auto_t *decoded = NULL;
	struct qmp_error err = {0};

	if ((error->text || !c->raw) && !(decoded = qmp_json_decode(span->text, span->len, &err))) {
		reply = (struct qmp_reply){.status = err.code};
		qmp_error_set(&reply.error, err.kind, err.code, "%s: the reply: %s", c->name, err.message);
	} else if (error->text) {
		refuse_consume(c, error, decoded);
		return 0;
	}
	reply.value = decoded;
	fire_consume(c, &reply);
	return reply.status;
}

void qmp_call_end_consume(struct qmp_call *c, int status, enum qmp_error_kind kind, const char *why)
{
	struct qmp_reply reply = {.status = status};

	if (status < 0)
		qmp_error_set(&reply.error, kind, status, "%s: %s", c->name, why);
	fire_consume(c, &reply);
}

/* ---- Lists ---- */

void qmp_calls_init(struct qmp_calls *l)
{
	*l = (struct qmp_calls){.tail = &l->head};
}

void qmp_calls_append(struct qmp_calls *l, struct qmp_call *c)
{
	c->next = NULL;
	*l->tail = c;
	l->tail = &c->next;
	l->n++;
}

/* Takes out the call that P points to. */
static struct qmp_call *unlink_at(struct qmp_calls *l, struct qmp_call **p)
{
	struct qmp_call *c = *p;

	*p = c->next;
	if (!c->next)
		l->tail = p;
	c->next = NULL;
	l->n--;
	return c;
}

struct qmp_call *qmp_calls_pop(struct qmp_calls *l)
{
	return l->head ? unlink_at(l, &l->head) : NULL;
}

struct qmp_call *qmp_calls_take(struct qmp_calls *l, uint64_t serial)
{
	for (struct qmp_call **p = &l->head; *p; p = &(*p)->next)
		if ((*p)->serial == serial)
			return unlink_at(l, p);
	return NULL;
}

void qmp_calls_append_ended(struct qmp_calls *l, struct qmp_call *c, int status, enum qmp_error_kind kind,
			    const char *why)
{
	c->status = status;
	c->kind = kind;
	c->why = why;
	qmp_calls_append(l, c);
}

void qmp_calls_end_all(struct qmp_calls *l, struct qmp_calls *ended, int status, enum qmp_error_kind kind,
		       const char *why)
{
	struct qmp_call *c;

	while ((c = qmp_calls_pop(l)))
		qmp_calls_append_ended(ended, c, status, kind, why);
}

void qmp_calls_fire(struct qmp_calls *ended)
{
	struct qmp_call *c;

	while ((c = qmp_calls_pop(ended)))
		qmp_call_end_consume(c, c->status, c->kind, c->why);
}

uint64_t qmp_calls_expire(struct qmp_calls *l, uint64_t now, struct qmp_calls *ended, const char *why)
{
	struct qmp_call **p = &l->head;
	uint64_t next = UINT64_MAX;

	while (*p) {
		if ((*p)->deadline <= now) {
			qmp_calls_append_ended(ended, unlink_at(l, p), -ETIMEDOUT, QMP_ERR_TIMEOUT, why);
			continue;
		}
		next = (*p)->deadline < next ? (*p)->deadline : next;
		p = &(*p)->next;
	}
	return next;
}
