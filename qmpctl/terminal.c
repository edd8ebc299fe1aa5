#include "qmpctl/terminal.h"
#include "proto/base.h"

#include <signal.h>
#include <termios.h>

static struct termios before, raw;
static volatile sig_atomic_t is_raw;

static void make_raw(void)
{
	is_raw = 1;
	(void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

/* In the background it is somebody else's, who has set it up for himself. */
static void put_back(void)
{
	pid_t owner = tcgetpgrp(STDIN_FILENO);

	if (is_raw && (owner < 0 || owner == getpgrp()))
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &before);
	is_raw = 0;
}

static void handle(int number, void (*handler)(int), unsigned flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = (int)flags};

	(void)sigaction(number, &action, NULL);
}

/* Then what would have happened without us: SA_RESETHAND. */
static void on_deadly(int number)
{
	put_back();
	(void)raise(number);
}

static void on_continue(int number)
{
	int saved = errno;

	UNUSED(number);
	handle(SIGTSTP, on_deadly, SA_RESETHAND | SA_NODEFER);
	make_raw();
	errno = saved;
}

void terminal_take(void)
{
	static const int deadly[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGILL, SIGABRT,
				     SIGBUS,  SIGFPE,  SIGSEGV, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU, SIGTSTP};

	if (tcgetattr(STDIN_FILENO, &before) < 0)
		return;
	raw = before;
	cfmakeraw(&raw);
	for (size_t i = 0; i < ARRAY_SIZE(deadly); i++)
		handle(deadly[i], on_deadly, SA_RESETHAND | SA_NODEFER);
	handle(SIGCONT, on_continue, SA_RESTART);
	make_raw();
}

bool terminal_is_raw(void)
{
	return is_raw;
}

void terminal_leave(void)
{
	handle(SIGCONT, SIG_DFL, 0);
	put_back();
}
