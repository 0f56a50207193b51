/* StallWatch: watching a loop that is not ours. For asyncio's own loops it takes the place of the
 * selector's select() and so sees every wait; for uvloop see attach_uv.c. */
#include "binding/attach.h"

#include <string.h>

#include "base/mem.h"

/* How collections.deque begins, the same in all versions supported. Its left end moves with each
 * callback that the loop takes off its queue, which is progress that no hook shows. */
typedef struct {
    PyVarObject head;
    void *left_block, *right_block;
    Py_ssize_t left_index;
} deque_head;

uint64_t taut_stall_watch_progress(void *ctx) {
    taut_stall_watch *self = TAUT_CONTAINER(ctx, taut_stall_watch, watch);
    const volatile deque_head *d = (const volatile deque_head *)self->ready;
    return d == NULL ? 0 : (uint64_t)(uintptr_t)d->left_block * 64 + (uint64_t)d->left_index;
}

/* Checks deque_head against the real thing. */
static int deque_is_as_expected(PyObject *type) {
    PyObject *d = PyObject_CallFunction(type, "((iii))", 1, 2, 3);
    if (d == NULL)
        return 0;
    Py_ssize_t before = ((deque_head *)d)->left_index;
    PyObject *item = PyObject_CallMethod(d, "popleft", NULL);
    int ok = item != NULL && ((deque_head *)d)->left_index == before + 1;
    Py_XDECREF(item);
    Py_DECREF(d);
    return ok;
}

int taut_stall_watch_use(taut_stall_watch *self, PyObject *ready) {
    if (self->ready != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this watch is in use");
        return -1;
    }
    PyObject *module = PyImport_ImportModule("collections");
    PyObject *type = module != NULL ? PyObject_GetAttrString(module, "deque") : NULL;
    Py_XDECREF(module);
    if (type == NULL)
        return -1;
    int ok = Py_TYPE(ready) == (PyTypeObject *)type && deque_is_as_expected(type);
    Py_DECREF(type);
    if (!ok) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "the loop's queue is not a collections.deque");
        return -1;
    }
    self->ready = Py_NewRef(ready);
    return 0;
}

static void note_thread(taut_stall_watch *self, PyThreadState *tstate) {
    taut_doctor_thread here = taut_doctor_thread_here(tstate);
    here.runner.code = self->code;
    taut_doctor_watch_thread_set(&self->watch, &here);
    self->tstate = tstate;
}

/* Stands in for selector.select(). */
static PyObject *watch_call(PyObject *op, PyObject *args, PyObject *kwargs) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    if (self->select == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this watch stands in for no select()");
        return NULL;
    }
    PyObject *select = Py_NewRef(self->select);
    PyThreadState *tstate = PyThreadState_Get();
    if (TAUT_UNLIKELY(self->tstate != tstate))
        note_thread(self, tstate);
    taut_pulse_phase(&self->pulse, TAUT_PHASE_POLLING);
    PyObject *events = PyObject_Call(select, args, kwargs);
    taut_pulse_phase(&self->pulse, TAUT_PHASE_RUNNING);
    Py_DECREF(select);
    return events;
}

static const taut_watchdog_ops select_ops = {
    .progress = taut_stall_watch_progress,
    .suspect = taut_stall_suspect,
    .capture = taut_stall_capture,
    .noted = taut_stall_noted,
    .over = taut_stall_over,
    .report = taut_stall_report,
    .ended = taut_stall_ended,
    .unshown = taut_stall_unshown,
};

