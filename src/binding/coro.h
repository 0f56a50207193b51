/* Where a suspended coroutine stands: the chain of coroutines, generators and asynchronous
 * generators that await each other, from the interpreter's own frames (frames.h), without making a
 * frame object. Loop's thread or any other, with the GIL. */
#ifndef TAUT_BINDING_CORO_H
#define TAUT_BINDING_CORO_H

#include "binding/state.h"

#define TAUT_CORO_FRAMES_MAX 64

typedef struct {
    PyCodeObject *code; /* borrowed: as long as the coroutine stands */
    int unit;           /* of its instruction, as in taut_task.site_unit */
} taut_coro_frame;

/* taut_await_init with a tuple of types. 0, or -1. */
int taut_coro_init(PyObject *wrappers);
/* Whether what is read was proven to be right, by coroutines_enable(). */
int taut_coro_known(void);
/* Fills `out` from `coro` on, outermost first, and returns how many there are; 0 for what is no
 * coroutine or generator, or is not suspended. Frames beyond TAUT_CORO_FRAMES_MAX are left out. */
int taut_coro_frames(PyObject *coro, taut_coro_frame out[TAUT_CORO_FRAMES_MAX]);
/* What a coroutine or generator awaits, borrowed; NULL: nothing. */
PyObject *taut_coro_next(PyObject *coro);
/* The first `max` local variables of its frame, borrowed, some of them NULL; how many. */
int taut_coro_locals(PyObject *coro, PyObject **out, int max);
/* The line of an instruction, the function's first when it is not known. */
int taut_coro_line(PyCodeObject *code, int unit);

/* The module's coroutine_frames(coro) -> list of (code, line), and coroutines_enable(wrappers,
 * coro, frames) -> bool, which compares the two and lets the walk be used when they are the same.
 */
int taut_coro_functions_add(PyObject *module);

#endif
