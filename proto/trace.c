#include "proto/trace.h"
#include "proto/qmp.h"

static qmp_trace_cb trace_cb;
static void *trace_data;

void qmp_set_trace(qmp_trace_cb cb, void *data)
{
	trace_cb = cb;
	trace_data = data;
}

void qmp_trace(const void *connection, bool sent, const char *text, size_t len)
{
	if (trace_cb)
		trace_cb(trace_data, connection, sent, text, len);
}
