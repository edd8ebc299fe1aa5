/* What vm.c, vm-spec.c and vm-start.c share. */
#pragma once

#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#define QEMU_LOCK "qemu.lock" /* with QEMU's pid in it, locked while it lives */
#define LOG       "qemu.log"

static inline void vm_replace(json_t **slot, json_t *value_consume)
{
	json_decref(*slot);
	*slot = value_consume;
}

#define VM_SPEC_FILE_MAX (VM_NAME_MAX + sizeof ".json")
/* The name of its spec's file. */
void vm_spec_file(const struct vm *vm, char file[VM_SPEC_FILE_MAX]);
/* Tells it, too. */
void vm_set_state(struct vm *vm, enum vm_state s);
/* Who waits for the start; WHY NULL: it is up. */
void vm_tell_started(struct vm *vm, const struct qmp_error *why);
/* What a QEMU that has ended, or never came up, leaves in memory and in the run directory. */
void vm_cleanup_run(struct vm *vm);
/* What both a new QEMU and one that is adopted are followed by. */
void vm_fill_qemu_options(struct vm *vm, struct vm_qemu_options *o);
void vm_open_consoles(struct vm *vm);
/* What was known of the end of the QEMU before is none of the one that is started with vm->argv. */
void vm_forget_ending(struct vm *vm);
/* Whether QEMU, as that command line starts it, is still there after a SHUTDOWN. In doubt: yes. */
bool vm_argv_stays(const json_t *argv);
