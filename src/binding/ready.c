/* The ready queue's Python side: queueing calls, and the loop that runs them. */
#include "binding/compat.h"
#include "binding/context.h"
#include "binding/err.h"
#include "binding/handle.h"
#include "binding/pyloop.h"
#include "binding/task_current.h"
#include "binding/trace.h"

/* ---- queueing ---------------------------------------------------------------------------- */

int taut_ready_push(taut_pyloop *lp, const taut_entry *e) {
    int rc = taut_ring_push(&lp->core.ready, *e);
    if (TAUT_LIKELY(rc == 0))
        return 0;
    Py_XDECREF((PyObject *)e->a);
    Py_XDECREF((PyObject *)e->b);
    Py_XDECREF((PyObject *)e->c);
    taut_err_raise(rc);
    return -1;
}

int taut_ready_handle(taut_pyloop *lp, PyObject *handle, PyObject *vars) {
    taut_entry e = {.a = Py_NewRef(handle), .b = vars, .kind = TAUT_READY_HANDLE};
    return taut_ready_push(lp, &e);
}

int taut_ready_call1(taut_pyloop *lp, PyObject *callable, PyObject *arg, PyObject *context) {
    PyObject *ctx = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    if (ctx == NULL)
        return -1;
    taut_entry e = {.a = Py_NewRef(callable), .b = Py_XNewRef(arg), .c = ctx};
    e.kind = TAUT_READY_CALL;
    return taut_ready_push(lp, &e);
}

int taut_ready_call0(taut_pyloop *lp, PyObject *callable, PyObject *context) {
    return taut_ready_call1(lp, callable, NULL, context);
}

void taut_pyloop_wake_if_waiting(taut_pyloop *lp) {
    if (lp->waiting)
        taut_loop_wake(&lp->core);
}

/* ---- direct calls from I/O ------------------------------------------------------------- */

void taut_pyloop_context_release(taut_pyloop *lp) {
    if (!lp->in_callback && lp->thread_ident == PyThread_get_thread_ident())
        taut_context_leave(lp);
}

int taut_pyloop_call_begin(taut_pyloop *lp, PyObject *context, PyObject *current) {
    taut_pulse_step(&lp->core.pulse, current);
    if (taut_context_switch(lp, context) < 0)
        return -1;
    lp->in_callback = 1;
    return 0;
}

void taut_pyloop_call_end(taut_pyloop *lp, PyObject *context) {
    (void)context;
    lp->in_callback = 0;
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    taut_context_leave(lp);
    if (exc != NULL)
        taut_exception_restore(exc);
}

/* ---- exceptions that nobody can catch ------------------------------------------------------ */

int taut_pyloop_take_exit(taut_pyloop *lp) {
    if (!PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) &&
        !PyErr_ExceptionMatches(PyExc_SystemExit))
        return 0;
    Py_XSETREF(lp->raised, taut_exception_take());
    taut_loop_interrupt(&lp->core, TAUT_E_INTERRUPTED);
    return 1;
}

void taut_pyloop_unhandled(taut_pyloop *lp, const char *message, const char *key, PyObject *value) {
    if (taut_pyloop_take_exit(lp))
        return;
    PyObject *exc = taut_exception_take();
    PyObject *context =
        Py_BuildValue("{sssO}", "message", message, "exception", exc == NULL ? Py_None : exc);
    if (context != NULL && key != NULL && PyDict_SetItemString(context, key, value) < 0)
        Py_CLEAR(context);
    PyObject *done = NULL;
    if (context != NULL)
        done =
            PyObject_CallMethodOneArg((PyObject *)lp, lp->st->str_call_exception_handler, context);
    if (done == NULL && !taut_pyloop_take_exit(lp))
        PyErr_WriteUnraisable((PyObject *)lp);
    Py_XDECREF(done);
    Py_XDECREF(context);
    Py_XDECREF(exc);
}

/* A callback raised: the rest (message, source traceback) is Handle's own business, in Python. */
static int callback_failed(taut_pyloop *lp, PyObject *handle) {
    if (taut_pyloop_take_exit(lp))
        return TAUT_E_INTERRUPTED;
    PyObject *exc = taut_exception_take();
    taut_context_leave(lp); /* from 3.12 on the handler runs in the handle's context */
    PyObject *done = PyObject_CallMethod((PyObject *)lp, "_callback_failed", "OO",
                                         handle == NULL ? Py_None : handle, exc);
    Py_XDECREF(exc);
    if (done != NULL) {
        Py_DECREF(done);
        return 0;
    }
    if (taut_pyloop_take_exit(lp))
        return TAUT_E_INTERRUPTED;
    PyErr_WriteUnraisable((PyObject *)lp);
    return 0;
}

