/* taut._core.SubprocessTransport: see process.h. */
#include "binding/process.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/op.h"
#include <string.h>

/* ---- calls to the protocol ------------------------------------------------------------------- */

static int queue(taut_process *p, PyObject *call) {
    PyObject *handle =
        taut_pyloop_queue(p->lp, ((PyTupleObject *)call)->ob_item, PyTuple_GET_SIZE(call), NULL);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

/* Steals `callback`. */
static int call(taut_process *p, PyObject *callback, PyObject *a, PyObject *b) {
    if (callback == NULL)
        return -1;
    PyObject *args[3] = {callback, a, b};
    Py_ssize_t count = b != NULL ? 3 : a != NULL ? 2 : 1;
    int rc;
    if (p->pending != NULL) {
        PyObject *kept = PyTuple_New(count);
        for (Py_ssize_t i = 0; kept != NULL && i < count; i++)
            PyTuple_SET_ITEM(kept, i, Py_NewRef(args[i]));
        rc = kept == NULL ? -1 : PyList_Append(p->pending, kept);
        Py_XDECREF(kept);
    } else {
        PyObject *handle = taut_pyloop_queue(p->lp, args, count, NULL);
        rc = handle == NULL ? -1 : 0;
        Py_XDECREF(handle);
    }
    Py_DECREF(callback);
    return rc;
}

int taut_process_call(taut_process *p, PyObject *name, PyObject *a, PyObject *b) {
    if (p->protocol == NULL)
        return 0;
    return call(p, PyObject_GetAttr(p->protocol, name), a, b);
}

int taut_process_try_finish(taut_process *p) {
    if (p->returncode == NULL || p->finished)
        return 0;
    for (int fd = 0; fd < 3; fd++) {
        if (!(p->expected & 1u << fd))
            continue;
        taut_process_pipe *pipe = (taut_process_pipe *)p->pipes[fd];
        if (pipe == NULL || !pipe->disconnected)
            return 0;
    }
    p->finished = 1;
    return call(p, PyObject_GetAttrString((PyObject *)p, "_call_connection_lost"), Py_None, NULL);
}

static int debug_log(taut_process *p, const char *level, const char *format, PyObject *a,
                     PyObject *b) {
    if (TAUT_LIKELY(!p->lp->debug))
        return 0;
    PyObject *r =
        PyObject_CallMethod(p->lp->st->logger, level, b != NULL ? "sOO" : "sO", format, a, b);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* Of _wait(). From 3.14 on when the child has ended, before when its pipes are closed too. */
static void wake_waiters(taut_process *p) {
    PyObject *waiters = p->exit_waiters;
    p->exit_waiters = NULL;
    for (Py_ssize_t i = 0; waiters != NULL && i < PyList_GET_SIZE(waiters); i++)
        taut_pyloop_future_result(p->lp, PyList_GET_ITEM(waiters, i), p->returncode);
    Py_XDECREF(waiters);
}

int taut_process_exited(taut_process *p, int code) {
    taut_state *st = p->lp->st;
    PyObject *returncode = PyLong_FromLong(code);
    if (returncode == NULL)
        return -1;
    if (debug_log(p, "info", "%r exited with return code %r", (PyObject *)p, returncode) < 0) {
        Py_DECREF(returncode);
        return -1;
    }
    Py_XSETREF(p->returncode, returncode);
    PyObject *known = PyObject_GetAttrString(p->proc, "returncode");
    int rc = known == NULL      ? -1
             : known == Py_None ? PyObject_SetAttrString(p->proc, "returncode", p->returncode)
                                : 0;
    Py_XDECREF(known);
    if (rc == 0)
        rc = taut_process_call(p, st->str_process_exited, NULL, NULL);
    if (rc < 0 || taut_process_try_finish(p) < 0)
        return -1;
    if (PY_VERSION_HEX >= 0x030E0000)
        wake_waiters(p);
    return 0;
}

static PyObject *m_call_connection_lost(PyObject *self, PyObject *exc) {
    taut_process *p = (taut_process *)self;
    PyObject *protocol = Py_XNewRef(p->protocol);
    PyObject *r = protocol == NULL
                      ? Py_NewRef(Py_None)
                      : PyObject_CallMethodOneArg(protocol, p->lp->st->str_connection_lost, exc);
    PyObject *raised = r == NULL ? taut_exception_take() : NULL;
    wake_waiters(p);
    p->lost = 1;
    Py_CLEAR(p->protocol);
    Py_XDECREF(protocol);
    if (raised != NULL)
        taut_exception_restore(raised);
    return r;
}

/* ---- _wait(): what asyncio.subprocess.Process.wait() awaits ---------------------------------- */

static int wait_step(taut_op *op, PyObject **result) {
    taut_process *p = (taut_process *)op->args[0];
    if (p->returncode != NULL) {
        *result = Py_NewRef(p->returncode);
        return 1;
    }
    if (p->exit_waiters == NULL) { /* in a finalizer, among other garbage */
        PyErr_SetString(PyExc_RuntimeError, "the subprocess transport is gone");
        return -1;
    }
    Py_XSETREF(op->future, taut_pyloop_new_future(p->lp));
    if (op->future == NULL)
        return -1;
    return PyList_Append(p->exit_waiters, op->future);
}

static PyObject *m_wait(PyObject *self, PyObject *unused) {
    static const taut_op_kind kind = {"_wait", wait_step, NULL};
    static const char *const names[] = {"transport", NULL};
    return taut_op_new((PyObject *)((taut_process *)self)->lp, &kind, names, 1, &self, 1, NULL);
}

/* ---- starting -------------------------------------------------------------------------------- */

PyDoc_STRVAR(pipe_doc, "_pipe(fd) -> SubprocessPipe\n\nThe protocol for the pipe to that fd of the "
                       "child, which must be a PIPE.");
static PyObject *m_pipe(PyObject *self, PyObject *arg) {
    taut_process *p = (taut_process *)self;
    long fd = PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    if (fd < 0 || fd > 2 || !(p->expected & 1u << fd) || p->pipes[fd] != NULL) {
        PyErr_Format(PyExc_ValueError, "fd %ld of the child is not a pipe to be connected", fd);
        return NULL;
    }
    p->pipes[fd] = taut_process_pipe_new(p, (int)fd);
    return Py_XNewRef(p->pipes[fd]);
}

PyDoc_STRVAR(connected_doc, "_connected() -> None\n\nThe pipes are there: connection_made() is "
                            "called next, then whatever has happened meanwhile.");
static PyObject *m_connected(PyObject *self, PyObject *unused) {
    taut_process *p = (taut_process *)self;
    PyObject *pending = p->pending;
    p->pending = NULL;
    int rc = pending == NULL ? 0 : taut_process_call(p, p->lp->st->str_connection_made, self, NULL);
    for (Py_ssize_t i = 0; rc == 0 && pending != NULL && i < PyList_GET_SIZE(pending); i++)
        rc = queue(p, PyList_GET_ITEM(pending, i));
    Py_XDECREF(pending);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abandon_doc, "_abandon() -> None\n\nThe pipes could not be connected: the protocol "
                          "hears nothing, and pipes that are missing are not waited for.");
static PyObject *m_abandon(PyObject *self, PyObject *unused) {
    taut_process *p = (taut_process *)self;
    for (int fd = 0; fd < 3; fd++) {
        taut_process_pipe *pipe = (taut_process_pipe *)p->pipes[fd];
        if (pipe == NULL || pipe->pipe == NULL)
            p->expected &= ~(1u << fd);
    }
    Py_CLEAR(p->protocol);
    Py_CLEAR(p->pending);
    if (taut_process_try_finish(p) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Which of the Popen's stdin, stdout and stderr are pipes. */
static int find_pipes(taut_process *p) {
    static const char *const names[3] = {"stdin", "stdout", "stderr"};
    for (int fd = 0; fd < 3; fd++) {
        PyObject *file = PyObject_GetAttrString(p->proc, names[fd]);
        if (file == NULL)
            return -1;
        p->expected |= (file != Py_None) << fd;
        Py_DECREF(file);
    }
    return 0;
}

static int set_up(taut_process *p, PyObject *extra) {
    p->extra = extra == Py_None ? PyDict_New() : PyDict_Copy(extra);
    if (p->extra == NULL || PyDict_SetItemString(p->extra, "subprocess", p->proc) < 0)
        return -1;
    p->context = PyContext_CopyCurrent();
    p->made_at = taut_debug_made_at(p->lp);
    p->pending = PyList_New(0);
    p->exit_waiters = PyList_New(0);
    return p->context == NULL || p->pending == NULL || p->exit_waiters == NULL ? -1 : 0;
}

static PyObject *process_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"loop", "protocol", "proc", "child", "extra", NULL};
    PyObject *loop, *protocol, *proc, *child, *extra = Py_None;
    taut_state *st = taut_state_of_type(type);
    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOO!|O:SubprocessTransport",
                                                   names, st->loop_type, &loop, &protocol, &proc,
                                                   st->child_type, &child, &extra))
        return NULL;
    if (extra != Py_None && !PyDict_Check(extra)) {
        PyErr_Format(PyExc_TypeError, "extra must be a dict or None, not %R", extra);
        return NULL;
    }
    if (taut_pyloop_check_closed((taut_pyloop *)loop) < 0)
        return NULL;
    taut_process *p = (taut_process *)type->tp_alloc(type, 0); /* zeroed */
    if (p == NULL)
        return NULL;
    p->closed = 1; /* until it is complete */
    p->lp = (taut_pyloop *)Py_NewRef(loop);
    p->protocol = Py_NewRef(protocol);
    p->proc = Py_NewRef(proc);
    p->pid = PyLong_FromLong(((taut_child_object *)child)->core.pid);
    if (p->pid == NULL || set_up(p, extra) < 0 || find_pipes(p) < 0 ||
        taut_child_object_watch((taut_child_object *)child, p) < 0)
        Py_CLEAR(p);
    else
        p->closed = 0;
    return (PyObject *)p;
}

