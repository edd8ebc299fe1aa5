/*
 * What is kept beside a QEMU for who takes it over (running.json, journal.json), and what is known of its abilities
 * (the cache): whether it can be used. It may be damaged, or of another version of this program. Pure; files and their
 * writing are vm's and caps'.
 */
#pragma once

#include "proto/qmp.h"

/*
 * RECORD: {"spec", "host", "argv", "started", "paused", "boot", "ending"} as vm_save_running writes it. On success its spec is
 * effective: a field that an older version did not know stands with its default, which is what that version did.
 */
int vm_record_check(json_t *record, struct qmp_error *err);
/*
 * ENTRY: {"stage", "operation", "since", "plan", "want"?, "config"?} of the journal: its plan can be run, and what it
 * leads to and keeps are specs.
 */
bool vm_change_is_whole(const json_t *entry);
/* END: {"reason", "time", "exit-code"?, "signal"?}. */
bool vm_end_is_whole(const json_t *end);
/* CAPS: as caps.h describes it. */
bool vm_caps_are_whole(const json_t *caps);
/* A "qemu" of a greeting's version: three numbers. */
bool vm_version_is_whole(const json_t *version);
