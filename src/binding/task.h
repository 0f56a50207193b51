/* taut._core.Future and Task: C subclasses of asyncio's own which use the base's fields as their
 * storage. So everything that the base does by its fields (result(), add_done_callback(), cancel(),
 * await, repr, finalizers) holds for them without a line here, bound or unbound, and an asyncio
 * Task may await ours as ours may await asyncio's. What is new is the way from a result to the next
 * step of a coroutine: no callback object, no Handle, no method call in between.
 *
 * The layout is one per CPython version; taut_tasks_enable() proves it on objects with known
 * contents before any of these types is used. GIL held; a task's functions on its loop's thread. */
#ifndef TAUT_BINDING_TASK_H
#define TAUT_BINDING_TASK_H

#include "base/list.h"
#include "binding/compat.h"
#include "binding/pyloop.h"

enum { TAUT_FUTURE_PENDING, TAUT_FUTURE_CANCELLED, TAUT_FUTURE_FINISHED };

/* The fields of _asyncio.Future ... */
typedef struct {
    PyObject_HEAD PyObject *loop, *callback0, *context0, *callbacks, *exception, *exception_tb,
        *result, *source_tb, *cancel_msg;
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *cancelled_exc;
#if PY_VERSION_HEX >= 0x030E0000
    PyObject *awaited_by; /* a future or task, or a set of them */
    int state;
    char is_task, awaited_by_is_set;
#else
    int state;
#endif
    unsigned log_tb : 1, blocking : 1, must_cancel : 1, log_destroy_pending : 1;
#else
    int state, log_tb, blocking;
    PyObject *dict, *weaklist, *cancelled_exc;
#endif
} taut_aio_future;

/* ... and of _asyncio.Task. */
typedef struct {
    taut_aio_future fut;
#if PY_VERSION_HEX >= 0x030D0000
    int cancel_requested;
    PyObject *waiter, *coro, *name, *context;
#if PY_VERSION_HEX >= 0x030E0000
    taut_list node; /* among the thread's tasks that are not done; NULL when it is not there */
#endif
#define TAUT_TASK_FLAG(task, flag) ((task)->fut.flag)
#else
    PyObject *waiter, *coro, *name, *context;
    int must_cancel, log_destroy_pending, cancel_requested;
#define TAUT_TASK_FLAG(task, flag) ((task)->flag)
#endif
} taut_aio_task;

typedef struct {
    taut_aio_future aio;
    taut_pyloop *lp; /* aio.loop (which owns it), when that is a loop of ours; else NULL */
} taut_future;

typedef struct taut_task {
    taut_aio_task aio;
    taut_pyloop *lp;
#if PY_VERSION_HEX < 0x030E0000
    taut_list link; /* among all tasks that are not done */
#endif
    PyObject *site_code; /* where it was made: task_site.c */
    int site_unit;
    uint16_t note;      /* 1 + the index of its note (task_notes.h), 0: it has none */
    uint8_t cancel_due; /* cancel() was called, its CancelledError not thrown in yet */
    uint8_t birth;      /* enum taut_task_birth, request.h */
    /* When it was made, and when it last ran: the iteration's clock; 0 on loops not ours. */
    uint64_t born_ns, stepped_ns;
    struct taut_request *request; /* that it works for (owned): request.h; NULL: none */
} taut_task;

/* Future(loop=lp). NULL with an exception. */
PyObject *taut_future_new(taut_pyloop *lp);
/* Task(coro, loop=lp, name=name, context=context), the last two may be NULL; the first step is
 * queued. NULL with an exception. */
PyObject *taut_task_new(taut_pyloop *lp, PyObject *coro, PyObject *name, PyObject *context);
/* _callbacks of either type. */
PyObject *taut_future_get_callbacks(PyObject *self, void *closure);
/* cancel() of asyncio's own `base`, with these arguments. */
PyObject *taut_cancel_as(taut_state *st, PyObject *base, PyObject *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames);
/* tp_traverse of the future's part, type included. */
int taut_future_visit(PyObject *self, visitproc visit, void *arg);
/* Queues what waits for `f`, which has just become done. `lp` is its loop. 0, or -1. */
int taut_future_schedule(taut_pyloop *lp, taut_aio_future *f);
/* A result for a pending future. 1: done, or it was done before; 0: not one of ours that goes the
 * short way: call its methods; -1 with an exception. */