/* Instead of asyncio's, which knows other arguments. */
static int process_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    return 0;
}

/* ---- closing --------------------------------------------------------------------------------- */

/* The loop may be closed: then the pipe's transport can do no more than its own end will. */
static int close_pipes(taut_process *p) {
    int rc = 0;
    for (int fd = 0; fd < 3; fd++) {
        taut_process_pipe *pipe = (taut_process_pipe *)p->pipes[fd];
        if (pipe == NULL || pipe->pipe == NULL)
            continue;
        PyObject *r = PyObject_CallMethodNoArgs(pipe->pipe, p->lp->st->str_close);
        if (r == NULL && p->lp->closed && PyErr_ExceptionMatches(PyExc_RuntimeError))
            PyErr_Clear();
        else if (r == NULL)
            rc = -1;
        Py_XDECREF(r);
        if (rc < 0)
            break;
    }
    return rc;
}

static int kill_running(taut_process *p) {
    if (p->returncode != NULL || p->lost)
        return 0;
    PyObject *code = PyObject_CallMethod(p->proc, "poll", NULL);
    int runs = code == Py_None;
    Py_XDECREF(code);
    if (code == NULL)
        return -1;
    if (!runs)
        return 0;
    if (debug_log(p, "warning", "Close running child process: kill %r", (PyObject *)p, NULL) < 0)
        return -1;
    PyObject *r = PyObject_CallMethod(p->proc, "kill", NULL);
    Py_XDECREF(r);
    if (r == NULL && (PyErr_ExceptionMatches(PyExc_ProcessLookupError) ||
                      PyErr_ExceptionMatches(PyExc_PermissionError)))
        PyErr_Clear(); /* it has just ended, or runs as somebody else */
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    taut_process *p = (taut_process *)self;
    if (p->closed)
        Py_RETURN_NONE;
    p->closed = 1;
    if (close_pipes(p) < 0 || kill_running(p) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void process_finalize(PyObject *self) {
    taut_process *p = (taut_process *)self;
    if (p->closed)
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    taut_debug_unclosed(self, "transport", p->made_at);
    PyObject *r = m_close(self, NULL);
    if (r == NULL)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(r);
    PyErr_Restore(type, value, traceback);
}

/* ---- other methods --------------------------------------------------------------------------- */

static PyObject *m_get_pid(PyObject *self, PyObject *unused) {
    return Py_NewRef(((taut_process *)self)->pid);
}

static PyObject *m_get_returncode(PyObject *self, PyObject *unused) {
    PyObject *code = ((taut_process *)self)->returncode;
    return Py_NewRef(code != NULL ? code : Py_None);
}

static PyObject *m_get_pipe_transport(PyObject *self, PyObject *arg) {
    taut_process *p = (taut_process *)self;
    long fd = PyLong_Check(arg) ? PyLong_AsLong(arg) : -1;
    if (fd == -1 && PyErr_Occurred())
        PyErr_Clear(); /* too large for an fd: nothing by that key */
    taut_process_pipe *pipe = fd >= 0 && fd <= 2 ? (taut_process_pipe *)p->pipes[fd] : NULL;
    return Py_NewRef(pipe != NULL && pipe->pipe != NULL ? pipe->pipe : Py_None);
}

static PyObject *ask_proc(PyObject *self, const char *name, PyObject *arg) {
    taut_process *p = (taut_process *)self;
    if (p->lost) {
        PyErr_SetNone(PyExc_ProcessLookupError);
        return NULL;
    }
    PyObject *r = arg != NULL ? PyObject_CallMethod(p->proc, name, "(O)", arg)
                              : PyObject_CallMethod(p->proc, name, NULL);
    if (r == NULL)
        return NULL;
    Py_DECREF(r);
    Py_RETURN_NONE;
}

static PyObject *m_send_signal(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"signal", NULL};
    PyObject *signum;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:send_signal", names, &signum))
        return NULL;
    return ask_proc(self, "send_signal", signum);
}

static PyObject *m_terminate(PyObject *self, PyObject *unused) {
    return ask_proc(self, "terminate", NULL);
}

static PyObject *m_kill(PyObject *self, PyObject *unused) {
    return ask_proc(self, "kill", NULL);
}

static PyObject *m_set_protocol(PyObject *self, PyObject *protocol) {
    Py_XSETREF(((taut_process *)self)->protocol, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

static PyObject *get_protocol(PyObject *self, void *closure) {
    PyObject *protocol = ((taut_process *)self)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static PyObject *m_get_protocol(PyObject *self, PyObject *unused) {
    return get_protocol(self, NULL);
}

static PyObject *get_closed(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_process *)self)->closed);
}

static PyObject *m_is_closing(PyObject *self, PyObject *unused) {
    return get_closed(self, NULL);
}

static PyObject *get_pid(PyObject *self, void *closure) {
    return m_get_pid(self, NULL);
}
static PyObject *get_returncode(PyObject *self, void *closure) {
    return m_get_returncode(self, NULL);
}
static PyObject *get_finished(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_process *)self)->finished);
}
static PyObject *get_loop(PyObject *self, void *closure) {
    taut_process *p = (taut_process *)self;
    return Py_NewRef(p->lost ? Py_None : (PyObject *)p->lp);
}
static PyObject *get_proc(PyObject *self, void *closure) {
    taut_process *p = (taut_process *)self;
    return Py_NewRef(p->lost ? Py_None : p->proc);
}

