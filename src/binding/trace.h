/* What the binding gives to the flight recorder (io/recorder.h), and the recorder's dump as a trace
 * in which tasks and functions have names. */
#ifndef TAUT_BINDING_TRACE_H
#define TAUT_BINDING_TRACE_H

#include "binding/pyloop.h"
#include "binding/task.h"
#include "io/trace.h"

/* ---- recording; on the loop's thread, or with the GIL while it waits ---- */

/* A callable begins to run: noted is what outlives it, the code of a function or else its type. */
void taut_trace_call(taut_pyloop *lp, PyObject *callable);
static inline void taut_trace_step(taut_pyloop *lp, const taut_task *t) {
    taut_recorder_add(&lp->core.recorder, TAUT_EVENT_STEP, taut_recorder_id(t), 0);
}
/* A place, as the events CREATED and QUEUED have it. */
static inline uint64_t taut_trace_place(const PyObject *code, int unit) {
    uint64_t at = unit < 0 || unit > UINT16_MAX ? 0 : (uint64_t)unit;
    return (uint64_t)(uintptr_t)code << 16 | at;
}
static inline void taut_trace_created(const taut_task *t) {
    if (TAUT_LIKELY(t->lp != NULL))
        taut_recorder_add(&t->lp->core.recorder, TAUT_EVENT_CREATED, taut_recorder_id(t),
                          taut_trace_place(t->site_code, t->site_unit));
}
/* `coro` was its coroutine. */
void taut_trace_ended(const taut_task *t, PyObject *coro);

/* ---- the dump ---- */

/* A trace of all loops of the process. NULL when memory is out. Any thread, without the GIL. */
taut_trace *taut_trace_begin(void);
/* Module functions; 0, or -1 with an exception. */
int taut_trace_functions_add(PyObject *module);

#endif
