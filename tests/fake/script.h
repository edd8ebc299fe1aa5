/*
 * How the fake is to misbehave: words, separated by white space, in $FAKE_QEMU and in a file "fake-qemu" of its
 * working directory (a VM's run directory, so each VM can have its own; the file's words count after the environment's).
 *
 *   exit-after=MS        ends MS after its start
 *   exit-at=COMMAND      ends when the command comes, without an answer
 *   exit-status=N        how it then ends (1); signal=N: by that signal
 *   stderr=TEXT          says TEXT first ("_" for a space)
 *   no-listen            ends at once, as for a bad option
 *   silent=COMMAND       hangs for good when the command comes: connections are accepted no more, nothing is answered
 *   silent=greeting      the same when the first client comes
 *   slow=MS              blocks that long before each reply, as a busy main loop does
 *   garbage=COMMAND      answers with bytes that are no JSON
 *   wrong-id=COMMAND     answers with an id of somebody else first, then with the right one
 *   refuse=COMMAND       answers with GenericError
 *   close=COMMAND        ends the connection, and goes on listening
 *   flood=N              sends N events after the negotiation
 *   events=N             sends N events a second as long as somebody is connected; "offset" counts them
 *   talks                says a line on each of its consoles every 10 ms
 *   cut=N                ends its first connection when N bytes were sent over it, and goes on listening
 *   trickle=MS           sends one byte at a time, each MS after the one before
 *   no-unplug            the guest never lets go of a device; a reset makes it
 *   no-powerdown         the guest ignores the power button
 *   hang-at-end          says SHUTDOWN when the guest powers off, and then hangs until a SIGTERM comes
 *   no-quit              quit and SIGTERM do nothing
 *   count                appends a line to the file "fake-starts" of its directory: its pid, and "double" where another
 *                        one lives
 *   probe                all of this holds as well when it is only asked what it can
 *
 * A file "fake-answers" beside it ($FAKE_ANSWERS: that one) is JSON: what is sent in place of the answer to a command (or
 * "greeting"), the first time, the second time, ...; the last entry stands for all later times, null is the right answer:
 *
 *   {"query-status": [null, "{\"return\": 5, \"id\": $ID}\r\n", {"say": "{", "then": "close"}]}
 *
 * Each character is a byte (so none is above U+00FF), $ID is the id that came. THEN: close ends the connection; endless goes on
 * with bytes that are no line's end; exit ends as exit-at does. TRICKLE: as the word, for this answer.
 *
 * SIGUSR1 stops the VM, or has it go on, by no command; at SIGUSR2 the guest lets go of the devices that it was asked for.
 *
 * COMMAND may be a list with commas. An unknown word ends the program with status 64: a test's typing error shows.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

struct script {
	long exit_after, slow, flood, events, cut, trickle; /* -1: not asked for */
	int exit_status, signal;
	const char *exit_at, *silent, *garbage, *wrong_id, *refuse, *close; /* lists; "": none */
	const char *stderr_text;
	bool no_listen, no_unplug, no_powerdown, hang_at_end, no_quit, talks, count, probe;
	json_t *answers; /* what "fake-answers" holds; NULL: nothing */
};

/* One that does all as it should. */
struct script script_of_nobody(void);
/* What is to be sent in place of the answer to COMMAND, now that it comes once more; NULL: the right one. Borrowed. */
const json_t *script_answer(struct script *s, const char *command);

void script_read(struct script *s);
/* Whether COMMAND stands in LIST. */
bool script_has(const char *list, const char *command);
/* Ends the process in the way that is asked for. */
_Noreturn void script_end(const struct script *s);