static PyObject *get_pipes(PyObject *self, void *closure) {
    taut_process *p = (taut_process *)self;
    PyObject *pipes = PyDict_New();
    for (int fd = 0; pipes != NULL && fd < 3; fd++) {
        if (!(p->expected & 1u << fd))
            continue;
        PyObject *key = PyLong_FromLong(fd);
        if (key == NULL ||
            PyDict_SetItem(pipes, key, p->pipes[fd] != NULL ? p->pipes[fd] : Py_None) < 0)
            Py_CLEAR(pipes);
        Py_XDECREF(key);
    }
    return pipes;
}

static PyObject *process_repr(PyObject *self) {
    static const char *const names[3] = {"stdin", "stdout", "stderr"};
    taut_process *p = (taut_process *)self;
    const char *name = strrchr(Py_TYPE(self)->tp_name, '.');
    PyObject *shown =
        PyUnicode_FromFormat("<%s%s pid=%S", name != NULL ? name + 1 : Py_TYPE(self)->tp_name,
                             p->closed ? " closed" : "", p->pid);
    PyObject *state = p->returncode != NULL ? PyUnicode_FromFormat(" returncode=%S", p->returncode)
                                            : PyUnicode_FromString(" running");
    PyUnicode_AppendAndDel(&shown, state);
    for (int fd = 0; shown != NULL && fd < 3; fd++) {
        taut_process_pipe *pipe = (taut_process_pipe *)p->pipes[fd];
        if (pipe != NULL)
            PyUnicode_AppendAndDel(&shown,
                                   PyUnicode_FromFormat(" %s=%R", names[fd],
                                                        pipe->pipe != NULL ? pipe->pipe : Py_None));
    }
    PyUnicode_AppendAndDel(&shown, PyUnicode_FromString(">"));
    return shown;
}

