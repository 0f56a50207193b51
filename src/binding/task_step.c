/* What a task does: a step of its coroutine, and what the coroutine then waits for. */
#include "binding/context.h"
#include "binding/request.h"
#include "binding/task_current.h"
#include "binding/task_notes.h"
#include "binding/trace.h"

/* ---- queueing -----------------------------------------------------------------------------------
 */

int taut_task_step_soon(taut_task *t, PyObject *exc) {
    taut_request_ready(t);
    if (taut_future_is_native(t->lp)) {
        taut_entry e = {.a = Py_NewRef((PyObject *)t), .b = Py_XNewRef(exc)};
        e.kind = TAUT_READY_STEP;
        return taut_ready_push(t->lp, &e);
    }
    taut_state *st = taut_state_of_type(Py_TYPE((PyObject *)t));
    PyObject *step = taut_task_step_callable(t);
    PyObject *method = step == NULL ? NULL : PyObject_GetAttr(t->aio.fut.loop, st->str_call_soon);
    PyObject *args[4] = {NULL, step, exc == NULL ? t->aio.context : exc, t->aio.context};
    PyObject *handle =
        method == NULL ? NULL
                       : PyObject_Vectorcall(method, args + 1, exc == NULL ? 1 : 2, st->kw_context);
    Py_XDECREF(method);
    Py_XDECREF(step);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

/* Nobody knows what runs after a step that was called. */
static PyObject *called(taut_task *t, int rc) {
    if (t->lp != NULL)
        taut_task_leave(t->lp);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *step_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "a task's step takes at most 1 argument, not %zd", nargs);
        return NULL;
    }
    PyObject *exc = nargs == 1 && args[0] != Py_None ? args[0] : NULL;
    return called((taut_task *)self, taut_task_step((taut_task *)self, exc));
}

static PyObject *wakeup_call(PyObject *self, PyObject *future) {
    return called((taut_task *)self, taut_task_wakeup((taut_task *)self, future));
}

PyMethodDef taut_task_step_def = {"task_step", (PyCFunction)(void (*)(void))step_call,
                                  METH_FASTCALL, NULL};
PyMethodDef taut_task_wakeup_def = {"task_wakeup", wakeup_call, METH_O, NULL};

PyObject *taut_task_step_callable(taut_task *t) {
    return PyCFunction_New(&taut_task_step_def, (PyObject *)t);
}

PyObject *taut_task_wakeup_callable(taut_task *t) {
    return PyCFunction_New(&taut_task_wakeup_def, (PyObject *)t);
}

/* A step into which RuntimeError is thrown: the coroutine awaited what it must not. */
static int step_error(taut_task *t, const char *format, PyObject *a, PyObject *b) {
    PyErr_Format(PyExc_RuntimeError, format, a, b);
    PyObject *exc = taut_exception_take();
    int rc = taut_task_step_soon(t, exc);
    Py_DECREF(exc);
    return rc;
}

/* ---- the coroutine waits ----------------------------------------------------------------------
 */

/* cancel() came while the coroutine ran: what it waits for now is cancelled. */
static int cancel_awaited(taut_state *st, taut_task *t, PyObject *future) {
    PyObject *message = t->aio.fut.cancel_msg == NULL ? Py_None : t->aio.fut.cancel_msg;
    PyObject *args[] = {future, message};
    PyObject *done = PyObject_VectorcallMethod(st->str_cancel, args, 1, st->kw_msg);
    int is = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (is > 0)
        TAUT_TASK_FLAG(&t->aio, must_cancel) = 0;
    return is < 0 ? -1 : 0;
}

/* future.add_done_callback(waiter, context=...); consumes `waiter`, which may be NULL with an
 * exception. */
