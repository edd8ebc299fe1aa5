/*
 * One console of a running VM: the keeper is the only client of QEMU's socket, keeps what the guest says (a bounded
 * memory and a bounded log file), and types for whoever asks.
 */
#pragma once

#include "proto/qmp.h"

#define VM_CONSOLE_RECENT (64 * 1024)
#define VM_CONSOLE_LOG    (4 * 1024 * 1024) /* two such files a console */

struct vm_console;
typedef void (*vm_console_cb)(void *data, const char *id, const char *text, size_t len);

/* FD is connected to QEMU's chardev; taken over. DIR: where console-ID.log goes. */
int vm_console_new(uv_loop_t *loop, int dir, const char *id, int fd, vm_console_cb cb, void *data,
		   struct vm_console **ret, struct qmp_error *err);
void vm_console_free(struct vm_console *c);
const char *vm_console_id(const struct vm_console *c);
int vm_console_send(struct vm_console *c, const char *text, size_t len);
const char *vm_console_tail(const struct vm_console *c, size_t *ret_len);
struct vm_console *vm_console_next(const struct vm_console *c);
void vm_console_link(struct vm_console *c, struct vm_console *next);
