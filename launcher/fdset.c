#include "launcher/fdset.h"
#include "proto/base.h"

struct drop {
	struct qmp_session *session;
	json_t *names;
};

static void on_removed(void *data, const struct qmp_reply *reply)
{
	UNUSED(data);
	UNUSED(reply);
}

static bool is_one_of(const json_t *names, const json_t *opaque)
{
	const json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
		if (opaque && json_equal(name, opaque))
			return true;
	return false;
}

static void on_sets(void *data, const struct qmp_reply *reply)
{
	struct drop *d = data;
	const json_t *set;
	size_t i;

	json_array_foreach(reply->status == 0 ? reply->value : NULL, i, set)
	{
		const json_t *fd = json_array_get(json_object_get(set, "fds"), 0);
		json_auto_t *args = json_pack("{s:O?}", "fdset-id", json_object_get(set, "fdset-id"));
		struct qmp_command c = {.name = "remove-fd", .arguments = args};
		if (args && is_one_of(d->names, json_object_get(fd, "opaque")))
			(void)qmp_session_execute(d->session, &c, on_removed, NULL, NULL, NULL);
	}
	json_decref(d->names);
	free(d);
}

void vm_fdset_drop(struct qmp_session *session, json_t *names)
{
	struct drop *d = malloc(sizeof *d);

	if (!d)
		return;
	*d = (struct drop){session, json_incref(names)};
	if (qmp_session_execute(session, &(struct qmp_command){.name = "query-fdsets"}, on_sets, d, NULL, NULL) < 0) {
		json_decref(d->names);
		free(d);
	}
}
