/* What to do about a stall, where its stack shows a mistake that has a known remedy. */
#ifndef TAUT_BINDING_STALL_HINT_H
#define TAUT_BINDING_STALL_HINT_H

#include "binding/frames.h"

/* A sentence for the first `count` frames (innermost first), or NULL. Static storage. Any thread,
 * without the GIL. */
const char *taut_stall_hint(const taut_stack *stack, uint32_t count);

#endif
