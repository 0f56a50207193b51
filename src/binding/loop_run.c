/* taut._core.Loop: running, stopping, closing, and the core's operations. */
#include "binding/compat.h"
#include "binding/console.h"
#include "binding/context.h"
#include "binding/debug.h"
#include "binding/err.h"
#include "binding/exam.h"
#include "binding/fdtable.h"
#include "binding/notice.h"
#include "binding/request.h"
#include "binding/transport.h"
#include "binding/trace.h"
#include "io/forks.h"

int taut_pyloop_check_closed(taut_pyloop *lp) {
    if (TAUT_LIKELY(!lp->closed))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    return -1;
}

int taut_pyloop_check_forked(taut_pyloop *lp) {
    if (TAUT_LIKELY(!taut_loop_is_inherited(&lp->core)) || lp->thread_ident == 0 ||
        !taut_forks_left_behind(lp->thread_ident))
        return 0;
    PyErr_SetString(PyExc_RuntimeError,
                    "This event loop runs in the parent process, in a thread that fork() has left "
                    "behind; make a new loop in the child");
    return -1;
}

int taut_pyloop_check_thread(taut_pyloop *lp) {
    if (!lp->debug || lp->thread_ident == 0 || lp->thread_ident == PyThread_get_thread_ident())
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "Non-thread-safe operation invoked on an event loop other "
                                        "than the current one");
    return -1;
}

/* ---- the core's operations ------------------------------------------------------------------ */

static void op_wait_begin(void *ctx) {
    taut_pyloop *lp = ctx;
    if (lp->snapshot != NULL)
        taut_context_forget(lp);
    /* Set while the GIL is still held: whoever queues a call from now on sees it and wakes us. */
    lp->waiting = 1;
    lp->thread_state = PyEval_SaveThread();
}

static int take_raised(taut_pyloop *lp) {
    Py_XSETREF(lp->raised, taut_exception_take());
    return TAUT_E_INTERRUPTED;
}

/* A profiler hears of Python calls only. One between two callbacks shows it that the first is over
 * and whose time the wait is: without it a task that awaits seems not to have been left at all. */
static int show_to_profiler(taut_pyloop *lp) {
    if (TAUT_LIKELY(PyThreadState_Get()->c_profilefunc == NULL))
        return 0;
    taut_pyloop_context_release(lp);
    PyObject *r = PyObject_CallMethodNoArgs((PyObject *)lp, lp->st->str__profiled);
    Py_XDECREF(r);
    return r == NULL ? take_raised(lp) : 0;
}

static void op_wait_end(void *ctx) {
    taut_pyloop *lp = ctx;
    PyEval_RestoreThread(lp->thread_state);
    lp->waiting = 0;
    int rc = show_to_profiler(lp);
    if (TAUT_UNLIKELY(rc < 0))
        taut_loop_interrupt(&lp->core, rc);
}

static int op_check(void *ctx) {
    taut_pyloop *lp = ctx;
    if (TAUT_UNLIKELY(PyErr_CheckSignals() < 0))
        return take_raised(lp);
    return show_to_profiler(lp);
}

/* Calls from other threads go straight to the ring, under the GIL: for them being awake is all it
 * takes. Lookups come back without the GIL. */
static void op_woken(void *ctx) {
    taut_pyloop_resolver_drain(ctx);
    taut_exam_woken(((taut_pyloop *)ctx)->exam);
    taut_console_serve(ctx);
}

const taut_loop_ops taut_pyloop_ops = {
    .run_ready = taut_ready_run,
    .wait_begin = op_wait_begin,
    .wait_end = op_wait_end,
    .check = op_check,
    .woken = op_woken,
    .ready_done = taut_ready_done,
};

/* ---- methods --------------------------------------------------------------------------------- */

/* The pulse of the loop that runs on this thread, for the collector's callback. */
static _Thread_local taut_pulse *running_pulse;

/* What the collector says of a collection under this name; 0 when it does not. */
static uint64_t number_of(PyObject *info, const char *name) {
    PyObject *value = PyDict_Check(info) ? PyDict_GetItemString(info, name) : NULL;
    uint64_t number = value == NULL ? 0 : PyLong_AsUnsignedLongLong(value);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return number;
}

