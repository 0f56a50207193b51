/* taut._core.SubprocessPipe: the protocol on a pipe to a child; hands on to the transport's. */
#include "binding/process.h"
#include "binding/compat.h"

PyObject *taut_process_pipe_new(taut_process *process, int fd) {
    PyTypeObject *type = process->lp->st->process_pipe_type;
    taut_process_pipe *pp = (taut_process_pipe *)type->tp_alloc(type, 0); /* zeroed */
    if (pp == NULL)
        return NULL;
    pp->process = (taut_process *)Py_NewRef((PyObject *)process);
    pp->fd = fd;
    return (PyObject *)pp;
}

static PyObject *none_unless(int rc) {
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int hand_on(taut_process_pipe *pp, PyObject *name, PyObject *what) {
    PyObject *fd = PyLong_FromLong(pp->fd);
    int rc = fd == NULL ? -1 : taut_process_call(pp->process, name, fd, what);
    Py_XDECREF(fd);
    return rc;
}

static PyObject *m_connection_made(PyObject *self, PyObject *transport) {
    Py_XSETREF(((taut_process_pipe *)self)->pipe, Py_NewRef(transport));
    Py_RETURN_NONE;
}

static PyObject *m_data_received(PyObject *self, PyObject *data) {
    taut_process_pipe *pp = (taut_process_pipe *)self;
    if (pp->process == NULL)
        Py_RETURN_NONE;
    return none_unless(hand_on(pp, pp->process->lp->st->str_pipe_data_received, data));
}

static PyObject *m_eof_received(PyObject *self, PyObject *unused) {
    Py_RETURN_NONE;
}

static PyObject *m_connection_lost(PyObject *self, PyObject *exc) {
    taut_process_pipe *pp = (taut_process_pipe *)self;
    pp->disconnected = 1;
    taut_process *process = pp->process;
    if (process == NULL)
        Py_RETURN_NONE;
    int rc = hand_on(pp, process->lp->st->str_pipe_connection_lost, exc);
    if (rc == 0)
        rc = taut_process_try_finish(process);
    Py_CLEAR(pp->process);
    return none_unless(rc);
}

/* At once, unlike the others: between two writes the protocol has to know. */
static PyObject *tell(PyObject *self, const char *name) {
    taut_process *process = ((taut_process_pipe *)self)->process;
    if (process == NULL || process->protocol == NULL)
        Py_RETURN_NONE;
    PyObject *protocol = Py_NewRef(process->protocol);
    PyObject *r = PyObject_CallMethod(protocol, name, NULL);
    Py_DECREF(protocol);
    return r;
}

static PyObject *m_pause_writing(PyObject *self, PyObject *unused) {
    return tell(self, "pause_writing");
}

static PyObject *m_resume_writing(PyObject *self, PyObject *unused) {
    return tell(self, "resume_writing");
}

static PyObject *get_pipe(PyObject *self, void *closure) {
    PyObject *pipe = ((taut_process_pipe *)self)->pipe;
    return Py_NewRef(pipe != NULL ? pipe : Py_None);
}

static PyObject *pipe_repr(PyObject *self) {
    taut_process_pipe *pp = (taut_process_pipe *)self;
    return PyUnicode_FromFormat("<SubprocessPipe fd=%d pipe=%R>", pp->fd,
                                pp->pipe != NULL ? pp->pipe : Py_None);
}

/* ---- the type -------------------------------------------------------------------------------- */

static int pipe_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_process_pipe *pp = (taut_process_pipe *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)pp->process);
    Py_VISIT(pp->pipe);
    return 0;
}

static int pipe_clear(PyObject *self) {
    taut_process_pipe *pp = (taut_process_pipe *)self;
    Py_CLEAR(pp->process);
    Py_CLEAR(pp->pipe);
    return 0;
}

static void pipe_dealloc(PyObject *self) {
    taut_process_pipe *pp = (taut_process_pipe *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (pp->weaklist != NULL)
        PyObject_ClearWeakRefs(self);
    (void)pipe_clear(self);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef pipe_methods[] = {
    {"connection_made", m_connection_made, METH_O, "Keeps the pipe's transport."},
    {"data_received", m_data_received, METH_O, "Becomes pipe_data_received(fd, data)."},
    {"eof_received", m_eof_received, METH_NOARGS, "The pipe closes."},
    {"connection_lost", m_connection_lost, METH_O, "Becomes pipe_connection_lost(fd, exc)."},
    {"pause_writing", m_pause_writing, METH_NOARGS, "Handed on."},
    {"resume_writing", m_resume_writing, METH_NOARGS, "Handed on."},
    {NULL},
};

static PyGetSetDef pipe_getset[] = {
    {"pipe", get_pipe, NULL, "The pipe's transport; None before connection_made()."},
    {NULL},
};

static PyMemberDef pipe_members[] = {
    {"fd", Py_T_INT, offsetof(taut_process_pipe, fd), Py_READONLY, "0, 1 or 2."},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_process_pipe, weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot pipe_slots[] = {
    {Py_tp_doc, "The protocol on a pipe to a child process."},
    {Py_tp_traverse, pipe_traverse},
    {Py_tp_clear, pipe_clear},
    {Py_tp_dealloc, pipe_dealloc},
    {Py_tp_repr, pipe_repr},
    {Py_tp_methods, pipe_methods},
    {Py_tp_getset, pipe_getset},
    {Py_tp_members, pipe_members},
    {0, NULL},
};

static PyType_Spec pipe_spec = {
    .name = "taut._core.SubprocessPipe",
    .basicsize = sizeof(taut_process_pipe),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pipe_slots,
};

int taut_process_pipe_type_add(PyObject *module, taut_state *st) {
    PyTypeObject *base = taut_process_base("Protocol", sizeof(PyObject));
    if (base == NULL)
        return -1;
    st->process_pipe_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &pipe_spec, (PyObject *)base);
    Py_DECREF((PyObject *)base);
    return st->process_pipe_type == NULL ? -1 : PyModule_AddType(module, st->process_pipe_type);
}
