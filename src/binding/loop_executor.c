/* run_in_executor: the executor's future and the loop's, chained as asyncio.wrap_future() does it,
 * without a Python frame or a lock per call. When the executor's is done, whichever thread that is
 * puts one entry into the ring, under the GIL, and wakes the loop only if it waits: what comes back
 * while a wake-up is under way shares it.
 *
 * Whatever is out of the ordinary (debug mode, a replaced call_soon_threadsafe, keywords, the first
 * call) goes through asyncio's own method. */
#include "binding/compat.h"
#include "binding/exam.h"
#include "binding/pyloop.h"
#include "binding/task.h"
#include "binding/trace.h"

/* Called with nothing it completes the loop's future, from the ring; with a future, that is done.
 */
typedef struct {
    PyObject_HEAD taut_pyloop *lp; /* owned, as is the rest */
    PyObject *source;              /* the executor's; NULL once its outcome was passed on */
    PyObject *future;              /* the loop's */
    PyObject *context;             /* of who called */
    /* For the examination: */
    taut_list link;      /* among the loop's calls under way */
    PyObject *executor;  /* a weak reference to it, or NULL */
    PyObject *site_code; /* who called: taut_site_new */
    int site_unit;
    uint64_t begun_ns; /* the loop's clock */
} executor_call;

/* ---- the executor's future ------------------------------------------------------------------ */

enum { SOURCE_PENDING, SOURCE_FINISHED, SOURCE_CANCELLED, SOURCE_ERROR = -1 };

/* A future that is finished has the rest of its fields: whoever finds that, under the GIL, needs no
 * lock to read them. */
static int source_state(taut_state *st, PyObject *source) {
    PyObject *state = PyObject_GetAttr(source, st->str__state);
    if (state == NULL)
        return SOURCE_ERROR;
    int found = SOURCE_CANCELLED;
    if (PyUnicode_Check(state)) {
        if (PyUnicode_Compare(state, st->str_FINISHED) == 0)
            found = SOURCE_FINISHED;
        else if (PyUnicode_Compare(state, st->str_RUNNING) == 0 ||
                 PyUnicode_Compare(state, st->str_PENDING) == 0)
            found = SOURCE_PENDING;
    }
    Py_DECREF(state);
    return found;
}

/* source.add_done_callback(call), for the very class of the standard library. Its lock keeps the
 * state and the list of callbacks together while another thread completes it. That thread needs the
 * GIL, too, which we have and do not let go of between the state and the list. */
