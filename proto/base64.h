/* Bytes in JSON: base64 (RFC 4648, section 4, with padding). */
#pragma once

#include <stddef.h>

/* New; NULL when memory is out. */
char *qmp_base64_encode(const void *bytes, size_t len);
/* RET new, *RET_LEN bytes and a NUL behind them. -EINVAL: TEXT is no base64; -ENOMEM. */
int qmp_base64_decode(const char *text, char **ret, size_t *ret_len);
