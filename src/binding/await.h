/* The frame of a generator, a coroutine or an asynchronous generator, and what it awaits: read as
 * memory, as frames.h reads threads' stacks, so also without the GIL. */
#ifndef TAUT_BINDING_AWAIT_H
#define TAUT_BINDING_AWAIT_H

#include "binding/frames.h"

enum taut_await_state {
    TAUT_AWAIT_NONE = 0,    /* not such an object */
    TAUT_AWAIT_CREATED = 1, /* has not begun */
    TAUT_AWAIT_SUSPENDED = 2,
    TAUT_AWAIT_RUNNING = 3,
    TAUT_AWAIT_OVER = 4, /* has no frame any more */
};

typedef struct {
    enum taut_await_state state;
    const void *frame, *code, *instr;
    const void *awaits; /* when suspended: the object that it delegates to, NULL: none */
    const void *first;  /* its first local variable, mostly `self`; NULL: unset */
} taut_await;

/* What `object` of the type `type` is. TAUT_AWAIT_NONE also where it cannot be read. */
enum taut_await_state taut_await_read(taut_peek *p, const void *object, const void *type,
                                      taut_await *out);

#endif