int taut_stall_watch_start(taut_stall_watch *self, const taut_watchdog_ops *ops) {
    self->watch.target.ops = ops;
    int rc = taut_doctor_watch_start(&self->watch);
    if (rc < 0) {
        PyErr_Format(PyExc_RuntimeError, "the watchdog cannot start (error %d)", -rc);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(watch_select_doc,
             "watch_select(select, ready, code, running, /) -> None\n\n"
             "Starts watching. `select` is what calling this object calls, `ready` the loop's "
             "deque of callbacks, `code` the code object of its _run_once; `running` says that "
             "the loop runs on this very thread now.");
static PyObject *watch_select(PyObject *op, PyObject *args) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    PyObject *select, *ready, *code;
    int running;
    if (!PyArg_ParseTuple(args, "OOO!p:watch_select", &select, &ready, &PyCode_Type, &code,
                          &running))
        return NULL;
    if (taut_stall_watch_use(self, ready) < 0)
        return NULL;
    self->select = Py_NewRef(select);
    self->code = Py_NewRef(code);
    self->watch.runner_needed = 1;
    if (running) {
        note_thread(self, PyThreadState_Get());
        taut_pulse_phase(&self->pulse, TAUT_PHASE_RUNNING);
    }
    if (taut_stall_watch_start(self, &select_ops) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    stop_doc,
    "stop() -> None\n\nStops watching; the stand-in for select() still works. On the loop's "
    "thread, or while the loop does not run.");
static PyObject *watch_stop(PyObject *op, PyObject *unused) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    taut_doctor_watch_stop(&self->watch);
    taut_stall_watch_uv_end(self);
    taut_stall_queue_put(&(taut_stall_event){
        .kind = TAUT_STALL_GONE, .watch_id = self->watch.id, .label = "", .cause = ""});
    Py_RETURN_NONE;
}

static PyObject *get_threshold(PyObject *op, void *closure) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    return taut_doctor_threshold_get(
        atomic_load_explicit(&self->watch.target.threshold_ns, memory_order_relaxed));
}
static int set_threshold(PyObject *op, PyObject *value, void *closure) {
    uint64_t ns;
    return taut_doctor_threshold_set(value, &ns, &((taut_stall_watch *)op)->watch);
}
static PyObject *get_stalls(PyObject *op, void *closure) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    return PyLong_FromUnsignedLongLong(
        atomic_load_explicit(&self->watch.target.stalls, memory_order_relaxed));
}
static PyObject *get_longest(PyObject *op, void *closure) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    return PyFloat_FromDouble(
        (double)atomic_load_explicit(&self->watch.target.longest_ns, memory_order_relaxed) / 1e9);
}

static PyObject *watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"id", "threshold", "stderr", NULL};
    unsigned id;
    PyObject *threshold;
    int to_stderr;
    uint64_t ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IOp:StallWatch", names, &id, &threshold,
                                     &to_stderr) ||
        taut_doctor_threshold_set(threshold, &ns, NULL) < 0)
        return NULL;
    taut_stall_watch *self = (taut_stall_watch *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    taut_doctor_watch_init(&self->watch, &self->pulse, ns);
    self->watch.id = id;
    self->watch.to_stderr = to_stderr;
    return (PyObject *)self;
}

static int watch_traverse(PyObject *op, visitproc visit, void *arg) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->select);
    Py_VISIT(self->ready);
    Py_VISIT(self->code);
    Py_VISIT(self->keeper);
    return 0;
}
static int watch_clear(PyObject *op) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    taut_doctor_watch_stop(&self->watch); /* the watchdog reads `ready` */
    taut_stall_watch_uv_end(self);
    Py_CLEAR(self->select);
    Py_CLEAR(self->ready);
    Py_CLEAR(self->code);
    Py_CLEAR(self->keeper);
    return 0;
}
static void watch_dealloc(PyObject *op) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)watch_clear(op);
    pthread_mutex_destroy(&self->watch.lock);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(watch_uv_doc,
             "watch_uv(loop, library, ready, keeper, /) -> None\n\n"
             "Starts watching a uvloop loop: the capsule of its uv_loop_t, the path of uvloop's "
             "extension module, its deque of callbacks, and one of its handle objects.");

static PyMethodDef watch_methods[] = {
    {"watch_uv", taut_stall_watch_uv, METH_VARARGS, watch_uv_doc},
    {"watch_select", watch_select, METH_VARARGS, watch_select_doc},
    {"stop", watch_stop, METH_NOARGS, stop_doc},
    {NULL},
};
static PyGetSetDef watch_getset[] = {
    {"threshold", get_threshold, set_threshold, "Seconds, or None: off."},
    {"stalls", get_stalls, NULL, "Stalls seen so far, reported or not."},
    {"longest", get_longest, NULL, "The longest stall that is over, in seconds."},
    {NULL},
};
PyDoc_STRVAR(watch_doc, "StallWatch(id, threshold, stderr)\n\nWatches one foreign loop; see "
                        "taut.doctor.attach().");
static PyType_Slot watch_slots[] = {
    {Py_tp_doc, (void *)watch_doc},   {Py_tp_new, watch_new},       {Py_tp_call, watch_call},
    {Py_tp_traverse, watch_traverse}, {Py_tp_clear, watch_clear},   {Py_tp_dealloc, watch_dealloc},
    {Py_tp_methods, watch_methods},   {Py_tp_getset, watch_getset}, {0, NULL},
};
static PyType_Spec watch_spec = {
    .name = "taut._core.StallWatch",
    .basicsize = sizeof(taut_stall_watch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = watch_slots,
};

int taut_stall_watch_type_add(PyObject *module, taut_state *st) {
    st->watchdog_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &watch_spec, NULL);
    if (st->watchdog_type == NULL)
        return -1;
    return PyModule_AddType(module, st->watchdog_type);
}
