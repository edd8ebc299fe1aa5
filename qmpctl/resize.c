/*
 * qmpctl-disk-resize: of a disk that QEMU has, through QEMU.
 *
 * The way it goes well: ask how large it is -> block_resize -> done. It fails: the VM does not run, has no such disk,
 * or it would get smaller and nobody said so (nothing is sent); QEMU refuses.
 */
#include "qmpctl/keeper.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>

#define RESIZE_TIMEOUT_MS 300000 /* raw images on some file systems write zeros */

/* The guest may be gone when QEMU answers. */
struct resizing {
	struct guest *guest;
	struct op_call *call;
	char node[32];
	json_int_t before;
};

/* Of a call that still runs; else what is left of it goes. */
static struct op_call *still_running(struct resizing *r)
{
	if (r->guest->running == r->call)
		return r->call;
	free(r);
	return NULL;
}

static int ask(struct resizing *r, const char *command, json_t *args_consume, qmp_reply_cb cb)
{
	json_auto_t *args = args_consume;
	struct qmp_command c = {.name = command, .arguments = args, .timeout_ms = RESIZE_TIMEOUT_MS};
	struct qmp_error err = {0};
	struct qmp_session *s = vm_session(r->guest->vm, &err);
	int code = s ? qmp_session_execute(s, &c, cb, r, NULL, &err) : err.code;

	if (code < 0) {
		op_fail(r->call, &err);
		free(r);
	}
	return code;
}

static void on_resized(void *data, const struct qmp_reply *reply)
{
	struct resizing *r = data;
	struct op_call *call = still_running(r);

	if (!call)
		return;
	if (reply->status < 0)
		op_fail(call, &reply->error);
	else
		op_return(call, json_pack("{s:s, s:I, s:I, s:s}", "id", op_text(call, "id"), "size",
					  (json_int_t)op_int(call, "size", 0), "before", r->before, "outcome", "done"));
	free(r);
}

static const json_t *find_node(const json_t *nodes, const char *name)
{
	json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
		if (text_of(node, "node-name") && streq(text_of(node, "node-name"), name))
			return node;
	return NULL;
}

static void on_nodes(void *data, const struct qmp_reply *reply)
{
	struct resizing *r = data;
	struct op_call *call = still_running(r);
	const json_t *node;
	int64_t size;

	if (!call)
		return;
	node = find_node(reply->value, r->node);
	size = op_int(call, "size", 0);
	r->before = int_of(json_object_get(node, "image"), "virtual-size");
	if (reply->status < 0 || !node) {
		if (reply->status < 0)
			op_fail(call, &reply->error);
		else
			op_failf(call, QMP_ERR_NOT_FOUND, -ENOENT, "the QEMU of %s has no image for disks.%s",
				 call->guest->vm->name, op_text(call, "id"));
		free(r);
	} else if (size < r->before && !op_flag(call, "shrink", false)) {
		op_failf(call, QMP_ERR_STATE, -EBUSY,
			 "disks.%s of %s has %lld bytes, more than %lld: what is behind them would be lost; \"shrink\" "
			 "does it all the same",
			 op_text(call, "id"), call->guest->vm->name, (long long)r->before, (long long)size);
		free(r);
	} else {
		(void)ask(r, "block_resize", json_pack("{s:s, s:I}", "node-name", r->node, "size", (json_int_t)size),
			  on_resized);
	}
}

static void start_resize(struct op_call *call)
{
	const struct vm *vm = call->guest->vm;
	const char *id = op_text(call, "id");
	const json_t *disk = vm->running ? vm_spec_find(vm->running, "disks", id) : NULL;
	int64_t size = op_int(call, "size", 0);
	struct resizing *r;

	if (!vm->running || !disk) {
		op_failf(call, vm->running ? QMP_ERR_NOT_FOUND : QMP_ERR_STATE, vm->running ? -ENOENT : -ENOTCONN,
			 vm->running ? "the VM %s that runs has no disk \"%s\""
				     : "the VM %s is not running, so that its disk %s is resized "
				       "as the image that it is",
			 vm->name, id);
		return;
	}
	if (size <= 0 || size % 512 != 0 || !text_of(disk, "path")) {
		op_failf(call, QMP_ERR_USAGE, -EINVAL, "disks.%s: %s", id,
			 text_of(disk, "path") ? "a size is a multiple of 512 bytes, and not 0"
					       : "it is an empty drive");
		return;
	}
	r = calloc(1, sizeof *r);
	if (!r) {
		op_failf(call, QMP_ERR_HOST, -ENOMEM, "resizing disks.%s: %s", id, strerror(ENOMEM));
		return;
	}
	r->guest = call->guest;
	r->call = call;
	/* The topmost: what stands on it learns the size from it. */
	snprintf(r->node, sizeof r->node, "%.16s-%s", id, json_object_get(disk, "throttle") ? "throttle" : "fmt");
	(void)ask(r, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), on_nodes);
}

static const struct op_arg resize_args[] = {
	{"id", "string", "its id", true},
	{"size", "int", "bytes, a multiple of 512", true},
	{"shrink", "bool", "also where it gets smaller (default: false)", false},
	{0},
};

const struct op op_disk_resize = {"qmpctl-disk-resize", "change the size of a disk that QEMU has", resize_args, true,
				  .waits = true, .start = start_resize};
