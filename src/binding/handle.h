/* taut._core.Handle and TimerHandle: C subclasses of asyncio.Handle and asyncio.TimerHandle which
 * use the base's own slots as their storage, so that isinstance, repr, `_callback`, `_args`,
 * `_context`, `_cancelled`, `_when` and the base's Python methods all keep working. The layout is
 * checked against the base's member descriptors when the module starts. GIL held. */
#ifndef TAUT_BINDING_HANDLE_H
#define TAUT_BINDING_HANDLE_H

#include "binding/compat.h"
#include "binding/pyloop.h"

/* In the order CPython gives slots: by name, then (before 3.12) __weakref__. */
typedef struct {
    PyObject_HEAD PyObject *args, *callback, *cancelled, *context, *loop, *repr, *source_traceback;
    TAUT_WEAKLIST_FIELD
} taut_handle;

#if PY_VERSION_HEX >= 0x030E0000
/* Of call_soon_threadsafe(): while its callback runs, cancel() and cancelled() of other threads
 * wait. */
typedef struct {
    taut_handle h;
    PyObject *lock;       /* asyncio.events._ThreadSafeHandle's slot, which stays empty */
    unsigned long runner; /* the thread that runs it, 0 when none ... */
    PyMutex running;      /* ... and has this locked meanwhile */
} taut_threadsafe_handle;
#endif

typedef struct {
    taut_handle h;
    PyObject *scheduled, *when; /* asyncio.TimerHandle's own slots */
    PyObject *vars;             /* of a shared context, else NULL: see context.h */
    taut_timer timer;           /* while it is in the heap, the heap owns a reference */
} taut_timer_handle;

/* A new handle for callback(*args) in `context` (NULL: a copy of the current one). Takes its own
 * references. In debug mode it keeps the stack of its creation. NULL with an exception. */
PyObject *taut_handle_new(taut_pyloop *lp, PyObject *callback, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *context);
/* The same with a deadline: starts the timer. `when` in seconds of loop.time();
 * `shown` is what the handle gives for it, or NULL. */
PyObject *taut_timer_handle_new(taut_pyloop *lp, double when, PyObject *shown, PyObject *callback,
                                PyObject *const *args, Py_ssize_t nargs, PyObject *context);
#if PY_VERSION_HEX >= 0x030E0000
/* The same for call_soon_threadsafe(). */
PyObject *taut_threadsafe_handle_new(taut_pyloop *lp, PyObject *callback, PyObject *const *args,
                                     Py_ssize_t nargs, PyObject *context);
/* Around its callback, on any handle. begin: 1 when end must be called, else 0. */
int taut_handle_begin(taut_state *st, PyObject *handle);
void taut_handle_end(PyObject *handle);
#else
#define taut_threadsafe_handle_new taut_handle_new
static inline int taut_handle_begin(taut_state *st, PyObject *handle) {
    return 0;
}
static inline void taut_handle_end(PyObject *handle) {}
#endif
static inline int taut_handle_is_cancelled(PyObject *handle) {
    return ((taut_handle *)handle)->cancelled == Py_True;
}
/* Whether a timer of the heap belongs to a TimerHandle (the core has timers of its own). */
int taut_timer_is_handle(const taut_timer *t);
/* How long ago the deadline of a TimerHandle was. */
static inline uint64_t taut_timer_handle_late_ns(PyObject *handle, uint64_t now_ns) {
    uint64_t deadline_ns = ((taut_timer_handle *)handle)->timer.deadline_ns;
    return now_ns > deadline_ns ? now_ns - deadline_ns : 0;
}
/* What handle.cancel() does. */
int taut_handle_cancel(PyObject *handle);
/* A deadline of the loop's clock for `when` seconds: the first nanosecond at which loop.time() is
 * not below `when`. NaN and the past are due at once; infinity never. */
uint64_t taut_deadline_from_seconds(double when);
/* loop.time() of a clock reading: the nearest double, as time.monotonic() rounds. */
static inline double taut_seconds_from_ns(uint64_t ns) {
    return (double)ns / 1e9;
}

#endif
