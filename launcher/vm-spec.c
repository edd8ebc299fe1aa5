/*
 * A VM's spec on disk: read, kept, and what others have made of the file since. People edit it: what they wrote is taken when the
 * spec is needed next, and never replaced unread.
 */
#include "launcher/vm-internal.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

void vm_spec_file(const struct vm *vm, char file[VM_SPEC_FILE_MAX])
{
	(void)snprintf(file, VM_SPEC_FILE_MAX, "%s.json", vm->name);
}

static struct vm_file_id id_of(const struct stat *st)
{
	return (struct vm_file_id){st->st_dev, st->st_ino, st->st_size, st->st_mtim};
}

static struct vm_file_id id_on_disk(const struct vm *vm)
{
	char file[VM_SPEC_FILE_MAX];
	struct stat st = {0};

	vm_spec_file(vm, file);
	(void)fstatat(vm->conf_dir, file, &st, AT_SYMLINK_NOFOLLOW);
	return id_of(&st);
}

/* Whether the file is the one that VM->spec is of. */
static bool is_known(const struct vm *vm, const struct vm_file_id *id)
{
	const struct vm_file_id *known = &vm->spec_id;

	return known->inode && known->device == id->device && known->inode == id->inode && known->size == id->size &&
	       known->changed.tv_sec == id->changed.tv_sec && known->changed.tv_nsec == id->changed.tv_nsec;
}

static json_t *read_spec(const struct vm *vm, struct qmp_error *err)
{
	char file[VM_SPEC_FILE_MAX];
	_cleanup_free_ char *text = NULL, *path = NULL;
	struct qmp_error why = {0};
	json_t *spec = NULL;
	size_t len;
	int r;

	vm_spec_file(vm, file);
	path = qmp_asprintf("%s/vms/%s", vm->dirs->conf, file);
	r = path ? vm_file_read(vm->conf_dir, file, &text, &len, &why) : -ENOMEM;
	if (r == -ENOENT && vm->spec)
		qmp_error_set(err, QMP_ERR_HOST, r, "its spec is gone: there is no %s", path);
	else if (r == -ENOENT)
		qmp_error_set(err, QMP_ERR_NOT_FOUND, r, "there is no VM named \"%s\" (no %s)", vm->name, path);
	else if (r < 0)
		qmp_error_set(err, QMP_ERR_HOST, r, "%s/vms: %s", vm->dirs->conf, path ? why.message : "out of memory");
	else if (vm_spec_parse(text, len, path, &spec, err) == 0)
		/* The file's name is the VM's: so a rename is one step, and what is inside follows with the next change. */
		json_object_set_new(spec, "name", json_string(vm->name));
	return spec;
}

int vm_renew_spec(struct vm *vm, struct qmp_error *err)
{
	struct vm_file_id id = id_on_disk(vm);
	json_t *spec;

	if (is_known(vm, &id))
		return 0;
	spec = read_spec(vm, err);
	if (!spec)
		return err ? err->code : -EINVAL;
	vm_replace(&vm->spec, spec);
	vm->spec_id = id;
	return 0;
}

json_t *vm_spec_on_disk(const struct vm *vm, struct qmp_error *err)
{
	struct vm_file_id id = id_on_disk(vm);

	return is_known(vm, &id) ? json_incref(vm->spec) : read_spec(vm, err);
}

/* ---- Keeping ---- */

/* Nothing is there that was not read. */
static bool may_replace(const struct vm *vm)
{
	json_auto_t *spec = vm_spec_on_disk(vm, NULL);

	return spec && json_equal(spec, vm->spec);
}

int vm_draft_spec(const struct vm *vm, const json_t *spec, struct vm_draft *ret, struct qmp_error *err)
{
	char file[VM_SPEC_FILE_MAX];

	vm_spec_file(vm, file);
	return vm_draft_json(vm->conf_dir, file, spec, ret, err);
}

void vm_discard_spec(const struct vm *vm, struct vm_draft *draft)
{
	char file[VM_SPEC_FILE_MAX];

	vm_spec_file(vm, file);
	vm_draft_discard(vm->conf_dir, file, draft);
}

static bool is_on_disk(const struct vm *vm, const struct stat *st)
{
	struct vm_file_id id = id_on_disk(vm);

	return id.device == st->st_dev && id.inode == st->st_ino;
}

/* What failed may have replaced the file all the same, and not have synced its folder: then what it was is written again. */
static void take_back(struct vm *vm, const struct stat *written)
{
	char file[VM_SPEC_FILE_MAX];
	struct vm_draft old;
	struct stat st;

	if (!is_on_disk(vm, written))
		return;
	vm_spec_file(vm, file);
	vm->spec_id = (struct vm_file_id){0}; /* it is read when it is needed next */
	if (vm_draft_spec(vm, vm->spec, &old, NULL) < 0)
		return;
	if (fstat(old.fd, &st) < 0) {
		vm_discard_spec(vm, &old);
		return;
	}
	(void)vm_draft_publish(vm->conf_dir, file, &old, NULL);
	if (is_on_disk(vm, &st))
		vm->spec_id = id_of(&st);
}

int vm_publish_spec(struct vm *vm, json_t *spec, struct vm_draft *draft, struct qmp_error *err)
{
	char file[VM_SPEC_FILE_MAX];
	struct stat st;
	int r = 0;

	vm_spec_file(vm, file);
	if (!may_replace(vm))
		r = qmp_error_set(err, QMP_ERR_STATE, -ESTALE, "%s/vms/%s was changed by another program meanwhile, and is left as it is",
				  vm->dirs->conf, file);
	else if (fstat(draft->fd, &st) < 0)
		r = qmp_error_errno(err, -errno, "writing %s", file);
	if (r < 0) {
		vm_discard_spec(vm, draft);
		return r;
	}
	r = vm_draft_publish(vm->conf_dir, file, draft, err);
	if (r < 0) {
		take_back(vm, &st);
		return r;
	}
	vm->spec_id = id_of(&st);
	if (spec != vm->spec)
		vm_replace(&vm->spec, json_incref(spec));
	return 0;
}

int vm_save_spec(struct vm *vm, json_t *spec, struct qmp_error *err)
{
	struct vm_draft draft;
	int r = vm_draft_spec(vm, spec, &draft, err);

	return r < 0 ? r : vm_publish_spec(vm, spec, &draft, err);
}
