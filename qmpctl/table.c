/*
 * Tables for people: each column is as wide as what is in it, and on a terminal the whole no wider than its lines.
 */
#include "qmpctl/cli.h"
#include "proto/base.h"

#include <ctype.h>
#include <sys/ioctl.h>

#define COLUMNS_MAX 8
#define GAP	    2
#define NARROWEST   8 /* no column is cut below that: of what is shorter nothing could be told any more */
#define CUT	    "..."

/* Characters of UTF-8. */
static int width_of(const char *text)
{
	int n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

/* Where the N-th character of TEXT begins. */
static const char *character(const char *text, int n)
{
	while (*text && n > 0)
		n -= ((unsigned char)*++text & 0xc0) != 0x80;
	return text;
}

/* A name of somebody's file does not speak to the terminal. */
static void print_text(const char *text, size_t len)
{
	for (; len > 0; len--, text++)
		putchar(iscntrl((unsigned char)*text) ? '?' : *text);
}

/* Of a path the end tells more than the beginning. */
static void print_cell(const char *text, int most)
{
	int width = width_of(text), kept = most - (int)strlen(CUT);
	const char *from;

	if (width <= most) {
		print_text(text, strlen(text));
	} else if (*text == '/') {
		from = character(text, width - kept);
		printf(CUT);
		print_text(from, strlen(from));
	} else {
		print_text(text, (size_t)(character(text, kept) - text));
		printf(CUT);
	}
}

/* The line does not end in blanks. */
static void print_line(const char *const *cells, const int *widths, int n)
{
	int blanks = 0;

	for (int c = 0; c < n; c++) {
		int width = width_of(cells[c]);
		if (width > 0) {
			printf("%*s", blanks, "");
			print_cell(cells[c], widths[c]);
		}
		blanks = (width > 0 ? 0 : blanks) + widths[c] - (width < widths[c] ? width : widths[c]) + GAP;
	}
}

/* The widest column gives first. */
static void fit(int *widths, int n, int line)
{
	int all = (n - 1) * GAP, widest = 0;

	for (int c = 0; c < n; c++)
		all += widths[c];
	for (; all > line; all--) {
		for (int c = 0; c < n; c++)
			widest = widths[c] > widths[widest] ? c : widest;
		if (widths[widest] <= NARROWEST)
			return;
		widths[widest]--;
	}
}

int cli_terminal_columns(int fd)
{
	struct winsize size;

	return isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

void cli_print_table(const char *const *head, const json_t *rows)
{
	int widths[COLUMNS_MAX], n = 0, line = cli_terminal_columns(STDOUT_FILENO);
	const json_t *row;
	size_t i;

	for (; head[n] && n < COLUMNS_MAX; n++) {
		widths[n] = width_of(head[n]);
		json_array_foreach(rows, i, row) {
			int w = width_of(json_string_value(json_array_get(row, (size_t)n)));
			widths[n] = w > widths[n] ? w : widths[n];
		}
	}
	if (line > 0)
		fit(widths, n, line);
	printf("%s", cli_bold());
	print_line(head, widths, n);
	printf("%s\n", cli_plain());
	json_array_foreach(rows, i, row) {
		const char *cells[COLUMNS_MAX];
		for (int c = 0; c < n; c++)
			cells[c] = json_string_value(json_array_get(row, (size_t)c));
		print_line(cells, widths, n);
		putchar('\n');
	}
}