static int source_tell(taut_state *st, PyObject *source, PyObject *call) {
    PyObject *list = PyObject_GetAttr(source, st->str__done_callbacks);
    int state = list == NULL ? SOURCE_ERROR : source_state(st, source), rc = 1;
    if (state == SOURCE_ERROR)
        rc = -1;
    else if (state == SOURCE_PENDING && PyList_CheckExact(list))
        rc = PyList_Append(list, call);
    Py_XDECREF(list);
    if (rc <= 0)
        return rc;
    PyObject *done = PyObject_CallMethodOneArg(source, st->str_add_done_callback, call);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* ---- the loop's future ----------------------------------------------------------------------- */

/* future.add_done_callback(call), for the case that it is cancelled. */
static int future_tell(executor_call *call) {
    taut_state *st = call->lp->st;
    taut_aio_future *f = (taut_aio_future *)call->future;
    if (taut_future_is_ours(call->lp, call->future) && f->state == TAUT_FUTURE_PENDING &&
        f->callback0 == NULL && f->callbacks == NULL) {
        f->callback0 = Py_NewRef((PyObject *)call);
        f->context0 = Py_NewRef(call->context);
        return 0;
    }
    PyObject *args[] = {call->future, (PyObject *)call, call->context};
    PyObject *done = PyObject_VectorcallMethod(st->str_add_done_callback, args, 2, st->kw_context);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int future_finish(executor_call *call, PyObject *future, PyObject *result) {
    taut_pyloop *lp = call->lp;
    taut_aio_future *f = (taut_aio_future *)future;
    if (taut_future_is_ours(lp, future) && f->state == TAUT_FUTURE_PENDING) {
        if (f->callback0 == (PyObject *)call) { /* it was not cancelled: nothing to tell */
            Py_CLEAR(f->callback0);
            Py_CLEAR(f->context0);
        }
        return taut_future_complete(lp, f, result);
    }
    PyObject *done = PyObject_CallMethodOneArg(future, lp->st->str_set_result, result);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Exceptions of concurrent.futures become asyncio's. */
static int future_fail(taut_state *st, PyObject *future, PyObject *raised) {
    PyObject *exc = PyObject_CallOneArg(st->convert_future_exc, raised);
    PyObject *done =
        exc == NULL ? NULL : PyObject_CallMethodOneArg(future, st->str_set_exception, exc);
    Py_XDECREF(exc);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* ---- from one to the other ---------------------------------------------------------------------
 */

/* 1: the loop's future waits for an outcome; 0 or -1 with an exception. */
static int future_waits(executor_call *call, PyObject *future) {
    if (taut_future_is_ours(call->lp, future))
        return ((taut_aio_future *)future)->state == TAUT_FUTURE_PENDING;
    PyObject *done = PyObject_CallMethodNoArgs(future, call->lp->st->str_done);
    int is = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    return is < 0 ? -1 : !is;
}

static int copy_outcome(executor_call *call, PyObject *source, PyObject *future) {
    taut_state *st = call->lp->st;
    int state = source_state(st, source);
    int waits = state == SOURCE_FINISHED ? future_waits(call, future) : 0;
    if (state < 0 || waits < 0)
        return -1;
    if (state == SOURCE_FINISHED && waits) {
        PyObject *raised = PyObject_GetAttr(source, st->str__exception);
        PyObject *result = raised == NULL ? NULL : PyObject_GetAttr(source, st->str__result);
        int rc = -1;
        if (result != NULL && raised == Py_None)
            rc = future_finish(call, future, result);
        else if (result != NULL)
            rc = future_fail(st, future, raised);
        Py_XDECREF(raised);
        Py_XDECREF(result);
        return rc;
    }
    /* Cancelled on either side, or completed by somebody else, which fails as asyncio has it. */
    PyObject *done = PyObject_CallFunctionObjArgs(st->copy_future_state, source, future, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* On the loop: the outcome has come. */
static int call_complete(executor_call *call) {
    PyObject *source = call->source, *future = call->future;
    call->source = call->future = NULL; /* source keeps the call: no cycle is to be left */
    if (source != NULL) {
        taut_list_unlink(&call->link);
        taut_vitals_call_done(&call->lp->core.vitals, call->lp->core.now_ns - call->begun_ns);
        taut_recorder_add(&call->lp->core.recorder, TAUT_EVENT_DONE, taut_recorder_id(call), 0);
    }
    int rc = source == NULL || future == NULL ? 0 : copy_outcome(call, source, future);
    Py_XDECREF(source);
    Py_XDECREF(future);
    return rc;
}

/* On any thread: the executor's future is done. */
static int call_push(executor_call *call) {
    taut_pyloop *lp = call->lp;
    if (lp->closed || call->source == NULL)
        return 0;
    /* From 3.14 on asyncio passes on at once what the loop's own thread has brought. */
    if (PY_VERSION_HEX >= 0x030E0000 && lp->thread_ident == PyThread_get_thread_ident())
        return call_complete(call);
    if (taut_pyloop_check_forked(lp) < 0 ||
        taut_ready_call0(lp, (PyObject *)call, call->context) < 0)
        return -1;
    taut_pyloop_wake_if_waiting(lp);
    return 0;
}

/* On the loop: its future is done, by a result or by cancel(). */
static int call_check_cancel(executor_call *call) {
    taut_state *st = call->lp->st;
    PyObject *cancelled = PyObject_CallMethod(call->future, "cancelled", NULL);
    int is = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    if (is <= 0 || call->source == NULL)
        return is < 0 ? -1 : 0;
    PyObject *source = Py_NewRef(call->source);
    taut_list_unlink(&call->link);
    PyObject *done = PyObject_CallMethodNoArgs(source, st->str_cancel);
    Py_XDECREF(done);
    Py_DECREF(source);
    return done == NULL ? -1 : 0;
}

static PyObject *call_tp_call(PyObject *self, PyObject *args, PyObject *kwargs) {
    executor_call *call = (executor_call *)self;
    PyObject *done = NULL;
    if (!PyArg_UnpackTuple(args, "ExecutorCall", 0, 1, &done))
        return NULL;
    int rc = 0;
    if (done == NULL)
        rc = call_complete(call);
    else if (done == call->future)
        rc = call_check_cancel(call);
    else
        rc = call_push(call);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* What the examination is to know of the call. */
static void note_call(executor_call *call, PyObject *executor) {
    PyObject *site = taut_site_new(call->lp->st);
    call->site_code = site == NULL ? NULL : Py_NewRef(PyTuple_GET_ITEM(site, 0));
    call->site_unit = site == NULL ? -1 : (int)PyLong_AsLong(PyTuple_GET_ITEM(site, 1));
    Py_XDECREF(site);
    call->executor = PyWeakref_NewRef(executor, NULL);
    if (call->executor == NULL)
        PyErr_Clear();
    call->begun_ns = call->lp->core.now_ns;
    taut_list_append(&call->lp->executor_calls, &call->link);
    taut_recorder_add(&call->lp->core.recorder, TAUT_EVENT_QUEUED, taut_recorder_id(call),
                      taut_trace_place(call->site_code, call->site_unit));
}

/* A future of the loop's, chained to `source`, which `executor` runs; new. */
static PyObject *wrap(taut_pyloop *lp, PyObject *executor, PyObject *source) {
    taut_state *st = lp->st;
    executor_call *call = PyObject_GC_New(executor_call, st->executor_call_type);
    if (call == NULL)
        return NULL;
    call->lp = (taut_pyloop *)Py_NewRef((PyObject *)lp);
    call->source = Py_NewRef(source);
    call->future = PyObject_CallMethodNoArgs((PyObject *)lp, st->str_create_future);
    call->context = call->future == NULL ? NULL : PyContext_CopyCurrent();
    note_call(call, executor);
    PyObject_GC_Track((PyObject *)call);
    PyObject *future = NULL;
    if (call->context != NULL) {
        future = Py_NewRef(call->future);
        if (future_tell(call) < 0 || source_tell(st, source, (PyObject *)call) < 0)
            Py_CLEAR(future);
    }
    Py_DECREF((PyObject *)call);
    return future;
}

/* ---- for the examination -----------------------------------------------------------------------
 */

#define SITES_MAX 32
#define CALLS_MAX 4096 /* the oldest ones */

typedef struct {
    PyObject *executor, *code; /* borrowed from a call */
    int unit;
    unsigned queued, running;
    uint64_t oldest_ns; /* of those queued */
} call_site;

static call_site *site_find(call_site *sites, int *count, const executor_call *call) {
    for (int i = 0; i < *count; i++)
        if (sites[i].executor == call->executor && sites[i].code == call->site_code &&
            sites[i].unit == call->site_unit)
            return &sites[i];
    if (*count == SITES_MAX)
        return NULL;
    sites[*count] = (call_site){call->executor, call->site_code, call->site_unit, 0, 0, 0};
    return &sites[(*count)++];
}

static void site_count(taut_state *st, call_site *site, const executor_call *call) {
    PyObject *state = PyObject_GetAttr(call->source, st->str__state);
    if (state == NULL || !PyUnicode_Check(state)) {
        PyErr_Clear();
    } else if (PyUnicode_Compare(state, st->str_PENDING) == 0) {
        if (site->queued++ == 0)
            site->oldest_ns = call->begun_ns;
    } else if (PyUnicode_Compare(state, st->str_RUNNING) == 0) {
        site->running++;
    }
    Py_XDECREF(state);
}

static PyObject *site_tuple(const call_site *s, uint64_t now_ns) {
    PyObject *executor = s->executor == NULL ? NULL : taut_weakref_get(s->executor);
    double waited =
        s->queued > 0 && s->oldest_ns < now_ns ? (double)(now_ns - s->oldest_ns) / 1e9 : 0.0;
    PyObject *tuple =
        Py_BuildValue("(OOiIId)", executor == NULL ? Py_None : executor,
                      s->code == NULL ? Py_None : s->code, s->unit, s->queued, s->running, waited);
    Py_XDECREF(executor);
    return tuple;
}

PyObject *taut_executor_calls_list(taut_pyloop *lp) {
    call_site sites[SITES_MAX];
    int count = 0, calls = 0;
    taut_list *all = &lp->executor_calls;
    for (taut_list *n = all->next; n != all && calls < CALLS_MAX; n = n->next, calls++) {
        executor_call *call = TAUT_CONTAINER(n, executor_call, link);
        call_site *site = call->source == NULL ? NULL : site_find(sites, &count, call);
        if (site != NULL)
            site_count(lp->st, site, call);
    }
    /* What is made from here on may run a collection, and drop calls. */
    for (int i = 0; i < count; i++) {
        Py_XINCREF(sites[i].executor);
        Py_XINCREF(sites[i].code);
    }
    PyObject *list = PyList_New(0);
    uint64_t now_ns = taut_sys_now_ns(), queued = 0, running = 0;
    for (int i = 0; i < count; i++) {
        queued += sites[i].queued;
        running += sites[i].running;
        PyObject *item = list == NULL ? NULL : site_tuple(&sites[i], now_ns);
        if (list != NULL && (item == NULL || PyList_Append(list, item) < 0))
            Py_CLEAR(list);
        Py_XDECREF(item);
        Py_XDECREF(sites[i].executor);
        Py_XDECREF(sites[i].code);
    }
    atomic_store_explicit(&lp->core.vitals.calls_queued, queued, memory_order_relaxed);
    atomic_store_explicit(&lp->core.vitals.calls_running, running, memory_order_relaxed);
    return list;
}

/* ---- the method ------------------------------------------------------------------------------ */

/* The executor that is meant, new; NULL without an exception: asyncio's method is to find out. */
static PyObject *executor_of(taut_pyloop *lp, PyObject *given) {
    taut_state *st = lp->st;
    if (given != Py_None)
        return Py_NewRef(given);
    PyObject *down = PyObject_GetAttr((PyObject *)lp, st->str__executor_shutdown_called);
    PyObject *executor = NULL;
    if (down == Py_False)
        executor = PyObject_GetAttr((PyObject *)lp, st->str__default_executor);
    Py_XDECREF(down);
    if (executor == NULL)
        PyErr_Clear();
    else if (executor == Py_None)
        Py_CLEAR(executor);
    return executor;
}

static PyObject *run_in_executor(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    taut_pyloop *lp = (taut_pyloop *)self;
    taut_state *st = lp->st;
    PyObject *executor = NULL;
    if (nargs >= 2 && kwnames == NULL && !lp->debug && !lp->closed &&
        taut_pyloop_has_own_threadsafe(lp))
        executor = executor_of(lp, args[0]);
    if (executor == NULL) {
        PyObject *base = PyObject_GetAttr(self, st->str__run_in_executor);
        PyObject *future =
            base == NULL ? NULL : PyObject_Vectorcall(base, args, (size_t)nargs, kwnames);
        Py_XDECREF(base);
        return future;
    }
    PyObject *submit = PyObject_GetAttr(executor, st->str_submit), *source = NULL, *future = NULL;
    if (submit != NULL)
        source = PyObject_Vectorcall(submit, args + 1, (size_t)(nargs - 1), NULL);
    if (source != NULL && Py_IS_TYPE(source, (PyTypeObject *)st->executor_future))
        future = wrap(lp, executor, source);
    else if (source != NULL)
        future = PyObject_CallMethod(self, "_wrap_future", "O", source);
    Py_XDECREF(source);
    Py_XDECREF(submit);
    Py_DECREF(executor);
    return future;
}

/* ---- the type ---------------------------------------------------------------------------------
 */

static int call_traverse(PyObject *self, visitproc visit, void *arg) {
    executor_call *call = (executor_call *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)call->lp);
    Py_VISIT(call->source);
    Py_VISIT(call->future);
    Py_VISIT(call->context);
    return 0;
}

/* The loop stays: whoever calls a call that was cleared finds nothing to do. */
static int call_clear(PyObject *self) {
    executor_call *call = (executor_call *)self;
    taut_list_unlink(&call->link);
    Py_CLEAR(call->source);
    Py_CLEAR(call->future);
    return 0;
}

static void call_dealloc(PyObject *self) {
    executor_call *call = (executor_call *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)call_clear(self);
    Py_CLEAR(call->context);
    Py_CLEAR(call->executor);
    Py_CLEAR(call->site_code);
    Py_DECREF((PyObject *)call->lp);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "What passes the outcome of an executor's future on to the loop's."},
    {Py_tp_call, call_tp_call},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_dealloc, call_dealloc},
    {0, NULL},
};
static PyType_Spec call_spec = {
    "taut._core.ExecutorCall", sizeof(executor_call), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, call_slots};

int taut_executor_type_add(PyObject *module, taut_state *st) {
    st->executor_call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &call_spec, NULL);
    return st->executor_call_type == NULL ? -1 : 0;
}

PyMethodDef taut_loop_executor_methods[] = {
    {"run_in_executor", (PyCFunction)(void (*)(void))run_in_executor, METH_FASTCALL | METH_KEYWORDS,
     "run_in_executor(executor, func, *args) -> asyncio.Future\n\n"
     "func(*args) in a concurrent.futures.Executor; None for the default one."},
    {NULL},
};
