/*
 * One console of a VM: the keeper is the only client of QEMU's socket, keeps what the guest says (a bounded memory and
 * a bounded log file), and types for whoever asks. What was kept can be read until the next start.
 */
#pragma once

#include "proto/qmp.h"

#define VM_CONSOLE_RECENT (64 * 1024)
#define VM_CONSOLE_LOG    (4 * 1024 * 1024) /* two such files a console, unless it is limited otherwise */

struct vm_console;
typedef void (*vm_console_cb)(void *data, const char *id, const char *text, size_t len);

/* FD is connected to QEMU's chardev; taken over. DIR: where console-ID.log goes. */
int vm_console_new(uv_loop_t *loop, int dir, const char *id, int fd, vm_console_cb cb, void *data,
		   struct vm_console **ret, struct qmp_error *err);
void vm_console_free(struct vm_console *c);
/* The log begins anew where it would have more than MAX bytes; the one before is kept. */
void vm_console_limit(struct vm_console *c, size_t max);
const char *vm_console_id(const struct vm_console *c);
/* QEMU has not ended. */
bool vm_console_is_open(const struct vm_console *c);
/* -ENOBUFS: the guest does not read, try again later; -ENOTCONN: QEMU has ended. */
int vm_console_send(struct vm_console *c, const char *text, size_t len);
/* The end of what was said: *RET_LEN bytes, borrowed. */
const char *vm_console_tail(const struct vm_console *c, size_t *ret_len);
/* How many bytes were said since it was opened, and a number that no other opening of a console has. */
uint64_t vm_console_said(const struct vm_console *c);
uint64_t vm_console_epoch(const struct vm_console *c);
/* QEMU has ended: takes what it said last (CB hears it), and closes the connection. */
void vm_console_hang_up(struct vm_console *c);
struct vm_console *vm_console_next(const struct vm_console *c);
void vm_console_link(struct vm_console *c, struct vm_console *next);