/* ---- running ------------------------------------------------------------------------------- */

static int run_call(taut_pyloop *lp, taut_entry *e) {
    PyObject *callable = e->a, *arg = e->b, *context = e->c, *result = NULL;
    int rc = 0;
    if (TAUT_LIKELY(taut_context_switch(lp, context) == 0)) {
        lp->in_callback = 1;
        result = arg == NULL ? PyObject_CallNoArgs(callable) : PyObject_CallOneArg(callable, arg);
        lp->in_callback = 0;
    }
    if (TAUT_LIKELY(result != NULL)) {
        Py_DECREF(result);
    } else if (taut_pyloop_take_exit(lp)) {
        rc = TAUT_E_INTERRUPTED;
    } else {
        PyObject *exc = taut_exception_take();
        PyObject *handle = taut_handle_new(lp, callable, &arg, arg != NULL, context);
        taut_exception_restore(exc);
        rc = callback_failed(lp, handle);
        Py_XDECREF(handle);
    }
    Py_DECREF(callable);
    Py_XDECREF(arg);
    Py_DECREF(context);
    return rc;
}

/* What asyncio would have been given to call. */
static PyObject *step_callable(const taut_entry *e) {
    return e->kind == TAUT_READY_STEP ? taut_task_step_callable(e->a)
                                      : taut_task_wakeup_callable(e->a);
}

/* A step that failed has nobody to tell but the loop. */
static int step_failed(taut_pyloop *lp, taut_entry *e) {
    if (taut_pyloop_take_exit(lp))
        return TAUT_E_INTERRUPTED;
    PyObject *exc = taut_exception_take(), *handle = NULL;
    taut_task *t = e->a;
    PyObject *callable = step_callable(e), *arg = e->b;
    if (callable != NULL)
        handle = taut_handle_new(lp, callable, &arg, arg != NULL, t->aio.context);
    PyErr_Clear();
    taut_exception_restore(exc);
    int rc = callback_failed(lp, handle);
    Py_XDECREF(handle);
    Py_XDECREF(callable);
    return rc;
}

static int run_task(taut_pyloop *lp, taut_entry *e) {
    taut_task *t = e->a;
    int rc = taut_context_switch(lp, t->aio.context);
    if (TAUT_LIKELY(rc == 0)) {
        lp->in_callback = 1;
        rc = e->kind == TAUT_READY_STEP ? taut_task_step(t, e->b) : taut_task_wakeup(t, e->b);
        lp->in_callback = 0;
    }
    if (TAUT_UNLIKELY(rc < 0)) {
        taut_task_leave(lp);
        rc = step_failed(lp, e);
    }
    Py_XDECREF((PyObject *)e->b);
    Py_DECREF((PyObject *)t);
    return rc;
}

static PyObject *call_handle(taut_pyloop *lp, taut_handle *h) {
    if (taut_context_switch(lp, h->context) < 0)
        return NULL;
    /* The callback may cancel its own handle, which drops both. */
    PyObject *callback = Py_NewRef(h->callback), *args = Py_NewRef(h->args), *result;
    lp->in_callback = 1;
    if (TAUT_LIKELY(PyTuple_CheckExact(args)))
        result = PyObject_Vectorcall(callback, ((PyTupleObject *)args)->ob_item,
                                     (size_t)PyTuple_GET_SIZE(args), NULL);
    else
        result = PyObject_CallObject(callback, args);
    lp->in_callback = 0;
    Py_DECREF(callback);
    Py_DECREF(args);
    return result;
}

/* Consumes both. */
static int run_handle(taut_pyloop *lp, PyObject *handle, PyObject *vars) {
    taut_handle *h = (taut_handle *)handle;
    int rc = 0;
    if (h->cancelled != Py_True && h->callback != NULL) {
        int begun = taut_handle_begin(lp->st, handle);
        if (Py_IS_TYPE(handle, lp->st->timer_handle_type))
            lp->core.late_ns = taut_timer_handle_late_ns(handle, lp->core.now_ns);
        PyObject *result = call_handle(lp, h);
        lp->core.late_ns = 0;
        if (TAUT_LIKELY(result != NULL))
            Py_DECREF(result);
        else
            rc = callback_failed(lp, handle);
        if (begun)
            taut_handle_end(handle);
        taut_context_undo(lp, h->context, vars);
    } else {
        Py_XDECREF(vars);
    }
    Py_DECREF(handle);
    return rc;
}

