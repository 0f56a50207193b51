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

/* Once, with the GIL; until then nothing is such an object. `wrappers`: built-in types of what
 * stands between an `await` and the object that it is for, which is its first field; later ones are
 * left out. 0, or -1 when this interpreter's frames are not known. */
#define TAUT_AWAIT_WRAPPERS_MAX 8
int taut_await_init(const void *const *wrappers, size_t count);
/* What `object` of the type `type` is. TAUT_AWAIT_NONE also where it cannot be read. */
enum taut_await_state taut_await_read(taut_peek *p, const void *object, const void *type,
                                      taut_await *out);
int taut_await_is_wrapper(const void *type);
/* The local variable i, below the code's number of them; NULL: unset, or no object. With the GIL,
 * while what was read stands. */
const void *taut_await_local(const taut_await *a, size_t i);

#endif
