#include "proto/greeting.h"
#include "proto/base.h"

bool qmp_greeting_offers_oob(const json_t *greeting)
{
	json_t *capability;
	size_t i;

	json_array_foreach(json_object_get(greeting, "capabilities"), i, capability)
		if (json_is_string(capability) && streq(json_string_value(capability), "oob"))
			return true;
	return false;
}