/* Makes a TAUT_READY_CALL of a task's step. 0, or -1 with an exception and *e as it was. */
static int step_to_call(taut_entry *e) {
    taut_task *t = e->a;
    PyObject *callable = step_callable(e);
    if (callable == NULL)
        return -1;
    *e = (taut_entry){.a = callable, .b = e->b, .c = Py_NewRef(t->aio.context)};
    e->kind = TAUT_READY_CALL;
    Py_DECREF((PyObject *)t);
    return 0;
}

/* Debug mode: each callback is timed, and known to the exception handler as _current_handle. */
static int run_timed(taut_pyloop *lp, taut_entry *e) {
    if ((e->kind == TAUT_READY_STEP || e->kind == TAUT_READY_WAKEUP) && step_to_call(e) < 0)
        return step_failed(lp, e);
    PyObject *handle = e->a, *vars = e->b;
    if (e->kind == TAUT_READY_CALL) {
        PyObject *arg = e->b;
        vars = NULL;
        handle = taut_handle_new(lp, e->a, &arg, arg != NULL, e->c);
        Py_DECREF((PyObject *)e->a);
        Py_XDECREF(arg);
        Py_DECREF((PyObject *)e->c);
        if (handle == NULL)
            return callback_failed(lp, NULL);
    }
    Py_INCREF(handle);
    lp->current_handle = handle;
    lp->timing = 1;
    uint64_t start_ns = taut_clock_now_ns();
    int rc = run_handle(lp, handle, vars);
    taut_task_leave(lp);
    double seconds = (double)(taut_clock_now_ns() - start_ns) * 1e-9;
    lp->current_handle = NULL;
    lp->timing = 0;
    if (rc == 0 && seconds >= lp->slow_callback_duration) {
        PyObject *done =
            PyObject_CallMethod((PyObject *)lp, "_callback_slow", "Od", handle, seconds);
        if (done == NULL)
            rc = callback_failed(lp, handle);
        Py_XDECREF(done);
    }
    Py_DECREF(handle);
    return rc;
}

int taut_ready_run(void *ctx, size_t count) {
    taut_pyloop *lp = ctx;
    taut_ring *ready = &lp->core.ready;
    int rc = 0;
    for (; count > 0 && rc == 0 && lp->core.interrupt_err == 0; count--) {
        taut_entry e = taut_ring_pop(ready);
        if (e.kind == TAUT_ENTRY_CORE) {
            taut_task_leave(lp);
            taut_context_leave(lp);
            taut_pulse_step(&lp->core.pulse, NULL);
            taut_recorder_add(&lp->core.recorder, TAUT_EVENT_CALL, 0, 0);
            taut_loop_run_core_entry(&e);
            continue;
        }
        taut_pulse_step(&lp->core.pulse, e.a);
        if (e.kind >= TAUT_READY_STEP) {
            taut_trace_step(lp, e.a);
            if (TAUT_LIKELY(!lp->debug)) {
                rc = run_task(lp, &e);
                continue;
            }
        } else {
            taut_trace_call(lp, e.kind == TAUT_READY_CALL ? e.a : ((taut_handle *)e.a)->callback);
        }
        taut_task_leave(lp);
        if (TAUT_UNLIKELY(lp->debug))
            rc = run_timed(lp, &e);
        else if (e.kind == TAUT_READY_CALL)
            rc = run_call(lp, &e);
        else
            rc = run_handle(lp, e.a, e.b);
    }
    return rc;
}

void taut_ready_done(void *ctx) {
    taut_task_leave(ctx);
    taut_context_leave(ctx);
}

/* ---- the garbage collector's view ---------------------------------------------------------- */

void taut_ready_clear(taut_pyloop *lp) {
    taut_ring *ready = &lp->core.ready;
    while (taut_ring_count(ready) > 0) {
        taut_entry e = taut_ring_pop(ready);
        if (e.kind == TAUT_ENTRY_CORE) {
            taut_loop_run_core_entry(&e); /* a stream's `closed`: it must come, once */
            continue;
        }
        Py_XDECREF((PyObject *)e.a);
        Py_XDECREF((PyObject *)e.b);
        Py_XDECREF((PyObject *)e.c);
    }
}

int taut_ready_traverse(taut_pyloop *lp, visitproc visit, void *arg) {
    taut_ring *ready = &lp->core.ready;
    for (size_t i = 0; i < taut_ring_count(ready); i++) {
        taut_entry *e = taut_ring_at(ready, i);
        if (e->kind == TAUT_ENTRY_CORE)
            continue;
        Py_VISIT((PyObject *)e->a);
        Py_VISIT((PyObject *)e->b);
        Py_VISIT((PyObject *)e->c);
    }
    return 0;
}
