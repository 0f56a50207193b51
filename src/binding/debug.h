/* Debug mode (loop.set_debug): what it logs and times. Nothing here runs with it off, but for one
 * look at a flag. The loop's thread with the GIL held, no exception lost. */
#ifndef TAUT_BINDING_DEBUG_H
#define TAUT_BINDING_DEBUG_H

#include "binding/pyloop.h"
#include "binding/task.h"

/* asyncio's logger.debug(format, about), or (format, about, detail) when `detail` is not NULL, with
 * the traceback of `exc` unless that is NULL. Nothing with debug mode off. */
void taut_debug_log(taut_pyloop *lp, const char *format, PyObject *about, const char *detail,
                    PyObject *exc);

/* Calls that no Handle stands for (a protocol's methods) are timed between these two: at least
 * slow_callback_duration, and `owner.name` of `transport` is logged as slow. A call within another
 * one counts as that one's. began: 0 when nothing is timed. Keeps an exception that is set. */
uint64_t taut_debug_time_slow(taut_pyloop *lp);
void taut_debug_timed_slow(taut_pyloop *lp, uint64_t began_ns, PyObject *owner, PyObject *name,
                           PyObject *transport);
static inline uint64_t taut_debug_time(taut_pyloop *lp) {
    return TAUT_LIKELY(!lp->debug) ? 0 : taut_debug_time_slow(lp);
}
static inline void taut_debug_timed(taut_pyloop *lp, uint64_t began_ns, PyObject *owner,
                                    PyObject *name, PyObject *transport) {
    if (TAUT_UNLIKELY(began_ns != 0))
        taut_debug_timed_slow(lp, began_ns, owner, name, transport);
}

/* The stack of the caller for objects that warn when they are forgotten; NULL with debug mode off
 * (and when there is none to be had). A new reference. */
PyObject *taut_debug_stack_slow(taut_pyloop *lp);
static inline PyObject *taut_debug_stack(taut_pyloop *lp) {
    return TAUT_LIKELY(!lp->debug) ? NULL : taut_debug_stack_slow(lp);
}
/* For those among them that the doctor names when they are forgotten: with debug mode off at least
 * the line (taut_site_new). */
static inline PyObject *taut_debug_made_at(taut_pyloop *lp) {
    return TAUT_LIKELY(!lp->debug) ? taut_site_new(lp->st) : taut_debug_stack_slow(lp);
}
/* ResourceWarning("unclosed <kind> <repr>") about `self`, with what taut_debug_made_at gave if that
 * is a stack. tracemalloc's own is added by Python when it runs. Then the doctor is told, whatever
 * filters warnings have. Never leaves an exception. */
void taut_debug_unclosed(PyObject *self, const char *kind, PyObject *made_at);
/* close() of a transport was called. From Python 3.11.3 on the finalizer of asyncio's StreamWriter
 * calls it for those that were forgotten, and warns by itself; then the doctor is told. */
void taut_debug_closing(taut_state *st, PyObject *self, const char *kind, PyObject *made_at);
/* Tells the doctor alone: `self` is open when its loop closes. Any Python code may run. */
void taut_debug_left(PyObject *self, PyObject *made_at);
/* The same as RuntimeWarning about an operation that nobody has awaited. */
void taut_debug_unawaited(PyObject *self, const char *name, PyObject *stack);

#endif
