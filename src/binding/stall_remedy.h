/* Known causes of stalls and what to write instead: libraries by the files of their frames, system
 * calls by what they wait for. All texts are static. Any thread; nothing here needs the GIL. */
#ifndef TAUT_BINDING_STALL_REMEDY_H
#define TAUT_BINDING_STALL_REMEDY_H

#include "binding/frames.h"
#include "io/thread_stat.h"

typedef struct {
    const char *code; /* of the finding */
    const char *cause, *remedy;
} taut_stall_known;

/* The library that the innermost user's frame has called: `*at` is its outermost frame among the
 * first `count`, which are all no user's. `blocked`: the thread sleeps, else it computes. NULL:
 * none that is known. */
const taut_stall_known *taut_stall_known_library(const taut_stack *stack, uint32_t count,
                                                 int blocked, uint32_t *at);
/* Of a thread that sleeps in a call made by the user's own line; never NULL. */
const taut_stall_known *taut_stall_known_call(enum taut_blocked blocked);

#endif