static int add_waiter(taut_state *st, taut_task *t, PyObject *future, PyObject *waiter) {
    PyObject *args[] = {future, waiter, t->aio.context};
    PyObject *done = waiter == NULL ? NULL
                                    : PyObject_VectorcallMethod(st->str_add_done_callback, args, 2,
                                                                st->kw_context);
    Py_XDECREF(waiter);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* It is waited for; cancel() may have come before that. */
static int waits_for(taut_state *st, taut_task *t, PyObject *awaited) {
    Py_XSETREF(t->aio.waiter, Py_NewRef(awaited));
    return TAUT_UNLIKELY(TAUT_TASK_FLAG(&t->aio, must_cancel)) ? cancel_awaited(st, t, awaited) : 0;
}

/* The fields of `f` are those of task.h. A task waits at a future of ours by itself; at asyncio's,
 * which would call it, by a callable. So does one of a derived class, which may be called too. */
static int wait_at(taut_state *st, taut_task *t, taut_aio_future *f) {
    PyTypeObject *type = Py_TYPE((PyObject *)f);
    int by_itself = (type == st->own.future_type || type == st->own.task_type) &&
                    Py_TYPE((PyObject *)t) == st->own.task_type && taut_future_is_native(t->lp);
    if (f->state != TAUT_FUTURE_PENDING && by_itself) {
        taut_entry e = {.a = Py_NewRef((PyObject *)t), .b = Py_NewRef((PyObject *)f)};
        e.kind = TAUT_READY_WAKEUP;
        taut_request_ready(t);
        return taut_ready_push(t->lp, &e);
    }
    PyObject *waiter = by_itself ? Py_NewRef((PyObject *)t) : taut_task_wakeup_callable(t);
    if (waiter == NULL || f->state != TAUT_FUTURE_PENDING || f->callback0 != NULL ||
        f->callbacks != NULL)
        return add_waiter(st, t, (PyObject *)f, waiter);
    f->callback0 = waiter;
    f->context0 = Py_NewRef(t->aio.context);
    return 0;
}

/* 0: the task may wait for it; 1: it may not, and will be told; -1 with an exception. */
static int refuse(taut_task *t, PyObject *awaited, const PyObject *loop, int blocking) {
    if (loop == t->aio.fut.loop && blocking)
        return 0;
    const char *why = loop == t->aio.fut.loop
                          ? "yield was used instead of yield from in task %R with %R"
                          : "Task %R got Future %R attached to a different loop";
    return step_error(t, why, (PyObject *)t, awaited) < 0 ? -1 : 1;
}

static int await_known(taut_state *st, taut_task *t, PyObject *awaited) {
    taut_aio_future *f = (taut_aio_future *)awaited;
    int refused = refuse(t, awaited, f->loop, f->blocking);
    if (refused != 0)
        return refused < 0 ? -1 : 0;
    if (taut_future_awaited(f, (PyObject *)t) < 0)
        return -1;
    f->blocking = 0;
    return wait_at(st, t, f) < 0 ? -1 : waits_for(st, t, awaited);
}

/* Its _asyncio_future_blocking: 0 or 1; 2: it has none, or None; -1 with an exception. */
static int blocking_of(taut_state *st, PyObject *awaited) {
    PyObject *value = PyObject_GetAttr(awaited, st->str__asyncio_future_blocking);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        return 2;
    }
    int blocking = value == NULL ? -1 : value == Py_None ? 2 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return blocking;
}

/* A future of another kind. */
static int await_unknown(taut_state *st, taut_task *t, PyObject *awaited, int blocking) {
    PyObject *loop = PyObject_CallOneArg(st->get_loop, awaited);
    if (loop == NULL)
        return -1;
    int refused = refuse(t, awaited, loop, blocking);
    Py_DECREF(loop);
    if (refused != 0)
        return refused < 0 ? -1 : 0;
    if ((PyObject_TypeCheck(awaited, (PyTypeObject *)st->future_type) &&
         taut_future_awaited((taut_aio_future *)awaited, (PyObject *)t) < 0) ||
        PyObject_SetAttr(awaited, st->str__asyncio_future_blocking, Py_False) < 0 ||
        add_waiter(st, t, awaited, taut_task_wakeup_callable(t)) < 0)
        return -1;
    return waits_for(st, t, awaited);
}

/* The coroutine has yielded. */
static int step_yielded(taut_state *st, taut_task *t, PyObject *awaited) {
    PyTypeObject *type = Py_TYPE(awaited);
    if (awaited == (PyObject *)t)
        return step_error(t, "Task cannot await on itself: %R", awaited, NULL);
    if (type == st->own.future_type || type == st->own.task_type ||
        (PyObject *)type == st->future_type || (PyObject *)type == st->task_type)
        return await_known(st, t, awaited);
    if (awaited == Py_None)
        return taut_task_step_soon(t, NULL);
    int blocking = blocking_of(st, awaited);
    if (blocking < 2)
        return blocking < 0 ? -1 : await_unknown(st, t, awaited, blocking);
    if (PyGen_CheckExact(awaited))
        return step_error(t,
                          "yield was used instead of yield from for generator in task %R with %R",
                          (PyObject *)t, awaited);
    return step_error(t, "Task got bad yield: %R", awaited, NULL);
}

/* ---- the coroutine is over ----------------------------------------------------------------------
 */

