/*
 * Waiting until a guest is ready: its first boot's work is done.
 *
 *   boots --- the agent answers ---> cloud-init is asked (status --wait) --- it has ended ---> ready, or failed
 *     |                                   |
 *     +--- "Cloud-init ... finished" on the console, and no agent answers ---> ready
 *     +--- the VM ends, or time is up ---> failed, with the console's last lines
 *
 * A guest that was given no seed is ready when its agent answers, and its cloud-init, where it has one, has ended.
 * Each stage is told by QMPCTL_PROGRESS.
 */
#pragma once

struct op_call;

#define READY_TIMEOUT 600 /* seconds, where nothing else is asked for: a first boot takes its time */

/* Begins it for CALL (qmpctl-wait), which it ends. */
void ready_start(struct op_call *call);