int taut_future_finish(taut_pyloop *lp, PyObject *future, PyObject *result);
/* What one step of `await future` does, for a Future of exactly our type. PYGEN_NEXT: *result is to
 * be yielded; *begun, 0 at first, remembers that. PYGEN_RETURN: *result is the future's. */
PySendResult taut_future_await(PyObject *future, int *begun, PyObject **result);
/* Completes a pending `f`, whose loop `lp` is native. 0, or -1. */
static inline int taut_future_complete(taut_pyloop *lp, taut_aio_future *f, PyObject *result) {
    f->result = Py_NewRef(result);
    f->state = TAUT_FUTURE_FINISHED;
    return taut_future_schedule(lp, f);
}
/* Whether futures of `lp` may go the short way: not in debug mode, whose callbacks are timed, nor
 * when call_soon() must refuse. */
static inline int taut_future_is_native(const taut_pyloop *lp) {
    return TAUT_LIKELY(lp != NULL) && !lp->debug && !lp->closed;
}
/* Whether `future` is a Future of exactly our type, of this loop, which may go that way. */
static inline int taut_future_is_ours(const taut_pyloop *lp, PyObject *future) {
    return Py_IS_TYPE(future, lp->st->own.future_type) && ((taut_future *)future)->lp == lp &&
           taut_future_is_native(lp);
}

/* task_step.c: one step of the coroutine, into which `exc` (NULL: nothing) is thrown; and the step
 * after `future` became done. The task's context is entered. 0, or -1 with an exception that has
 * nobody to go to: KeyboardInterrupt, SystemExit, a step of a task that is done. */
int taut_task_step(taut_task *t, PyObject *exc);
int taut_task_wakeup(taut_task *t, PyObject *future);
/* Queues a step. 0, or -1 with an exception. */
int taut_task_step_soon(taut_task *t, PyObject *exc);
/* Whether the task's loop runs: 1 or 0, or -1 with an exception. Then the first step at once, from
 * within whatever runs now. 0, or -1 with an exception. */
int taut_task_loop_is_running(taut_task *t);
int taut_task_start_eagerly(taut_task *t);
/* Steps as callables, for loops that are not ours and for debug mode; a new reference. */
PyObject *taut_task_step_callable(taut_task *t);
PyObject *taut_task_wakeup_callable(taut_task *t);
extern PyMethodDef taut_task_step_def, taut_task_wakeup_def; /* of these callables */

/* task_site.c: notes who makes the task, by the thread's frames. 1: a finalizer is among them. */
int taut_task_site_take(taut_state *st, taut_task *t);
/* The same of anything else, user code's if some is on the stack; NULL without an exception: not
 * known. And file, line, function of that. */
PyObject *taut_site_new(taut_state *st);
PyObject *taut_site_show(PyObject *site);
/* What a task waits for (a task of ours or of asyncio's), borrowed; NULL: nothing, or not a task.
 * Called on what it returned it follows the chain. */
PyObject *taut_task_awaits(taut_state *st, PyObject *task);
/* The module's task_created_at(task), task_awaited(task) and task_sites_enable(dirs, libraries,
 * runners). */
PyObject *taut_task_created_at(PyObject *module, PyObject *task);
PyObject *taut_task_awaited(PyObject *module, PyObject *task);
PyObject *taut_task_sites_enable(PyObject *module, PyObject *args);

/* The module's task_field_is(object, name, value), tasks_known() and tasks_enable(by_default). */
PyObject *taut_task_field_is(PyObject *module, PyObject *args);
PyObject *taut_tasks_known(PyObject *module, PyObject *unused);
PyObject *taut_tasks_enable(PyObject *module, PyObject *by_default);
PyObject *taut_live_tasks(PyObject *module, PyObject *unused); /* those that are not done */

#endif
