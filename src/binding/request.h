/* taut._core.Request: a request that a service works on, from request_begin() to request_end().
 * The task that began it works for it, and so do the tasks that this one makes meanwhile, until
 * the request is over. What its steps wait for and hold up is counted by its route (io/routes.h),
 * which is asked for late: a router knows it only after it was called. Tasks of taut's loops only;
 * their loop's thread, with the GIL. */
#ifndef TAUT_BINDING_REQUEST_H
#define TAUT_BINDING_REQUEST_H

#include "binding/frames.h"
#include "binding/task.h"
#include "io/peek.h"

#define TAUT_REQUEST_TEXT_MAX 200

typedef struct taut_request {
    PyObject_HEAD PyObject *subject; /* what route_of is asked with; NULL when it is over */
    PyObject *route_of;              /* route_of(subject, last) -> str or None */
    PyObject *method, *path;         /* str */
    taut_pyloop *lp;                 /* owned */
    struct taut_request *outer;      /* what its task worked for before; owned */
    const taut_task *stepper;        /* the task whose step is timed now, not to be looked into */
    int route;                       /* of io/routes.h, -1: not known yet */
    int tries;                       /* how often route_of was asked */
    int over;
    uint64_t number; /* among those of its loop */
    uint64_t began_ns;
    uint64_t step_ns;  /* when the step began, 0: none runs */
    uint64_t ready_ns; /* since when one of its tasks is ready, 0: none is */
    uint64_t lag_ns, lag_longest_ns, delayed_ns, stalls, stalls_ns; /* not counted by route yet */
    int was_delayed;                                                /* and counted as such */
} taut_request;

/* Of its first step: whether it is still to come, and what it was made by. */
enum taut_task_birth { TAUT_TASK_STEPPED, TAUT_TASK_MADE, TAUT_TASK_MADE_BY_EVENT };

/* The loop that runs on this thread (borrowed); NULL: none of ours. loop_run.c. */
taut_pyloop *taut_pyloop_running(void);

/* What `inline` ones call when the task works for a request. */
void taut_request_ready_slow(taut_task *t);
void taut_request_step_begin_slow(taut_task *t);
void taut_request_step_end_slow(taut_task *t, int rc);
void taut_request_leave_slow(taut_task *t);

/* A new task works for what the task works for that runs now. */
static inline void taut_request_inherit(taut_task *t) {
    const taut_task *by = (const taut_task *)t->lp->current_task;
    if (by != NULL && TAUT_UNLIKELY(by->request != NULL))
        Py_XSETREF(t->request, (taut_request *)Py_NewRef((PyObject *)by->request));
}
/* A step of it is about to be queued. */
static inline void taut_request_ready(taut_task *t) {
    if (TAUT_UNLIKELY(t->request != NULL))
        taut_request_ready_slow(t);
}
/* Around a step on a loop of ours; `rc` < 0: an exception is set, which stays. */
static inline void taut_request_step_begin(taut_task *t) {
    if (TAUT_UNLIKELY(t->request != NULL))
        taut_request_step_begin_slow(t);
}
static inline void taut_request_step_end(taut_task *t, int rc) {
    if (TAUT_UNLIKELY(t->request != NULL))
        taut_request_step_end_slow(t, rc);
}
/* It works for none any more. */
static inline void taut_request_leave(taut_task *t) {
    if (TAUT_UNLIKELY(t->request != NULL))
        taut_request_leave_slow(t);
}

/* request_peek.c, without the GIL. The request at `at`, which may be anything: 0 with a copy of it,
 * or -1. And that of a task: where it is, which is not to be looked into; NULL: none. */
int taut_request_read(taut_peek *p, const taut_state *st, const void *at, taut_request *r);
const void *taut_request_of_task(taut_peek *p, const taut_state *st, const void *task,
                                 taut_request *r);
/* "GET /items/{id}", or the path while the route is not known; `scratch` is left as it was. 0, or
 * -1. And that of the task whose step `core`, a taut_pyloop's, runs. */
int taut_request_say(taut_peek *p, const taut_request *r, taut_stack *scratch, char *to,
                     size_t room);
int taut_request_say_running(const taut_loop *core, taut_stack *scratch, char *to, size_t room);

#endif
