/*
 * The caller-owned error: filled once, then given context from the inside out.
 */
#include "proto/base.h"
#include "proto/qmp.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const kind_names[] = {
	[QMP_ERR_NONE] = "none",
	[QMP_ERR_USAGE] = "usage",
	[QMP_ERR_NOT_FOUND] = "not-found",
	[QMP_ERR_EXISTS] = "exists",
	[QMP_ERR_STATE] = "state",
	[QMP_ERR_BUSY] = "busy",
	[QMP_ERR_REFUSED] = "refused",
	[QMP_ERR_TIMEOUT] = "timeout",
	[QMP_ERR_PENDING] = "pending",
	[QMP_ERR_CLOSED] = "closed",
	[QMP_ERR_PROTOCOL] = "protocol",
	[QMP_ERR_CANCELLED] = "cancelled",
	[QMP_ERR_LIMIT] = "limit",
	[QMP_ERR_UNSUPPORTED] = "unsupported",
	[QMP_ERR_HOST] = "host",
	[QMP_ERR_ENDED] = "ended",
	[QMP_ERR_INTERNAL] = "internal",
};

/* A message that was cut says so. */
static void mark_cut(struct qmp_error *err, int wanted)
{
	if (wanted >= (int)sizeof err->message)
		memcpy(err->message + sizeof err->message - 4, "...", 4);
}

static void fill(struct qmp_error *err, enum qmp_error_kind kind, int code, const char *fmt, va_list ap)
{
	err->kind = kind;
	err->code = code;
	mark_cut(err, vsnprintf(err->message, sizeof err->message, fmt, ap));
}

int qmp_error_set(struct qmp_error *err, enum qmp_error_kind kind, int code, const char *fmt, ...)
{
	va_list ap;

	if (err && err->kind == QMP_ERR_NONE) {
		va_start(ap, fmt);
		fill(err, kind, code, fmt, ap);
		va_end(ap);
	}
	return code;
}

int qmp_error_errno(struct qmp_error *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t len;

	if (err && err->kind == QMP_ERR_NONE) {
		va_start(ap, fmt);
		fill(err, QMP_ERR_HOST, code, fmt, ap);
		va_end(ap);
		len = strlen(err->message);
		mark_cut(err, (int)len + snprintf(err->message + len, sizeof err->message - len, ": %s",
						  strerror(-code)));
	}
	return code;
}

int qmp_error_wrap(struct qmp_error *err, const char *fmt, ...)
{
	char inner[QMP_ERROR_MAX];
	va_list ap;
	size_t len;

	if (!err || err->kind == QMP_ERR_NONE)
		return -EIO;
	memcpy(inner, err->message, sizeof inner);
	va_start(ap, fmt);
	mark_cut(err, vsnprintf(err->message, sizeof err->message, fmt, ap));
	va_end(ap);
	len = strlen(err->message);
	mark_cut(err, (int)len + snprintf(err->message + len, sizeof err->message - len, ": %s", inner));
	return err->code;
}

const char *qmp_error_kind_name(enum qmp_error_kind kind)
{
	return (size_t)kind < ARRAY_SIZE(kind_names) ? kind_names[kind] : "internal";
}

enum qmp_error_kind qmp_error_kind_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(kind_names); i++)
		if (streq(name, kind_names[i]))
			return (enum qmp_error_kind)i;
	return QMP_ERR_INTERNAL;
}
