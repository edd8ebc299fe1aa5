/*
 * What OpenSSH's client configuration, which QEMU's driver for ssh reads, too, would have it run.
 *
 * "Match exec" is: libssh runs the command while it reads the file. ProxyCommand and ProxyJump are not: QEMU connects
 * by itself. Source: libssh src/config.c; QEMU block/ssh.c, connect_to_ssh. Found by trying with libssh 0.10.6.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Whether ~USER/.ssh/config (USER NULL: whose we are) or /etc/ssh/ssh_config, or what they include, has one. */
bool vm_ssh_config_runs(const char *user);
/* Of one text, LEN bytes. What is included is told by INCLUDE, which may be NULL; true from it ends the search. Pure. */
bool vm_ssh_config_text_runs(const char *text, size_t len, bool (*include)(void *data, const char *pattern), void *data);
