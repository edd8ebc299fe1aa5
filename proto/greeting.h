/*
 * The object behind "QMP" in a server's first message. Internal.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

bool qmp_greeting_offers_oob(const json_t *greeting);
