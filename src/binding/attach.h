/* What attach.c and attach_uv.c share. */
#ifndef TAUT_BINDING_ATTACH_H
#define TAUT_BINDING_ATTACH_H

#include "binding/watch.h"

/* taut._core.StallWatch */
typedef struct {
    PyObject_HEAD taut_doctor_watch watch;
    taut_pulse pulse;
    PyObject *select; /* the selector's own, or NULL */
    PyObject *ready;  /* the loop's deque of callbacks; read by the watchdog while it watches */
    PyObject *code;   /* of the loop's _run_once, or NULL */
    PyThreadState *tstate; /* of the latest wait; only ever compared */
    /* uvloop only */
    struct taut_uv_hooks *hooks;
    PyObject *keeper;     /* what libuv's handles point to */
    taut_frame_id runner; /* as of the latest wait */
} taut_stall_watch;

/* An op: the left end of `ready`. */
uint64_t taut_stall_watch_progress(void *ctx);
/* The watch gets its loop's queue: 0, or -1 with an exception (it is in use, or no deque). */
int taut_stall_watch_use(taut_stall_watch *self, PyObject *ready);
int taut_stall_watch_start(taut_stall_watch *self, const taut_watchdog_ops *ops);

/* attach_uv.c: the method watch_uv, and the way back: on the loop's thread, or while the loop does
 * not run. Idempotent. */
PyObject *taut_stall_watch_uv(PyObject *self, PyObject *args);
void taut_stall_watch_uv_end(taut_stall_watch *self);

#endif
