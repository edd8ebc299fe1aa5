/*
 * A VM's guest agent in the keeper's hands.
 *
 *   absent --- port opened ---> silent --- a sync is answered ---> answers
 *     ^                            ^                                  |
 *     +------- port closed --------+---- a deadline passed -----------+
 *
 * Whether the port is open is told by VSERPORT_CHANGE, and asked of QEMU (query-chardev) where that may have been missed:
 * at the start, after taking a QEMU over, after it was unresponsive. While the agent is silent it is asked again and again,
 * less and less often.
 *
 * Owns: the connection to agent.sock, what is known of the agent. Does not own: the protocol (qmp_agent in qmp.h).
 */
#pragma once

#include "proto/qmp.h"

struct guest;
struct op_call;
struct agent;

typedef void (*agent_reply_cb)(struct op_call *call, const struct qmp_reply *reply);

/* NULL: no memory. */
struct agent *agent_new(struct guest *g);
/* After the VM is closed. */
void agent_free(struct agent *a);
/* The VM has come up, or answers again. */
void agent_look(struct agent *a);
void agent_on_event(struct agent *a, const struct qmp_event *event);
/* QEMU has gone. */
void agent_leave(struct agent *a);
/* Asks now whether it answers; each answer is told to the operations (op_call.on_agent). */
void agent_probe(struct agent *a);
/* -ENODEV: QEMU was started without one. */
int agent_has_channel(const struct agent *a, struct qmp_error *err);
/* Nothing speaks against asking it. */
bool agent_may_answer(const struct agent *a);
/* {"state", "answered"?, "version"?}; new. */
json_t *agent_status(const struct agent *a);
/*
 * Sends COMMAND for CALL. CB fires once, later, and never after CALL has ended; one at a time for each CALL. Errors: there
 * is no agent to ask, and why.
 */
int agent_ask(struct agent *a, struct op_call *call, const struct qmp_command *command, agent_reply_cb cb,
	      struct qmp_error *err);
/* CALL ends. */
void agent_forget(struct op_call *call);
