/* The type taut._core.Loop: construction, attributes, garbage collection. */
#include "binding/compat.h"
#include "binding/context.h"
#include "binding/err.h"
#include "binding/handle.h"
#include "binding/pyloop.h"

static void on_signals(void *ctx, const unsigned char *signums, size_t count) {
    taut_pyloop *lp = ctx;
    /* First the interpreter's own handlers (signal.signal), then loop.add_signal_handler's. */
    if (taut_pyloop_ops.check(lp) < 0) {
        taut_loop_interrupt(&lp->core, TAUT_E_INTERRUPTED);
        return;
    }
    PyObject *done = PyObject_CallMethod((PyObject *)lp, "_on_signals", "y#", (const char *)signums,
                                         (Py_ssize_t)count);
    if (done == NULL)
        taut_pyloop_unhandled(lp, "signal handling failed", NULL, NULL);
    Py_XDECREF(done);
}

static PyObject *loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    taut_state *st = taut_state_of_type(type);
    if (st == NULL)
        return NULL;
    taut_pyloop *lp = (taut_pyloop *)type->tp_alloc(type, 0);
    if (lp == NULL)
        return NULL;
    lp->st = st;
    lp->slow_callback_duration = 0.1;
    lp->stall_threshold_ns = taut_doctor_threshold_default_ns();
    int rc = taut_loop_init(&lp->core, &taut_pyloop_ops, lp);
    if (rc == 0 && (rc = taut_sigpipe_init(&lp->sigpipe, lp->core.poller, on_signals, lp)) < 0)
        taut_loop_close(&lp->core);
    if (rc < 0) {
        lp->closed = 1;
        Py_DECREF((PyObject *)lp);
        return taut_err_raise(rc);
    }
    taut_list_init(&lp->tls.waiting);
    taut_list_init(&lp->executor_calls);
    lp->own_tasks = st->own.is_default && taut_pyloop_has_own_call_soon(st, (PyObject *)lp);
    lp->core_ready = 1;
    if (taut_fdtable_new(lp) < 0)
        Py_CLEAR(lp);
    return (PyObject *)lp;
}

static int timers_traverse(taut_pyloop *lp, visitproc visit, void *arg) {
    taut_heap *heap = &lp->core.timers.heap;
    for (size_t i = 0; i < heap->count; i++) {
        taut_timer *t = TAUT_CONTAINER(heap->items[i].node, taut_timer, node);
        PyObject *handle = (PyObject *)TAUT_CONTAINER(t, taut_timer_handle, timer);
        /* The core's own timers are embedded in other structs, and not objects. */
        if (taut_timer_is_handle(t))
            Py_VISIT(handle);
    }
    return 0;
}

static int loop_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_pyloop *lp = (taut_pyloop *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(lp->task_factory);
    Py_VISIT(lp->entered_context);
    Py_VISIT(lp->snapshot);
    Py_VISIT(lp->snapshot_vars);
    Py_VISIT(lp->kw_loop);
    Py_VISIT(lp->raised);
    if (!lp->core_ready)
        return 0;
    int rc = taut_ready_traverse(lp, visit, arg);
    if (rc == 0)
        rc = timers_traverse(lp, visit, arg);
    return rc == 0 && lp->fds != NULL ? taut_fdtable_traverse(lp, visit, arg) : rc;
}

static int loop_clear(PyObject *self) {
    taut_pyloop *lp = (taut_pyloop *)self;
    taut_pyloop_shutdown(lp);
    Py_CLEAR(lp->task_factory);
    Py_CLEAR(lp->kw_loop);
    taut_context_forget(lp);
    Py_CLEAR(lp->raised);
    return 0;
}

static void loop_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)loop_clear(self);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

/* ---- attributes ---------------------------------------------------------------------------- */

static PyObject *get_thread_id(PyObject *self, void *closure) {
    taut_pyloop *lp = (taut_pyloop *)self;
    if (lp->thread_ident == 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(lp->thread_ident);
}

static PyObject *get_debug_flag(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_pyloop *)self)->debug);
}

static int set_debug_flag(PyObject *self, PyObject *value, void *closure) {
    int flag = value == NULL ? 0 : PyObject_IsTrue(value);
    if (flag < 0)
        return -1;
    ((taut_pyloop *)self)->debug = flag;
    return 0;
}