static _Thread_local int collecting; /* whether or not a loop runs here */

PyObject *taut_pyloop_in_gc(PyObject *module, PyObject *unused) {
    return PyBool_FromLong(collecting);
}

PyObject *taut_pyloop_gc_event(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !PyUnicode_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "gc_event(phase, info) takes what gc.callbacks gives");
        return NULL;
    }
    static uint64_t began_ns; /* the GIL's, as the collector itself */
    int begins = PyUnicode_CompareWithASCIIString(args[0], "start") == 0;
    collecting = begins;
    if (running_pulse != NULL)
        atomic_store_explicit(&running_pulse->in_gc, (uint32_t)begins, memory_order_relaxed);
    uint64_t now_ns = taut_sys_now_ns(), generation = number_of(args[1], "generation");
    if (running_pulse != NULL)
        taut_recorder_add(running_pulse->recorder, TAUT_EVENT_GC, begins ? 1 + generation : 0,
                          now_ns);
    if (!begins && began_ns != 0)
        taut_vitals_gc_done((unsigned)generation, now_ns - began_ns,
                            number_of(args[1], "collected"), number_of(args[1], "uncollectable"));
    began_ns = begins ? now_ns : 0;
    Py_RETURN_NONE;
}

taut_pyloop *taut_pyloop_running(void) {
    return running_pulse == NULL ? NULL : TAUT_CONTAINER(running_pulse, taut_pyloop, core.pulse);
}

PyDoc_STRVAR(run_doc, "_run() -> None\n\nThe body of run_forever(): runs until stop(), or until a "
                      "callback raises KeyboardInterrupt or SystemExit.");
static PyObject *loop_run(PyObject *self, PyObject *unused) {
    taut_pyloop *lp = (taut_pyloop *)self;
    /* First: it may import, during which other threads run. */
    if (taut_exam_begin(lp) < 0 || taut_pyloop_check_closed(lp) < 0)
        return NULL;
    if (lp->thread_ident != 0) {
        PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
        return NULL;
    }
    if (TAUT_UNLIKELY(taut_loop_is_inherited(&lp->core))) {
        int renewed = taut_sigpipe_renew(&lp->sigpipe);
        if (renewed == 0)
            renewed = taut_loop_renew(&lp->core);
        if (renewed < 0)
            return taut_err_raise(renewed);
    }
    lp->thread_ident = PyThread_get_thread_ident();
    taut_console_loop_begin(lp);
    lp->watch = taut_doctor_loop_start(&lp->core.pulse, lp->stall_threshold_ns, self, lp->exam);
    running_pulse = &lp->core.pulse;
    int rc = taut_loop_run(&lp->core);
    running_pulse = NULL;
    taut_doctor_watch *watch = lp->watch;
    lp->watch = NULL;
    taut_doctor_loop_stop(watch);
    taut_console_loop_end(lp);
    lp->thread_ident = 0;
    if (lp->raised != NULL) {
        PyObject *raised = lp->raised;
        lp->raised = NULL;
        taut_exception_restore(raised);
        return NULL;
    }
    if (rc < 0)
        return taut_err_raise(rc);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc, "stop() -> None\n\nEnds run_forever() after the callbacks that are ready "
                       "now. Before run_forever(): it runs one iteration.");
static PyObject *loop_stop(PyObject *self, PyObject *unused) {
    taut_pyloop *lp = (taut_pyloop *)self;
    if (lp->core_ready)
        taut_loop_stop(&lp->core);
    Py_RETURN_NONE;
}

void taut_pyloop_shutdown(taut_pyloop *lp) {
    lp->closed = 1; /* first: what is dropped below may call back, and must be refused */
    Py_CLEAR(lp->kw_loop);
    if (!lp->core_ready)
        return;
    taut_pyloop_resolver_close(lp);
    taut_ready_clear(lp);
    taut_exam *exam = lp->exam;
    lp->exam = NULL;
    taut_exam_free(exam);
    if (lp->fds != NULL)
        taut_fdtable_clear(lp);
    while (!taut_list_empty(&lp->tls.waiting))
        taut_list_unlink(lp->tls.waiting.next);
    taut_buf_free(&lp->tls.spare);
    lp->core_ready = 0;
    taut_sigpipe_free(&lp->sigpipe, lp->core.poller);
    taut_loop_close(&lp->core);
}

