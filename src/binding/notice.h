/* Rare events that the doctor is told of as they happen: a coroutine that nobody has awaited, a
 * transport that was forgotten. What they mean is decided in Python (taut/doctor/_hooks.py), by the
 * one function that taut/_notices.py has registered. With the GIL held; any thread. */
#ifndef TAUT_BINDING_NOTICE_H
#define TAUT_BINDING_NOTICE_H

#include "binding/pyloop.h"

/* notice(kind, *args); `format` and what follows are Py_BuildValue's, of a tuple. An exception that
 * was set before stays set, none is left that was not; KeyboardInterrupt and SystemExit leave the
 * run of `lp`, if there is one. Returns the number that it has returned; 0: none, nobody listens.
 */
uint64_t taut_notice(taut_state *st, taut_pyloop *lp, const char *kind, const char *format, ...);

/* Whether a collection runs on the thread of the running loop `lp`. */
static inline int taut_pyloop_is_in_gc(taut_pyloop *lp) {
    return atomic_load_explicit(&lp->core.pulse.in_gc, memory_order_relaxed) != 0;
}
/* loop_run.c: in_gc() -> bool: whether a collection runs on this thread. */
PyObject *taut_pyloop_in_gc(PyObject *module, PyObject *unused);
/* The module's notices_enable(notice, warn_unawaited) and warn_unawaited(coro). */
int taut_notice_functions_add(PyObject *module, taut_state *st);

#endif
