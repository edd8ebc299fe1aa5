/*
 * The words of a run of qemu-img, to be compared.
 */
#pragma once

#include "images/qemu-img.h"
#include "tests/unit/check.h"

/* "|" behind each, until it is called again; T goes. */
static inline const char *words(struct img_task *t)
{
	static char text[4096];

	text[0] = '\0';
	for (const char *const *w = img_task_argv(t); *w; w++)
		strcat(strcat(text, *w), "|");
	img_task_free(t);
	return text;
}
