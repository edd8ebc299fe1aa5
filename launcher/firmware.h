/*
 * UEFI: which of the host's firmware fits a machine, as the host's packages describe it, and the variables that a VM has of its
 * own. Source: QEMU, docs/interop/firmware.json.
 *
 * The variables are STATEDIR/firmware/NAME.fd (with Secure Boot NAME+secure.fd), begun as a copy of the firmware's template at
 * the first start, and the VM's from then on. Does not own: how QEMU is given them (fragment.h, argv.h).
 */
#pragma once

#include "launcher/files.h"

/*
 * What SPEC, effective, asks for on the versioned MACHINE: {"code", "code-format", "template", "vars", "vars-format", "smm"}, all
 * paths; new. NULL in RET: it is not UEFI. -ENOENT (host): nothing here fits, and what to install. FOLDERS: where descriptions
 * are, the first that has a file of a name wins, ends with NULL; NULL: where packages and people put them.
 */
int vm_firmware_find(const struct vm_dirs *dirs, const json_t *spec, const char *machine, const char *const *folders,
		     json_t **ret, struct qmp_error *err);
/* The variables are there, and the user that QEMU runs as may write them. FIRMWARE: as found; NULL: nothing to do. */
int vm_firmware_make(const struct vm_dirs *dirs, const json_t *spec, const json_t *firmware, struct qmp_error *err);
/* Where NAME's variables are, once it has any; new. SECURE: those with Secure Boot. */
char *vm_firmware_vars(const struct vm_dirs *dirs, const char *name, bool secure);
/*
 * Those with Secure Boot were NAME.secure.fd once, which a VM NAME.secure has now: they get the name that they have now, before
 * there is such a VM. Where it is there already it keeps the file, and NAME begins anew: that one may lack the keys.
 */
void vm_firmware_move_old(const struct vm_dirs *dirs);
/* Removes what NAME has. */
void vm_firmware_remove(const struct vm_dirs *dirs, const char *name);