/* Connections that the program has made and still holds open when their loop closes: no one can
 * close them in order any more. */
static PyObject *connections_left(taut_pyloop *lp) {
    PyObject *left = PyList_New(0);
    taut_list *members = &lp->fds->members;
    for (taut_list *at = members->next; left != NULL && at != members; at = at->next) {
        PyObject *object = TAUT_CONTAINER(at, taut_member, link)->object;
        const taut_transport *t = (taut_transport *)object;
        if (Py_TYPE(object) == lp->st->transport_type && t->open &&
            !taut_stream_is_closing(&t->stream) && t->server == NULL && t->made_at != NULL &&
            PyList_Append(left, object) < 0)
            Py_CLEAR(left);
    }
    return left;
}

static void tell_connections_left(taut_pyloop *lp) {
    if (!lp->core_ready || lp->fds == NULL || taut_loop_is_inherited(&lp->core))
        return;
    PyObject *left = connections_left(lp);
    for (Py_ssize_t i = 0; left != NULL && i < PyList_GET_SIZE(left); i++) {
        PyObject *transport = PyList_GET_ITEM(left, i);
        taut_debug_left(transport, ((taut_transport *)transport)->made_at);
    }
    if (left == NULL)
        PyErr_Clear();
    Py_XDECREF(left);
}

PyDoc_STRVAR(close_doc, "_close() -> None\n\nDrops every queued call, timer and registration and "
                        "gives the loop's file descriptors back.");
static PyObject *loop_close(PyObject *self, PyObject *unused) {
    taut_pyloop *lp = (taut_pyloop *)self;
    if (lp->thread_ident != 0) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot close a running event loop");
        return NULL;
    }
    tell_connections_left(lp);
    taut_pyloop_shutdown(lp);
    Py_RETURN_NONE;
}

static PyObject *loop_runs_in_parent(PyObject *self, PyObject *unused) {
    taut_pyloop *lp = (taut_pyloop *)self;
    return PyBool_FromLong(lp->thread_ident != 0 && taut_loop_is_inherited(&lp->core));
}

static PyObject *loop_is_running(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(((taut_pyloop *)self)->thread_ident != 0);
}
static PyObject *loop_is_closed(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(((taut_pyloop *)self)->closed);
}
static PyObject *loop_get_debug(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(((taut_pyloop *)self)->debug);
}
static PyObject *loop_check_closed(PyObject *self, PyObject *unused) {
    if (taut_pyloop_check_closed((taut_pyloop *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *loop_release_context(PyObject *self, PyObject *unused) {
    taut_pyloop_context_release((taut_pyloop *)self);
    Py_RETURN_NONE;
}

PyMethodDef taut_loop_run_methods[] = {
    {"_run", loop_run, METH_NOARGS, run_doc},
    {"_close", loop_close, METH_NOARGS, close_doc},
    {"stop", loop_stop, METH_NOARGS, stop_doc},
    {"_runs_in_parent", loop_runs_in_parent, METH_NOARGS,
     "_runs_in_parent() -> bool\n\nWhether it was running when this process was forked."},
    {"is_running", loop_is_running, METH_NOARGS, "is_running() -> bool"},
    {"is_closed", loop_is_closed, METH_NOARGS, "is_closed() -> bool"},
    {"get_debug", loop_get_debug, METH_NOARGS, "get_debug() -> bool"},
    {"_check_closed", loop_check_closed, METH_NOARGS,
     "_check_closed() -> None\n\nRaises RuntimeError once the loop is closed."},
    {"_release_context", loop_release_context, METH_NOARGS,
     "_release_context() -> None\n\nLeaves what the last callback's context left entered."},
    {NULL},
};
