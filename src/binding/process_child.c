/* taut._core.Child: see process.h. */
#include "binding/process.h"
#include "binding/compat.h"
#include "binding/err.h"

static taut_child_object *child_alloc(PyTypeObject *type) {
    taut_child_object *c = (taut_child_object *)type->tp_alloc(type, 0); /* zeroed */
    if (c == NULL)
        return NULL;
    taut_child_init_none(&c->core);
    taut_list_init(&c->member.link);
    return c;
}

PyObject *taut_child_object_new(taut_state *st) {
    return (PyObject *)child_alloc(st->child_type);
}

static PyObject *child_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"pid", NULL};
    int pid;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:Child", names, &pid))
        return NULL;
    if (pid <= 0) {
        PyErr_Format(PyExc_ValueError, "pid must be positive, not %d", pid);
        return NULL;
    }
    taut_child_object *c = child_alloc(type);
    if (c != NULL)
        taut_child_init(&c->core, pid, -1);
    return (PyObject *)c;
}

/* ---- the end --------------------------------------------------------------------------------- */

static taut_child_object *child_of(taut_child *core) {
    return TAUT_CONTAINER(core, taut_child_object, core);
}

/* What watching needed. May free the child. */
static void let_go(taut_child_object *c) {
    taut_pyloop *lp = c->lp;
    PyObject *transport = c->transport;
    c->lp = NULL;
    c->transport = NULL;
    taut_member_remove(&c->member);
    Py_XDECREF(transport);
    Py_XDECREF((PyObject *)lp);
}

static int warn_lost(taut_child_object *c) {
    PyObject *r = PyObject_CallMethod(
        c->lp->st->logger, "warning", "si",
        "child process pid %d exit status already read: will report returncode 255",
        (int)c->core.pid);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

static void on_ended(taut_child *core) {
    taut_child_object *c = child_of(core);
    taut_pyloop *lp = c->lp;
    taut_process *process = (taut_process *)c->transport;
    Py_INCREF((PyObject *)c);
    Py_INCREF((PyObject *)process);
    if (taut_pyloop_call_begin(lp, process->context, (PyObject *)process) < 0) {
        taut_pyloop_unhandled(lp, "could not report the end of a process", "transport",
                              (PyObject *)process);
    } else {
        if ((core->state == TAUT_CHILD_LOST && warn_lost(c) < 0) ||
            taut_process_exited(process, core->code) < 0)
            taut_pyloop_unhandled(lp, "could not report the end of a process", "transport",
                                  (PyObject *)process);
        taut_pyloop_call_end(lp, process->context);
    }
    let_go(c);
    Py_DECREF((PyObject *)process);
    Py_DECREF((PyObject *)c);
}

/* The loop closes; the child goes on, and whoever has the Popen may still wait for it. */
static void on_orphan(PyObject *self) {
    taut_child_object *c = (taut_child_object *)self;
    taut_child_unwatch(&c->core);
    PyObject *transport = c->transport;
    c->transport = NULL;
    Py_XDECREF(transport);
    Py_CLEAR(c->lp);
}

int taut_child_object_watch(taut_child_object *c, taut_process *process) {
    taut_pyloop *lp = process->lp;
    if (c->lp != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the child has a transport already");
        return -1;
    }
    int rc = taut_child_watch(&c->core, lp->core.poller, on_ended);
    if (rc < 0) {
        taut_err_raise(rc);
        return -1;
    }
    c->lp = (taut_pyloop *)Py_NewRef((PyObject *)lp);
    c->transport = Py_NewRef((PyObject *)process);
    taut_member_add(lp, &c->member, (PyObject *)c, on_orphan);
    taut_member_hold(&c->member);
    return 0;
}

/* ---- methods --------------------------------------------------------------------------------- */

PyDoc_STRVAR(poll_doc, "poll() -> int | None\n\n"
                       "The exit code, the negative number of the signal that ended it, 255 when "
                       "somebody else has reaped it; None while it runs. Any thread.");
static PyObject *m_poll(PyObject *self, PyObject *unused) {
    taut_child_object *c = (taut_child_object *)self;
    if (!taut_child_poll(&c->core))
        Py_RETURN_NONE;
    return PyLong_FromLong(c->core.code);
}

PyDoc_STRVAR(send_signal_doc, "send_signal(signal, /) -> None\n\n"
                              "Nothing when it has ended. OSError as os.kill(). Any thread.");
static PyObject *m_send_signal(PyObject *self, PyObject *arg) {
    PyObject *number = PyNumber_Index(arg);
    long signum = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    if (signum == -1 && PyErr_Occurred())
        return NULL;
    if (signum != (int)signum) {
        PyErr_SetString(PyExc_OverflowError, "signed integer is greater than maximum");
        return NULL;
    }
    int rc = taut_child_signal(&((taut_child_object *)self)->core, (int)signum);
    if (rc < 0)
        return taut_err_raise(rc);
    Py_RETURN_NONE;
}

static PyObject *get_pid(PyObject *self, void *closure) {
    return PyLong_FromLong(((taut_child_object *)self)->core.pid);
}

static PyObject *get_lost(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_child_object *)self)->core.state == TAUT_CHILD_LOST);
}

static PyObject *child_repr(PyObject *self) {
    taut_child *core = &((taut_child_object *)self)->core;
    if (core->state == TAUT_CHILD_RUNS)
        return PyUnicode_FromFormat("<Child pid=%d>", (int)core->pid);
    return PyUnicode_FromFormat("<Child pid=%d code=%d>", (int)core->pid, core->code);
}

/* ---- the type -------------------------------------------------------------------------------- */

static int child_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_child_object *c = (taut_child_object *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)c->lp);
    Py_VISIT(c->transport);
    return 0;
}

static int child_clear(PyObject *self) {
    taut_child_object *c = (taut_child_object *)self;
    taut_child_unwatch(&c->core);
    if (c->lp != NULL)
        let_go(c);
    return 0;
}

static void child_dealloc(PyObject *self) {
    taut_child_object *c = (taut_child_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)child_clear(self);
    taut_child_free(&c->core);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef child_methods[] = {
    {"poll", m_poll, METH_NOARGS, poll_doc},
    {"send_signal", m_send_signal, METH_O, send_signal_doc},
    {NULL},
};

static PyGetSetDef child_getset[] = {
    {"pid", get_pid, NULL, "The process's number."},
    {"lost", get_lost, NULL, "True when somebody else has reaped it: the code is not known."},
    {NULL},
};

static PyType_Slot child_slots[] = {
    {Py_tp_doc, "A child process until its end is known. Child(pid) takes one that runs."},
    {Py_tp_new, child_new},
    {Py_tp_traverse, child_traverse},
    {Py_tp_clear, child_clear},
    {Py_tp_dealloc, child_dealloc},
    {Py_tp_repr, child_repr},
    {Py_tp_methods, child_methods},
    {Py_tp_getset, child_getset},
    {0, NULL},
};

static PyType_Spec child_spec = {
    .name = "taut._core.Child",
    .basicsize = sizeof(taut_child_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = child_slots,
};

int taut_child_type_add(PyObject *module, taut_state *st) {
    st->child_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &child_spec, NULL);
    return st->child_type == NULL ? -1 : PyModule_AddType(module, st->child_type);
}