static PyObject *get_closed(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_pyloop *)self)->closed);
}

static PyObject *get_current_handle(PyObject *self, void *closure) {
    PyObject *handle = ((taut_pyloop *)self)->current_handle;
    return Py_NewRef(handle == NULL ? Py_None : handle);
}

static PyObject *get_signal_fd(PyObject *self, void *closure) {
    taut_pyloop *lp = (taut_pyloop *)self;
    if (taut_pyloop_check_closed(lp) < 0)
        return NULL;
    return PyLong_FromLong(lp->sigpipe.write_fd);
}

static PyObject *get_stall_threshold(PyObject *self, void *closure) {
    return taut_doctor_threshold_get(((taut_pyloop *)self)->stall_threshold_ns);
}

static int set_stall_threshold(PyObject *self, PyObject *value, void *closure) {
    taut_pyloop *lp = (taut_pyloop *)self;
    return taut_doctor_threshold_set(value, &lp->stall_threshold_ns, lp->watch);
}

static PyObject *get_own_tasks(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_pyloop *)self)->own_tasks);
}

static int set_own_tasks(PyObject *self, PyObject *value, void *closure) {
    taut_pyloop *lp = (taut_pyloop *)self;
    int wanted = value == NULL ? 0 : PyObject_IsTrue(value);
    if (wanted < 0)
        return -1;
    lp->own_tasks = wanted && lp->st->own.enabled && taut_pyloop_has_own_call_soon(lp->st, self);
    return 0;
}

static PyGetSetDef loop_getset[] = {
    {"_own_tasks", get_own_tasks, set_own_tasks, "Whether futures and tasks are taut's own."},
    {"_thread_id", get_thread_id, NULL, "Identity of the running thread, None when stopped."},
    {"_debug", get_debug_flag, set_debug_flag, "Debug mode."},
    {"_closed", get_closed, NULL, "True once close() was called."},
    {"_current_handle", get_current_handle, NULL, "Debug mode: the Handle that runs now."},
    {"_signal_fd", get_signal_fd, NULL, "Where signal.set_wakeup_fd writes to."},
    {"stall_threshold", get_stall_threshold, set_stall_threshold,
     "Seconds after which a callback that still runs is reported; None switches reports off.\n"
     "Default: TAUT_STALL of the environment, else 0.05."},
    {NULL},
};

static PyMemberDef loop_members[] = {
    {"slow_callback_duration", Py_T_DOUBLE, offsetof(taut_pyloop, slow_callback_duration), 0,
     "Seconds from which debug mode logs a callback as slow. Default 0.1."},
    {NULL},
};

/* ---- the type -------------------------------------------------------------------------------- */

#define METHODS_MAX 96

/* One table for the type from the tables of the files; PyType_FromModuleAndSpec keeps the
 * pointer, so it is static. */
static PyMethodDef loop_methods[METHODS_MAX];

static void join_methods(void) {
    PyMethodDef *tables[] = {
        taut_loop_run_methods,       taut_loop_call_methods,       taut_loop_fd_methods,
        taut_loop_sock_methods,      taut_loop_resolve_methods,    taut_loop_transport_methods,
        taut_loop_read_pipe_methods, taut_loop_write_pipe_methods, taut_loop_sendfile_methods,
        taut_loop_dgram_methods,     taut_loop_executor_methods};
    size_t count = 0;
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        for (PyMethodDef *m = tables[t]; m->ml_name != NULL; m++) {
            taut_assert(count < METHODS_MAX - 1);
            loop_methods[count++] = *m;
        }
    }
    loop_methods[count] = (PyMethodDef){NULL};
}

PyDoc_STRVAR(loop_doc, "The event loop's core in C. Use taut.Loop, which derives from it.");

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, (void *)loop_doc}, {Py_tp_new, loop_new},         {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},     {Py_tp_dealloc, loop_dealloc}, {Py_tp_methods, loop_methods},
    {Py_tp_members, loop_members}, {Py_tp_getset, loop_getset},   {0, NULL},
};
static PyType_Spec loop_spec = {"taut._core.Loop", sizeof(taut_pyloop), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                                loop_slots};

int taut_loop_type_add(PyObject *module, taut_state *st) {
    join_methods();
    st->loop_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &loop_spec, NULL);
    return st->loop_type == NULL ? -1 : PyModule_AddType(module, st->loop_type);
}