static int call_base(PyObject *method, taut_task *t, PyObject *value) {
    PyObject *done = PyObject_CallFunctionObjArgs(method, (PyObject *)t, value, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The state is set here, since the base's cancel() of a task only asks for it. */
static int task_cancelled(taut_state *st, taut_task *t) {
    taut_aio_future *f = &t->aio.fut;
    f->log_tb = 0;
    if (f->state != TAUT_FUTURE_PENDING)
        return 0;
    if (taut_future_is_native(t->lp)) {
        f->state = TAUT_FUTURE_CANCELLED;
        return taut_future_schedule(t->lp, f);
    }
    return call_base(st->own.cancel, t, f->cancel_msg);
}

static int step_returned(taut_state *st, taut_task *t, PyObject *result) {
    taut_aio_future *f = &t->aio.fut;
    if (TAUT_UNLIKELY(TAUT_TASK_FLAG(&t->aio, must_cancel))) {
        TAUT_TASK_FLAG(&t->aio, must_cancel) = 0;
        return task_cancelled(st, t);
    }
    if (!taut_future_is_native(t->lp) || f->state != TAUT_FUTURE_PENDING)
        return call_base(st->own.set_result, t, result);
    return taut_future_complete(t->lp, f, result);
}

static int step_raised(taut_state *st, taut_task *t) {
    if (PyErr_ExceptionMatches(st->cancelled_error)) {
        Py_XSETREF(t->aio.fut.cancelled_exc, taut_exception_take());
        return task_cancelled(st, t);
    }
    int leaves =
        PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit);
    PyObject *exc = taut_exception_take();
    int attended = taut_task_note_is_attended(t);
    int rc = call_base(st->own.set_exception, t, exc);
    if (rc == 0 && !attended)
        taut_task_note_failed(st, t);
    if (rc == 0 && leaves) {
        taut_exception_restore(exc);
        return -1;
    }
    Py_DECREF(exc);
    return rc;
}

/* ---- a step
 * --------------------------------------------------------------------------------------- */

/* What result() of a future or task of ours that is cancelled raises: what it was cancelled by goes
 * out once. A new reference. */
static PyObject *cancelled_error_of(taut_state *st, taut_aio_future *f) {
    PyObject *exc = f->cancelled_exc, *message = f->cancel_msg;
    f->cancelled_exc = NULL;
    if (exc != NULL)
        return exc;
    return message == NULL || message == Py_None
               ? PyObject_CallNoArgs(st->cancelled_error)
               : PyObject_CallOneArg(st->cancelled_error, message);
}

/* What is thrown in, a new reference: `exc`, but CancelledError when cancel() asked for it. */
static PyObject *exception_to_throw(taut_state *st, taut_task *t, PyObject *exc) {
    if (!TAUT_TASK_FLAG(&t->aio, must_cancel))
        return Py_NewRef(exc);
    int already = exc == NULL ? 0 : PyObject_IsInstance(exc, st->cancelled_error);
    if (already < 0)
        return NULL;
    TAUT_TASK_FLAG(&t->aio, must_cancel) = 0;
    if (already)
        return Py_NewRef(exc);
    if (Py_IS_TYPE((PyObject *)t, st->own.task_type))
        return cancelled_error_of(st, &t->aio.fut);
    return PyObject_CallMethod((PyObject *)t, "_make_cancelled_error", NULL);
}

static PySendResult coroutine_throw(taut_state *st, PyObject *coro, PyObject *exc,
                                    PyObject **result) {
    *result = PyObject_CallMethodOneArg(coro, st->str_throw, exc);
    if (*result != NULL)
        return PYGEN_NEXT;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration))
        return PYGEN_ERROR;
    PyObject *stop = taut_exception_take();
    *result = PyObject_GetAttrString(stop, "value");
    Py_DECREF(stop);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* Within the task's context, being the current task. */
static int step_run(taut_state *st, taut_task *t, PyObject *exc) {
    PyObject *coro = Py_NewRef(t->aio.coro), *result = NULL, *thrown = NULL;
    PySendResult sent;
    if (TAUT_UNLIKELY(exc != NULL || TAUT_TASK_FLAG(&t->aio, must_cancel))) {
        thrown = exception_to_throw(st, t, exc);
        sent = thrown == NULL ? PYGEN_ERROR : coroutine_throw(st, coro, thrown, &result);
    } else {
        sent = PyIter_Send(coro, Py_None, &result);
    }
    int rc;
    if (sent == PYGEN_NEXT)
        rc = step_yielded(st, t, result);
    else if (sent == PYGEN_RETURN)
        rc = step_returned(st, t, result);
    else
        rc = step_raised(st, t);
    if (TAUT_UNLIKELY(thrown != NULL || t->note != 0))
        taut_task_note_step(st, t, thrown, thrown == exc ? 2 : 1, sent == PYGEN_NEXT);
    Py_XDECREF(thrown);
    Py_XDECREF(result);
    if (t->aio.fut.state != TAUT_FUTURE_PENDING) {
        taut_task_unlist(t);
        taut_trace_ended(t, coro);
    }
    Py_DECREF(coro);
    return rc;
}

