/* taut._core.Loop: call_soon and its kin, futures, tasks, time. */
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/context.h"
#include "binding/err.h"
#include "binding/handle.h"
#include "binding/notice.h"
#include "binding/request.h"

/* A task's step or wake-up: _asyncio throws away what call_soon returns for these, so they need no
 * Handle. */
static inline int is_task_call(taut_state *st, PyObject *callback) {
    PyTypeObject *type = Py_TYPE(callback);
    if (type == st->task_step_type || type == st->task_wakeup_type)
        return st->task_step_type != NULL;
    return type == &PyCFunction_Type && st->task_wakeup_def != NULL &&
           ((PyCFunctionObject *)callback)->m_ml == st->task_wakeup_def;
}

/* Debug mode refuses, as asyncio does there, what would only fail once it runs. */
static int check_callback(taut_pyloop *lp, PyObject *callback, const char *method) {
    PyObject *done = PyObject_CallMethod((PyObject *)lp, "_check_callback", "Os", callback, method);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

typedef PyObject *handle_maker(taut_pyloop *, PyObject *, PyObject *const *, Py_ssize_t,
                               PyObject *);

static PyObject *queue_made_by(handle_maker *make, taut_pyloop *lp, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *context) {
    PyObject *vars = NULL;
    PyObject *own = context != NULL ? Py_NewRef(context) : taut_context_for_call(lp, &vars);
    PyObject *handle = NULL;
    if (own != NULL)
        handle = make(lp, args[0], args + 1, nargs - 1, own);
    Py_XDECREF(own);
    if (handle == NULL || taut_pyloop_check_closed(lp) < 0) {
        Py_XDECREF(vars);
        Py_CLEAR(handle);
    } else if (taut_ready_handle(lp, handle, vars) < 0) {
        Py_CLEAR(handle);
    }
    return handle;
}

PyObject *taut_pyloop_queue(taut_pyloop *lp, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *context) {
    return queue_made_by(taut_handle_new, lp, args, nargs, context);
}

static PyObject *call_soon(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames) {
    taut_pyloop *lp = (taut_pyloop *)self;
    PyObject *context;
    if (taut_args_context(lp->st, "call_soon", args, nargs, kwnames, &context) < 0 ||
        taut_args_at_least("call_soon", nargs, 1, "callback") < 0 ||
        taut_pyloop_check_closed(lp) < 0)
        return NULL;
    /* A task that waits by itself at a future of ours, which asyncio's own code has completed. */
    if (TAUT_UNLIKELY(Py_TYPE(args[0]) == lp->st->own.task_type && nargs == 2)) {
        taut_entry e = {.a = Py_NewRef(args[0]), .b = Py_NewRef(args[1])};
        e.kind = TAUT_READY_WAKEUP;
        taut_request_ready((taut_task *)args[0]);
        if (taut_ready_push(lp, &e) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    if (TAUT_UNLIKELY(lp->debug)) {
        if (taut_pyloop_check_thread(lp) < 0 || check_callback(lp, args[0], "call_soon") < 0)
            return NULL;
    } else if (nargs <= 2 && context != NULL && is_task_call(lp->st, args[0])) {
        if (taut_ready_call1(lp, args[0], nargs == 2 ? args[1] : NULL, context) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    if (TAUT_UNLIKELY(taut_pyloop_is_in_gc(lp)))
        (void)taut_notice(lp->st, lp, "in_finalizer", "(sO)", "call_soon()", args[0]);
    return taut_pyloop_queue(lp, args, nargs, context);
}

static PyObject *call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                      PyObject *kwnames) {
    taut_pyloop *lp = (taut_pyloop *)self;
    PyObject *context;
    if (taut_args_context(lp->st, "call_soon_threadsafe", args, nargs, kwnames, &context) < 0 ||
        taut_args_at_least("call_soon_threadsafe", nargs, 1, "callback") < 0 ||
        taut_pyloop_check_closed(lp) < 0)
        return NULL;
    if (taut_pyloop_check_forked(lp) < 0 ||
        (TAUT_UNLIKELY(lp->debug) && check_callback(lp, args[0], "call_soon_threadsafe") < 0))
        return NULL;
    if (TAUT_UNLIKELY(taut_pyloop_is_in_gc(lp)))
        (void)taut_notice(lp->st, lp, "in_finalizer", "(sO)", "call_soon_threadsafe()", args[0]);
    PyObject *handle = queue_made_by(taut_threadsafe_handle_new, lp, args, nargs, context);
    if (handle != NULL)
        taut_pyloop_wake_if_waiting(lp);
    return handle;
}

/* For handlers of signals, which are called again and again. */
static PyObject *make_handle(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (taut_args_at_least("_make_handle", nargs, 1, "callback") < 0)
        return NULL;
    return taut_handle_new((taut_pyloop *)self, args[0], args + 1, nargs - 1, NULL);
}

static PyObject *queue_made(PyObject *self, PyObject *handle) {
    taut_pyloop *lp = (taut_pyloop *)self;
    if (!Py_IS_TYPE(handle, lp->st->handle_type)) {
        PyErr_Format(PyExc_TypeError, "a Handle of _make_handle() was expected, got %R", handle);
        return NULL;
    }
    if (taut_pyloop_check_closed(lp) < 0 || taut_ready_handle(lp, handle, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Shared by call_later and call_at, which differ in what args[0] means. */
static PyObject *call_timed(taut_pyloop *lp, const char *method, double offset,
                            PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *context;
    int later = method[5] == 'l';
    if (taut_args_context(lp->st, method, args, nargs, kwnames, &context) < 0 ||
        taut_args_at_least(method, nargs, 1, later ? "delay" : "when") < 0 ||
        taut_args_at_least(method, nargs, 2, "callback") < 0)
        return NULL;
    if (args[0] == Py_None) {
        PyErr_Format(PyExc_TypeError, "%s cannot be None", later ? "delay" : "when");
        return NULL;
    }
    double seconds = PyFloat_AsDouble(args[0]);
    if ((seconds == -1.0 && PyErr_Occurred()) || taut_pyloop_check_closed(lp) < 0)
        return NULL;
    if (TAUT_UNLIKELY(lp->debug) &&
        (taut_pyloop_check_thread(lp) < 0 || check_callback(lp, args[1], "call_at") < 0))
        return NULL;
    return taut_timer_handle_new(lp, offset + seconds, later ? NULL : args[0], args[1], args + 2,
                                 nargs - 2, context);
}

static PyObject *call_later(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames) {
    return call_timed((taut_pyloop *)self, "call_later", taut_seconds_from_ns(taut_sys_now_ns()),
                      args, nargs, kwnames);
}

static PyObject *call_at(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames) {
    return call_timed((taut_pyloop *)self, "call_at", 0.0, args, nargs, kwnames);
}

static PyObject *loop_time(PyObject *self, PyObject *unused) {
    return PyFloat_FromDouble(taut_seconds_from_ns(taut_sys_now_ns()));
}

/* ---- futures ------------------------------------------------------------------------------- */

/* Also when the loop's attribute was replaced. */
static int has_own(PyObject *loop, PyObject *name, PyCFunction function) {
    PyObject *method = PyObject_GetAttr(loop, name);
    int ours = method != NULL && PyCFunction_CheckExact(method) &&
               PyCFunction_GET_FUNCTION(method) == function;
    PyErr_Clear();
    Py_XDECREF(method);
    return ours;
}

int taut_pyloop_has_own_call_soon(taut_state *st, PyObject *loop) {
    return loop != NULL && PyObject_TypeCheck(loop, st->loop_type) &&
           has_own(loop, st->str_call_soon, (PyCFunction)(void (*)(void))call_soon);
}

int taut_pyloop_has_own_threadsafe(taut_pyloop *lp) {
    return has_own((PyObject *)lp, lp->st->str_call_soon_threadsafe,
                   (PyCFunction)(void (*)(void))call_soon_threadsafe);
}

/* {"loop": self}, new. The loop keeps one while it is open, since it would keep itself by it. */
static PyObject *loop_kwargs(taut_pyloop *lp) {
    if (lp->kw_loop != NULL)
        return Py_NewRef(lp->kw_loop);
    PyObject *kwargs = PyDict_New();
    if (kwargs != NULL && PyDict_SetItem(kwargs, lp->st->str_loop, (PyObject *)lp) < 0)
        Py_CLEAR(kwargs);
    if (!lp->closed && kwargs != NULL)
        lp->kw_loop = Py_NewRef(kwargs);
    return kwargs;
}

PyObject *taut_pyloop_new_future(taut_pyloop *lp) {
    if (lp->own_tasks)
        return taut_future_new(lp);
    PyObject *no_args = PyTuple_New(0);
    PyObject *kwargs = no_args == NULL ? NULL : loop_kwargs(lp);
    PyObject *future = kwargs == NULL ? NULL : PyObject_Call(lp->st->future_type, no_args, kwargs);
    Py_XDECREF(kwargs);
    Py_XDECREF(no_args);
    return future;
}

static PyObject *create_future(PyObject *self, PyObject *unused) {
    return taut_pyloop_new_future((taut_pyloop *)self);
}

static void future_set(taut_pyloop *lp, PyObject *future, PyObject *method, PyObject *value) {
    PyObject *done = PyObject_CallMethodNoArgs(future, lp->st->str_done);
    int is_done = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (is_done == 0) {
        done = PyObject_CallMethodOneArg(future, method, value);
        Py_XDECREF(done);
        is_done = done == NULL ? -1 : 1;
    }
    if (is_done < 0)
        taut_pyloop_unhandled(lp, "could not complete a future", "future", future);
}

void taut_pyloop_future_result(taut_pyloop *lp, PyObject *future, PyObject *result) {
    int rc = taut_future_finish(lp, future, result);
    if (rc == 0)
        future_set(lp, future, lp->st->str_set_result, result);
    else if (rc < 0)
        taut_pyloop_unhandled(lp, "could not complete a future", "future", future);
}

void taut_pyloop_future_exception(taut_pyloop *lp, PyObject *future, PyObject *exc) {
    future_set(lp, future, lp->st->str_set_exception, exc);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

/* {"loop": self} plus name and context unless None. 1: something else was asked for (the Python
 * path deals with it); 0 with *out new; -1 with an exception. */
static int task_kwargs(taut_pyloop *lp, PyObject *const *values, PyObject *kwnames,
                       PyObject **out) {
    *out = NULL;
    PyObject *shared = loop_kwargs(lp);
    if (kwnames == NULL) {
        *out = shared; /* only read by the callee */
        return shared == NULL ? -1 : 0;
    }
    PyObject *kwargs = shared == NULL ? NULL : PyDict_Copy(shared);
    Py_XDECREF(shared);
    if (kwargs == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (key != lp->st->str_name && key != lp->st->str_context) {
            Py_DECREF(kwargs);
            return 1;
        }
        if (values[i] != Py_None && PyDict_SetItem(kwargs, key, values[i]) < 0) {
            Py_DECREF(kwargs);
            return -1;
        }
    }
    *out = kwargs;
    return 0;
}

static int set_task_name(taut_pyloop *lp, PyObject *task, PyObject *name) {
    PyObject *set = PyObject_GetAttr(task, lp->st->str_set_name);
    if (set == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* whatever it is that the factory made: it has no names */
        return 0;
    }
    PyObject *r = set == NULL ? NULL : PyObject_CallOneArg(set, name);
    Py_XDECREF(set);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* What the factory is called with besides loop and coroutine; *name: what to call the task
 * afterwards (borrowed), or None. From 3.14 on asyncio passes on what it was given, in 3.13.3 and
 * later always a name and a context, too; before, no name, and a context only when there is one. */
static PyObject *factory_kwargs(PyObject *const *values, PyObject *kwnames, PyObject **name) {
    int all = Py_Version >= 0x030D0300;
    PyObject *kwargs = PyDict_New();
    int rc = kwargs == NULL ? -1 : 0;
    if (rc == 0 && all && Py_Version < 0x030E0000) {
        rc = PyDict_SetItemString(kwargs, "name", Py_None);
        if (rc == 0)
            rc = PyDict_SetItemString(kwargs, "context", Py_None);
    }
    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; rc == 0 && i < count; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (!all && PyUnicode_CompareWithASCIIString(key, "name") == 0)
            *name = values[i];
        else if (all || values[i] != Py_None ||
                 PyUnicode_CompareWithASCIIString(key, "context") != 0)
            rc = PyDict_SetItem(kwargs, key, values[i]);
    }
    if (rc < 0)
        Py_CLEAR(kwargs);
    return kwargs;
}

/* No Python frame comes between the caller and the factory, which may look who called. */
static PyObject *factory_task(taut_pyloop *lp, PyObject *coro, PyObject *const *values,
                              PyObject *kwnames) {
    PyObject *name = Py_None;
    PyObject *kwargs = factory_kwargs(values, kwnames, &name);
    if (kwargs == NULL)
        return NULL;
    PyObject *factory = Py_NewRef(lp->task_factory); /* which it may replace */
    PyObject *args[] = {(PyObject *)lp, coro};
    PyObject *task = PyObject_VectorcallDict(factory, args, 2, kwargs);
    Py_DECREF(factory);
    Py_DECREF(kwargs);
    if (task != NULL && name != Py_None && set_task_name(lp, task, name) < 0)
        Py_CLEAR(task);
    return task;
}

/* name= and context= into options[0] and [1], borrowed. 0: there are others. */
static int task_options(taut_state *st, PyObject *const *values, PyObject *kwnames,
                        PyObject **options) {
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (key != st->str_name && key != st->str_context)
            return 0;
        options[key == st->str_context] = values[i];
    }
    return 1;
}

PyDoc_STRVAR(create_task_doc,
             "create_task(coro, *, name=None, context=None, **kwargs) -> asyncio.Task\n\n"
             "As asyncio has it; further keywords go to the task factory.");
static PyObject *create_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    taut_pyloop *lp = (taut_pyloop *)self;
    if (taut_pyloop_check_closed(lp) < 0)
        return NULL;
    if (nargs == 1 && lp->task_factory != NULL)
        return factory_task(lp, args[0], args + 1, kwnames);
    PyObject *kwargs = NULL;
    PyObject *options[2] = {NULL, NULL};
    if (lp->own_tasks && nargs == 1 && task_options(lp->st, args + 1, kwnames, options))
        return taut_task_new(lp, args[0], options[0], options[1]);
    int rc = nargs == 1 ? task_kwargs(lp, args + 1, kwnames, &kwargs) : 1;
    if (rc < 0)
        return NULL;
    if (rc > 0) {
        PyObject *slow = PyObject_GetAttrString(self, "_create_task");
        PyObject *task =
            slow == NULL ? NULL : PyObject_Vectorcall(slow, args, (size_t)nargs, kwnames);
        Py_XDECREF(slow);
        return task;
    }
    PyObject *positional = PyTuple_Pack(1, args[0]);
    PyObject *task =
        positional == NULL ? NULL : PyObject_Call(lp->st->task_type, positional, kwargs);
    Py_XDECREF(positional);
    Py_DECREF(kwargs);
    return task;
}

static PyObject *set_task_factory(PyObject *self, PyObject *factory) {
    taut_pyloop *lp = (taut_pyloop *)self;
    if (factory != Py_None && !PyCallable_Check(factory)) {
        PyErr_SetString(PyExc_TypeError, "task factory must be a callable or None");
        return NULL;
    }
    Py_XSETREF(lp->task_factory, factory == Py_None ? NULL : Py_NewRef(factory));
    Py_RETURN_NONE;
}

static PyObject *get_task_factory(PyObject *self, PyObject *unused) {
    PyObject *factory = ((taut_pyloop *)self)->task_factory;
    return Py_NewRef(factory == NULL ? Py_None : factory);
}

/* ---- the table ---------------------------------------------------------------------------------
 */

PyDoc_STRVAR(call_soon_doc, "call_soon(callback, *args, context=None) -> Handle\n\n"
                            "Runs callback(*args) in the next iteration, in order of the calls.");
PyDoc_STRVAR(call_soon_threadsafe_doc,
             "call_soon_threadsafe(callback, *args, context=None) -> Handle\n\n"
             "call_soon() from any thread or a signal handler; wakes a waiting loop.");
PyDoc_STRVAR(call_later_doc, "call_later(delay, callback, *args, context=None) -> TimerHandle\n\n"
                             "Runs callback(*args) not before `delay` seconds have passed. A "
                             "negative or NaN delay is due at once.");
PyDoc_STRVAR(call_at_doc, "call_at(when, callback, *args, context=None) -> TimerHandle\n\n"
                          "Runs callback(*args) once time() >= when (seconds), never before.");
PyDoc_STRVAR(time_doc, "time() -> float\n\nSeconds of CLOCK_MONOTONIC, as time.monotonic().");

#define FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS
PyMethodDef taut_loop_call_methods[] = {
    {"call_soon", FAST(call_soon), call_soon_doc},
    {"call_soon_threadsafe", FAST(call_soon_threadsafe), call_soon_threadsafe_doc},
    {"_make_handle", (PyCFunction)(void (*)(void))make_handle, METH_FASTCALL,
     "_make_handle(callback, *args) -> Handle\n\nNot queued: see _queue_handle()."},
    {"_queue_handle", queue_made, METH_O,
     "_queue_handle(handle, /) -> None\n\nRuns it in the next iteration; any number of times."},
    {"call_later", FAST(call_later), call_later_doc},
    {"call_at", FAST(call_at), call_at_doc},
    {"time", loop_time, METH_NOARGS, time_doc},
    {"create_future", create_future, METH_NOARGS, "create_future() -> asyncio.Future"},
    {"create_task", FAST(create_task), create_task_doc},
    {"set_task_factory", set_task_factory, METH_O,
     "set_task_factory(factory, /) -> None\n\nTypeError unless callable or None."},
    {"get_task_factory", get_task_factory, METH_NOARGS,
     "get_task_factory() -> Callable[..., asyncio.Task] | None"},
    {NULL},
};