/* ---- the type -------------------------------------------------------------------------------- */

static int process_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_process *p = (taut_process *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(p->extra);
    Py_VISIT(p->dict);
    Py_VISIT((PyObject *)p->lp);
    Py_VISIT(p->proc);
    Py_VISIT(p->context);
    Py_VISIT(p->protocol);
    for (int fd = 0; fd < 3; fd++)
        Py_VISIT(p->pipes[fd]);
    Py_VISIT(p->pending);
    Py_VISIT(p->exit_waiters);
    Py_VISIT(p->made_at);
    return 0;
}

/* The loop and the Popen stay until the end: methods rely on them. */
static int process_clear(PyObject *self) {
    taut_process *p = (taut_process *)self;
    Py_CLEAR(p->extra);
    Py_CLEAR(p->dict);
    Py_CLEAR(p->context);
    Py_CLEAR(p->protocol);
    for (int fd = 0; fd < 3; fd++)
        Py_CLEAR(p->pipes[fd]);
    Py_CLEAR(p->pending);
    Py_CLEAR(p->exit_waiters);
    Py_CLEAR(p->made_at);
    return 0;
}

static void process_dealloc(PyObject *self) {
    taut_process *p = (taut_process *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* resurrected */
    PyObject_GC_UnTrack(self);
    if (p->weaklist != NULL)
        PyObject_ClearWeakRefs(self);
    (void)process_clear(self);
    Py_XDECREF(p->proc);
    Py_XDECREF(p->pid);
    Py_XDECREF(p->returncode);
    Py_XDECREF((PyObject *)p->lp);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef process_methods[] = {
    {"get_pid", m_get_pid, METH_NOARGS, "The child's process id."},
    {"get_returncode", m_get_returncode, METH_NOARGS,
     "The exit code, the negative number of a signal, or None while it runs."},
    {"get_pipe_transport", m_get_pipe_transport, METH_O,
     "The transport of the pipe to the child's fd 0, 1 or 2; None when that is no pipe."},
    {"send_signal", (PyCFunction)(void (*)(void))m_send_signal, METH_VARARGS | METH_KEYWORDS,
     "Send a signal, unless it has ended. ProcessLookupError after connection_lost()."},
    {"terminate", m_terminate, METH_NOARGS, "Send SIGTERM, as send_signal()."},
    {"kill", m_kill, METH_NOARGS, "Send SIGKILL, as send_signal()."},
    {"close", m_close, METH_NOARGS, "Close the pipes and kill the child if it still runs."},
    {"is_closing", m_is_closing, METH_NOARGS, "True once close() was called."},
    {"set_protocol", m_set_protocol, METH_O, "Switch to another protocol."},
    {"get_protocol", m_get_protocol, METH_NOARGS, "The current protocol."},
    {"_wait", m_wait, METH_NOARGS,
     "Awaitable: the return code; up to 3.13 once the pipes are closed too."},
    {"_pipe", m_pipe, METH_O, pipe_doc},
    {"_connected", m_connected, METH_NOARGS, connected_doc},
    {"_abandon", m_abandon, METH_NOARGS, abandon_doc},
    {"_call_connection_lost", m_call_connection_lost, METH_O, "The last callback."},
    {NULL},
};

static PyGetSetDef process_getset[] = {
    {"_pid", get_pid, NULL, "The child's process id."},
    {"_returncode", get_returncode, NULL, "The return code, or None."},
    {"_protocol", get_protocol, NULL, "The protocol; None after connection_lost()."},
    {"_proc", get_proc, NULL, "The Popen object; None after connection_lost()."},
    {"_loop", get_loop, NULL, "The loop; None after connection_lost()."},
    {"_pipes", get_pipes, NULL, "The protocols of the pipes, by the child's fd."},
    {"_closed", get_closed, NULL, "True once close() was called."},
    {"_finished", get_finished, NULL, "True once nothing more can happen."},
    {NULL},
};

static PyMemberDef process_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(taut_process, dict), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_process, weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot process_slots[] = {
    {Py_tp_doc, "A child process and the pipes to it."},
    {Py_tp_new, process_new},
    {Py_tp_init, process_init},
    {Py_tp_traverse, process_traverse},
    {Py_tp_clear, process_clear},
    {Py_tp_finalize, process_finalize},
    {Py_tp_dealloc, process_dealloc},
    {Py_tp_repr, process_repr},
    {Py_tp_methods, process_methods},
    {Py_tp_getset, process_getset},
    {Py_tp_members, process_members},
    {0, NULL},
};

static PyType_Spec process_spec = {
    .name = "taut._core.SubprocessTransport",
    .basicsize = sizeof(taut_process),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = process_slots,
};

PyTypeObject *taut_process_base(const char *name, size_t size) {
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    PyObject *base = asyncio == NULL ? NULL : PyObject_GetAttrString(asyncio, name);
    Py_XDECREF(asyncio);
    PyTypeObject *type = (PyTypeObject *)base;
    if (base != NULL && (!PyType_Check(base) || type->tp_basicsize != (Py_ssize_t)size ||
                         type->tp_dictoffset != 0 || type->tp_weaklistoffset != 0)) {
        PyErr_Format(PyExc_ImportError, "asyncio.%s has an unknown layout", name);
        Py_CLEAR(base);
    }
    return (PyTypeObject *)base;
}

int taut_process_transport_type_add(PyObject *module, taut_state *st) {
    PyTypeObject *base = taut_process_base("SubprocessTransport", offsetof(taut_process, dict));
    if (base == NULL)
        return -1;
    st->process_transport_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &process_spec, (PyObject *)base);
    Py_DECREF((PyObject *)base);
    return st->process_transport_type == NULL
               ? -1
               : PyModule_AddType(module, st->process_transport_type);
}