/* For loops that are not ours. */
static int step_elsewhere(taut_state *st, taut_task *t, PyObject *exc) {
    PyObject *loop = t->aio.fut.loop;
    PyObject *done = PyObject_CallFunctionObjArgs(st->enter_task, loop, t, NULL);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    int rc = step_run(st, t, exc);
    PyObject *raised = rc < 0 ? taut_exception_take() : NULL;
    done = PyObject_CallFunctionObjArgs(st->leave_task, loop, t, NULL);
    Py_XDECREF(done);
    if (raised != NULL && done == NULL)
        PyErr_Clear();
    if (raised != NULL)
        taut_exception_restore(raised);
    return done == NULL ? -1 : rc;
}

int taut_task_step(taut_task *t, PyObject *exc) {
    taut_state *st = t->lp != NULL ? t->lp->st : taut_state_of_type(Py_TYPE((PyObject *)t));
    if (TAUT_UNLIKELY(t->aio.fut.state != TAUT_FUTURE_PENDING || t->aio.coro == NULL)) {
        PyErr_Format(st->invalid_state_error, "__step(): already done: %R %R", t,
                     exc == NULL ? Py_None : exc);
        return -1;
    }
    Py_INCREF((PyObject *)t);
    Py_CLEAR(t->aio.waiter);
    int rc;
    if (t->lp == NULL)
        rc = step_elsewhere(st, t, exc);
    else if ((rc = taut_task_enter(t->lp, t)) == 0) {
        t->stepped_ns = t->lp->core.now_ns;
        taut_request_step_begin(t);
        rc = step_run(st, t, exc);
        taut_request_step_end(t, rc);
        t->birth = TAUT_TASK_STEPPED;
    }
    Py_DECREF((PyObject *)t);
    return rc;
}

int taut_task_wakeup(taut_task *t, PyObject *future) {
    taut_state *st = t->lp != NULL ? t->lp->st : taut_state_of_type(Py_TYPE((PyObject *)t));
    PyTypeObject *type = Py_TYPE(future);
    taut_aio_future *f = (taut_aio_future *)future;
    int is_ours = TAUT_LIKELY(type == st->own.future_type || type == st->own.task_type);
    if ((is_ours || PyType_IsSubtype(type, (PyTypeObject *)st->future_type)) &&
        taut_future_unawaited(f, (PyObject *)t) < 0)
        return -1;
    if (is_ours && f->state == TAUT_FUTURE_FINISHED && f->exception == NULL)
        return taut_task_step(t, NULL);
    PyObject *exc = NULL;
    if (is_ours && f->state == TAUT_FUTURE_CANCELLED)
        exc = cancelled_error_of(st, f);
    PyObject *result = exc == NULL ? PyObject_CallMethod(future, "result", NULL) : NULL;
    if (result == NULL && exc == NULL)
        exc = taut_exception_take();
    Py_XDECREF(result);
    int rc = taut_task_step(t, exc);
    Py_XDECREF(exc);
    return rc;
}

#if PY_VERSION_HEX >= 0x030C0000
/* ---- eager start ------------------------------------------------------------------- */

int taut_task_loop_is_running(taut_task *t) {
    if (t->lp != NULL)
        return t->lp->thread_ident != 0;
    PyObject *is = PyObject_CallMethod(t->aio.fut.loop, "is_running", NULL);
    int running = is == NULL ? -1 : PyObject_IsTrue(is);
    Py_XDECREF(is);
    return running;
}

int taut_task_start_eagerly(taut_task *t) {
    taut_state *st = taut_state_of_type(Py_TYPE((PyObject *)t));
    PyObject *loop = Py_NewRef(t->aio.fut.loop), *context = Py_NewRef(t->aio.context);
    PyObject *before = PyObject_CallFunctionObjArgs(st->swap_current_task, loop, t, NULL);
    int rc = -1;
    if (before == NULL)
        goto out;
    if (PyContext_Enter(context) == 0) {
        rc = step_run(st, t, NULL);
        PyObject *exc = rc < 0 ? taut_exception_take() : NULL;
        if (PyContext_Exit(context) < 0)
            rc = -1;
        if (exc != NULL)
            taut_exception_restore(exc);
    }
    PyObject *exc = rc < 0 ? taut_exception_take() : NULL;
    PyObject *self = PyObject_CallFunctionObjArgs(st->swap_current_task, loop, before, NULL);
    if (self == NULL && exc == NULL)
        rc = -1;
    Py_XDECREF(self);
    if (exc != NULL)
        taut_exception_restore(exc);
    if (t->aio.fut.state != TAUT_FUTURE_PENDING)
        Py_CLEAR(t->aio.coro);
out:
    Py_XDECREF(before);
    Py_DECREF(context);
    Py_DECREF(loop);
    return rc;
}
#endif
