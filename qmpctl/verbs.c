/*
 * The table of all verbs, in the order of the help.
 */
#include "qmpctl/cli.h"

extern const struct verb verb_create, verb_edit, verb_set, verb_apply, verb_show, verb_delete, verb_rename, verb_list,
	verb_run, verb_start, verb_stop, verb_kill, verb_reboot, verb_reset, verb_pause, verb_resume,
	verb_wait, verb_status, verb_disk_add, verb_disk_remove, verb_disk_list, verb_nic_add,
	verb_nic_remove, verb_nic_list, verb_image_create, verb_events, verb_logs, verb_console, verb_type, verb_agent,
	verb_qmp, verb_args, verb_spec_schema, verb_version;

const struct verb *const all_verbs[] = {
	&verb_create,
	&verb_edit,
	&verb_set,
	&verb_apply,
	&verb_show,
	&verb_delete,
	&verb_rename,
	&verb_list,
	&verb_run,
	&verb_start,
	&verb_stop,
	&verb_kill,
	&verb_reboot,
	&verb_reset,
	&verb_pause,
	&verb_resume,
	&verb_wait,
	&verb_status,
	&verb_disk_add,
	&verb_disk_remove,
	&verb_disk_list,
	&verb_nic_add,
	&verb_nic_remove,
	&verb_nic_list,
	&verb_image_create,
	&verb_events,
	&verb_logs,
	&verb_console,
	&verb_type,
	&verb_agent,
	&verb_qmp,
	&verb_args,
	&verb_spec_schema,
	&verb_version,
	NULL,
};
