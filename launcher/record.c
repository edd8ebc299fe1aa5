#include "launcher/record.h"
#include "launcher/spec.h"
#include "proto/base.h"

static bool is_text(const json_t *object, const char *key)
{
	return json_is_string(json_object_get(object, key));
}

bool vm_version_is_whole(const json_t *version)
{
	return json_is_integer(json_object_get(version, "major")) && json_is_integer(json_object_get(version, "minor")) &&
	       json_is_integer(json_object_get(version, "micro"));
}

static int refuse(struct qmp_error *err, const char *what)
{
	return qmp_error_set(err, QMP_ERR_HOST, -EINVAL, "it is damaged, or of another version of qmpctl: %s", what);
}

static int check_host(const json_t *host, struct qmp_error *err)
{
	if (!is_text(host, "accel") || !is_text(host, "cpu-model") || !is_text(host, "machine") || !is_text(host, "binary") ||
	    !vm_version_is_whole(json_object_get(host, "qemu-version")))
		return refuse(err, "\"host\" does not say how QEMU was started");
	return 0;
}

static int check_argv(const json_t *argv, struct qmp_error *err)
{
	const json_t *word;
	size_t i;

	json_array_foreach(argv, i, word)
		if (!json_is_string(word))
			return refuse(err, "\"argv\" is no list of words");
	return json_array_size(argv) > 0 ? 0 : refuse(err, "\"argv\" is missing");
}

/* The spec of a QEMU that runs has been completed: what would be chosen now is not what QEMU has. */
static int check_spec(const json_t *spec, struct qmp_error *err)
{
	struct qmp_error why = {0};
	json_auto_t *copy = NULL;

	if (vm_spec_check(spec, &why) < 0)
		return refuse(err, why.message);
	copy = json_deep_copy(spec);
	if (!copy || vm_spec_complete(copy, &why) != 0)
		return refuse(err, "\"spec\" is not complete");
	return 0;
}

int vm_record_check(json_t *record, struct qmp_error *err)
{
	const json_t *spec = json_object_get(record, "spec");
	json_t *effective;
	int r = json_is_object(spec) ? check_spec(spec, err) : refuse(err, "there is no \"spec\"");

	if (r == 0)
		r = check_host(json_object_get(record, "host"), err);
	if (r == 0)
		r = check_argv(json_object_get(record, "argv"), err);
	if (r < 0)
		return r;
	effective = vm_spec_effective(spec);
	if (!effective || json_object_set_new(record, "spec", effective) < 0)
		return qmp_error_errno(err, -ENOMEM, "reading it");
	return 0;
}

/* A step of a plan (plan.h), or what undoes one. */
static bool is_step(const json_t *step, bool undoes)
{
	const json_t *arguments = json_object_get(step, "arguments"), *wait = json_object_get(step, "wait");
	const json_t *fd = json_object_get(step, "fd"), *secret = json_object_get(step, "secret"), *undo = json_object_get(step, "undo");
	const json_t *line = json_object_get(step, "secret-line");

	if (!is_text(step, "execute") || (!undoes && !is_text(step, "item")))
		return false;
	if ((arguments && !json_is_object(arguments)) || (fd && !json_is_string(fd)) ||
	    (secret && !json_is_string(secret)) || (line && !json_is_string(line)))
		return false;
	if (wait && !(json_is_integer(json_object_get(wait, "timeout")) && is_text(arguments, "id")))
		return false;
	return !undo || (!undoes && is_step(undo, true));
}

static bool is_plan(const json_t *plan)
{
	const json_t *step;
	size_t i;

	json_array_foreach(plan, i, step)
		if (!is_step(step, false))
			return false;
	return json_array_size(plan) > 0;
}

bool vm_change_is_whole(const json_t *entry)
{
	const json_t *want = json_object_get(entry, "want"), *config = json_object_get(entry, "config");

	return is_text(entry, "stage") && is_text(entry, "operation") && is_plan(json_object_get(entry, "plan")) &&
	       (!want || check_spec(want, NULL) == 0) && (!config || vm_spec_check(config, NULL) == 0);
}

bool vm_end_is_whole(const json_t *end)
{
	return is_text(end, "reason") && json_is_integer(json_object_get(end, "time"));
}

bool vm_caps_are_whole(const json_t *caps)
{
	const json_t *cpu = json_object_get(caps, "kvm-cpu");

	return json_is_boolean(json_object_get(caps, "sandbox")) && is_text(caps, "hyperv") && is_text(caps, "identity") && is_text(caps, "binary") &&
	       (json_is_string(cpu) || json_is_null(cpu)) && json_is_object(json_object_get(caps, "machines")) &&
	       vm_version_is_whole(json_object_get(caps, "version"));
}
