#include "qmpctl/progress.h"
#include "proto/base.h"


#define EVERY_TERMINAL 100000000u  /* ns */
#define EVERY_JSON     500000000u
#define BAR_MAX        30
#define BAR_MIN        5

void progress_bytes(uint64_t bytes, char *ret)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	size_t i = 0;

	while (value >= 1024 && i + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		i++;
	}
	snprintf(ret, 32, i == 0 ? "%.0f %s" : "%.1f %s", value, units[i]);
}

void progress_begin(struct progress *p, const struct cli *cli, const char *doing, const char *unit)
{
	int columns = cli_terminal_columns(STDERR_FILENO);

	*p = (struct progress){.cli = cli, .doing = doing, .unit = unit, .columns = columns > 0 ? columns : 80};
	p->terminal = !cli->json && isatty(STDERR_FILENO);
}

static void show_json(const struct progress *p, uint64_t done, uint64_t total)
{
	json_auto_t *line = json_pack("{s:s, s:s, s:I}", "progress", p->doing, "unit", p->unit ? p->unit : "", "done",
				      (json_int_t)done);
	_cleanup_free_ char *text = NULL;

	if (line && total > 0)
		json_object_set_new(line, "total", json_integer((json_int_t)total));
	text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	if (text)
		fprintf(stderr, "%s\n", text);
}

/* "1.2 GiB of 3.0 GiB, 40.1 MiB/s, 45 s left" */
static void describe(const struct progress *p, uint64_t now, uint64_t done, uint64_t total, char *text, size_t size)
{
	double seconds = (double)(now - p->begun_at) / 1e9, rate = seconds > 0.5 ? (double)(done - p->first) / seconds : 0;
	char a[32], b[32];
	size_t n = 0;

	*text = '\0';
	if (p->unit) {
		progress_bytes(done, a);
		progress_bytes(total, b);
		n = (size_t)snprintf(text, size, total ? "%s of %s" : "%s", a, b);
	}
	if (p->unit && rate > 0 && n < size) {
		progress_bytes((uint64_t)rate, a);
		n += (size_t)snprintf(text + n, size - n, ", %s/s", a);
	}
	if (total > done && rate > 0 && n < size)
		(void)snprintf(text + n, size - n, "%s%.0f s left", n ? ", " : "", (double)(total - done) / rate);
}

static void show_bar(const struct progress *p, uint64_t now, uint64_t done, uint64_t total)
{
	char text[160], bar[BAR_MAX + 1] = "", line[320];

	describe(p, now, done, total, text, sizeof text);
	if (total > 0) {
		double share = done < total ? (double)done / (double)total : 1;
		int room = p->columns - 1 - (int)(strlen(p->doing) + strlen(" [] 100 %  ") + strlen(text));
		room = room < BAR_MIN ? 0 : room < BAR_MAX ? room : BAR_MAX; /* what is told in words goes before it */
		for (int i = 0; i < room; i++)
			bar[i] = i < (int)(share * room) ? '#' : '-';
		snprintf(line, sizeof line, room ? "%s [%s] %3.0f %%  %s" : "%s%s %3.0f %%  %s", p->doing, bar, share * 100, text);
	} else {
		snprintf(line, sizeof line, "%s %s", p->doing, text);
	}
	fprintf(stderr, "\r%.*s\033[K", p->columns - 1, line);
	fflush(stderr);
}

void progress_update(struct progress *p, uint64_t done, uint64_t total)
{
	uint64_t now = uv_hrtime();

	if (!p->cli->json && !p->terminal)
		return;
	if (!p->begun || done < p->first) {
		p->begun = true;
		p->begun_at = now;
		p->first = done;
	} else if (now - p->shown_at < (p->terminal ? EVERY_TERMINAL : EVERY_JSON) && done != total) {
		return;
	}
	p->shown_at = now;
	if (p->terminal)
		show_bar(p, now, done, total);
	else
		show_json(p, done, total);
	p->visible = p->terminal;
}

void progress_end(struct progress *p)
{
	if (p->visible)
		fprintf(stderr, "\r\033[K");
	p->visible = false;
}

void progress_note(struct progress *p, const char *text)
{
	progress_end(p);
	if (!p->cli->json) {
		fprintf(stderr, "%s\n", text);
		return;
	}
	json_auto_t *line = json_pack("{s:s}", "note", text);
	_cleanup_free_ char *words = line ? json_dumps(line, JSON_COMPACT) : NULL;
	if (words)
		fprintf(stderr, "%s\n", words);
}
