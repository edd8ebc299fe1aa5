#include "proto/base64.h"
#include "proto/base.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *qmp_base64_encode(const void *bytes, size_t len)
{
	const unsigned char *in = bytes;
	char *text = len < SIZE_MAX / 2 ? malloc((len + 2) / 3 * 4 + 1) : NULL, *out = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		unsigned group = (unsigned)in[i] << 16;
		if (left > 1)
			group |= (unsigned)in[i + 1] << 8;
		if (left > 2)
			group |= in[i + 2];
		*out++ = digits[group >> 18];
		*out++ = digits[group >> 12 & 63];
		*out++ = left > 1 ? digits[group >> 6 & 63] : '=';
		*out++ = left > 2 ? digits[group & 63] : '=';
	}
	*out = '\0';
	return text;
}

static int value_of(char c)
{
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

int qmp_base64_decode(const char *text, char **ret, size_t *ret_len)
{
	size_t len = strlen(text), padding = 0, n = 0;
	_cleanup_free_ char *out = NULL;

	if (len % 4 != 0)
		return -EINVAL;
	while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
		padding++;
	out = malloc(len / 4 * 3 + 1);
	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < len; i += 4) {
		unsigned group = 0;
		size_t chars = i + 4 == len ? 4 - padding : 4;
		for (size_t k = 0; k < 4; k++) {
			int v = k < chars ? value_of(text[i + k]) : 0;
			if (v < 0)
				return -EINVAL;
			group = group << 6 | (unsigned)v;
		}
		for (size_t k = 0; k + 1 < chars; k++)
			out[n++] = (char)(group >> (16 - 8 * k) & 255);
	}
	out[n] = '\0';
	*ret = take_ptr(out);
	*ret_len = n;
	return 0;
}
