/* taut._core.WritePipeTransport. */
#include "binding/pipe.h"
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/err.h"

/* asyncio warns when this many writes have gone nowhere before. */
#define DROPPED_WRITES_QUIET 5

static taut_pipe *pipe_in(PyObject *self) {
    return &((taut_write_pipe *)self)->p;
}

static void tell_protocol(taut_pipe *p, PyObject *name, const char *message) {
    PyObject *args[2] = {NULL, NULL};
    PyObject *r = taut_pipe_call(p, name, args + 1, 1);
    if (r == NULL)
        taut_pipe_report_raised(p, message);
    Py_XDECREF(r);
}

static void on_pause(taut_stream *s) {
    taut_pipe *p = taut_pipe_of(s);
    p->protocol_paused = 1;
    tell_protocol(p, p->lp->st->str_pause_writing, "protocol.pause_writing() failed");
}

static void on_resume(taut_stream *s) {
    taut_pipe *p = taut_pipe_of(s);
    p->protocol_paused = 0;
    tell_protocol(p, p->lp->st->str_resume_writing, "protocol.resume_writing() failed");
}

static int on_reader_gone(taut_stream *s) {
    taut_pipe *p = taut_pipe_of(s);
    taut_pipe_debug_gone(p);
    p->hung_up = 1;
    return 0;
}

static void on_release(void *token) {
    Py_DECREF((PyObject *)token);
}

static const taut_stream_ops ops = {
    .eof = on_reader_gone,
    .pause_writing = on_pause,
    .resume_writing = on_resume,
    .closed = taut_pipe_on_closed,
    .release = on_release,
};

/* The core would resume at the low-water mark. asyncio's pipes wait until all has been written. */
static void set_marks(taut_pipe *p, size_t low, size_t high) {
    unsigned outer = p->in_call;
    Py_INCREF(p->self);
    p->low_size = low;
    p->in_call = 1;
    taut_stream_set_water_marks(&p->stream, 0, high);
    p->in_call = outer;
    Py_DECREF(p->self);
}

static PyObject *make(PyObject *self, PyObject *args, PyObject *kwargs) {
    taut_pyloop *lp = (taut_pyloop *)self;
    PyTypeObject *type = lp->st->write_pipe_type;
    taut_write_pipe *t = (taut_write_pipe *)type->tp_alloc(type, 0); /* zeroed */
    if (t == NULL)
        return NULL;
    t->p.writes = 1;
    if (taut_pipe_open(&t->p, (PyObject *)t, &t->extra, lp, args, kwargs, &ops) < 0)
        Py_CLEAR(t);
    else
        set_marks(&t->p, t->p.stream.low, t->p.stream.high);
    return (PyObject *)t;
}

PyMethodDef taut_loop_write_pipe_methods[] = {
    {"_make_write_pipe_transport", (PyCFunction)(void (*)(void))make, METH_VARARGS | METH_KEYWORDS,
     "_make_write_pipe_transport(pipe, protocol, waiter=None, extra=None)\n\n"
     "A transport that writes to the pipe object and closes it in the end."},
    {NULL},
};

/* ---- methods ----------------------------------------------------------------------------- */

/* As asyncio counts: a failed write is one, and each one after closing had begun. */
static unsigned lost_writes(const taut_pipe *p) {
    return p->dropped + (p->stream.write_failed ? 1 : 0);
}

/* 0: write; 1: nothing to do; -1 with an exception. */
static int check_write(taut_pipe *p, Py_ssize_t size) {
    if (size == 0)
        return 1;
    if (!taut_pipe_is_closing(p))
        return taut_pipe_check(p);
    unsigned lost = lost_writes(p);
    p->dropped++;
    if (lost < DROPPED_WRITES_QUIET)
        return 1;
    PyObject *r =
        PyObject_CallMethod(p->lp->st->logger, "warning", "s",
                            "pipe closed by peer or os.write(pipe, data) raised exception.");
    Py_XDECREF(r);
    return r == NULL ? -1 : 1;
}

/* `token` (or NULL: the bytes are copied where needed) is given away. */
static int send_bytes(taut_pipe *p, const void *bytes, Py_ssize_t size, PyObject *token) {
    int rc = check_write(p, size);
    if (rc != 0) {
        Py_XDECREF(token);
        return rc < 0 ? -1 : 0;
    }
    PyObject *self = Py_NewRef(p->self); /* pause_writing runs user code */
    unsigned outer = p->in_call;
    p->in_call = 1;
    rc = taut_stream_write(&p->stream, bytes, (size_t)size, token);
    p->in_call = outer;
    taut_pipe_update_hold(p);
    Py_DECREF(self);
    if (rc < 0)
        taut_err_raise(rc);
    return rc;
}

/* Any buffer; one that is not contiguous is flattened first. */
static int send_object(taut_pipe *p, PyObject *data) {
    if (PyBytes_CheckExact(data))
        return send_bytes(p, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), Py_NewRef(data));
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) == 0) {
        int rc = send_bytes(p, view.buf, view.len, NULL);
        PyBuffer_Release(&view);
        return rc;
    }
    if (!PyErr_ExceptionMatches(PyExc_BufferError))
        return -1;
    PyErr_Clear();
    PyObject *flat = PyBytes_FromObject(data);
    int rc = flat == NULL ? -1 : send_object(p, flat);
    Py_XDECREF(flat);
    return rc;
}

static PyObject *m_write(PyObject *self, PyObject *data) {
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data))
        return PyErr_Format(PyExc_TypeError, "data argument must be a bytes-like object, not '%s'",
                            Py_TYPE(data)->tp_name);
    if (send_object(pipe_in(self), data) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* One write, so that a short line made of pieces reaches a shared pipe whole. */
static PyObject *m_writelines(PyObject *self, PyObject *list_of_data) {
    taut_pipe *p = pipe_in(self);
    PyObject *joined = PyObject_CallMethod(p->lp->st->empty_bytes, "join", "O", list_of_data);
    int rc = joined == NULL ? -1 : send_object(p, joined);
    Py_XDECREF(joined);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    if (taut_pipe_close(pipe_in(self), 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *m_abort(PyObject *self, PyObject *unused) {
    if (taut_pipe_close(pipe_in(self), 1) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *m_can_write_eof(PyObject *self, PyObject *unused) {
    Py_RETURN_TRUE;
}

static PyObject *m_is_closing(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(taut_pipe_is_closing(pipe_in(self)));
}

static PyObject *m_buffer_size(PyObject *self, PyObject *unused) {
    return PyLong_FromSize_t(pipe_in(self)->stream.pending_size);
}

static PyObject *m_limits(PyObject *self, PyObject *unused) {
    taut_pipe *p = pipe_in(self);
    return Py_BuildValue("(nn)", (Py_ssize_t)p->low_size, (Py_ssize_t)p->stream.high);
}

static PyObject *m_set_limits(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"high", "low", NULL};
    PyObject *high_obj = Py_None, *low_obj = Py_None;
    size_t high, low;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names, &high_obj,
                                     &low_obj) ||
        taut_args_marks(high_obj, low_obj, 64 * 1024, &high, &low) < 0)
        return NULL;
    set_marks(pipe_in(self), low, high);
    Py_RETURN_NONE;
}

static PyObject *or_none(PyObject *obj) {
    return Py_NewRef(obj != NULL ? obj : Py_None);
}

static PyObject *m_set_protocol(PyObject *self, PyObject *protocol) {
    Py_XSETREF(pipe_in(self)->protocol, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

static PyObject *m_get_protocol(PyObject *self, PyObject *unused) {
    return or_none(pipe_in(self)->protocol);
}

static PyObject *get_loop(PyObject *self, void *closure) {
    taut_pipe *p = pipe_in(self);
    return or_none(p->open ? (PyObject *)p->lp : NULL);
}
static PyObject *get_protocol(PyObject *self, void *closure) {
    return or_none(pipe_in(self)->protocol);
}
static PyObject *get_pipe(PyObject *self, void *closure) {
    return taut_pipe_get_pipe(pipe_in(self));
}
static int set_pipe(PyObject *self, PyObject *value, void *closure) {
    return taut_pipe_set_pipe(pipe_in(self), value);
}
static PyObject *get_fileno(PyObject *self, void *closure) {
    return PyLong_FromLong(pipe_in(self)->fd);
}
static PyObject *get_closing(PyObject *self, void *closure) {
    return PyBool_FromLong(taut_pipe_is_closing(pipe_in(self)));
}
static PyObject *get_conn_lost(PyObject *self, void *closure) {
    return PyLong_FromUnsignedLong(lost_writes(pipe_in(self)));
}
static PyObject *get_protocol_paused(PyObject *self, void *closure) {
    return PyBool_FromLong(pipe_in(self)->protocol_paused);
}

static PyObject *repr(PyObject *self) {
    taut_pipe *p = pipe_in(self);
    PyObject *r, *start = taut_pipe_repr(p, "WritePipeTransport");
    if (start == NULL)
        return NULL;
    if (!p->open || p->orphan)
        r = PyUnicode_FromFormat("%U%s>", start, p->open ? " open" : "");
    else
        r = PyUnicode_FromFormat("%U %s bufsize=%zu>", start,
                                 p->stream.watch.want & TAUT_WRITE ? "polling" : "idle",
                                 p->stream.pending_size);
    Py_DECREF(start);
    return r;
}

/* ---- the type ---------------------------------------------------------------------------- */

static int traverse(PyObject *self, visitproc visit, void *arg) {
    taut_write_pipe *t = (taut_write_pipe *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->extra);
    for (size_t i = 0; i < sizeof t->unused_slots / sizeof *t->unused_slots; i++)
        Py_VISIT(t->unused_slots[i]);
    return taut_pipe_traverse(&t->p, visit, arg);
}

static int clear(PyObject *self) {
    taut_write_pipe *t = (taut_write_pipe *)self;
    Py_CLEAR(t->extra);
    for (size_t i = 0; i < sizeof t->unused_slots / sizeof *t->unused_slots; i++)
        Py_CLEAR(t->unused_slots[i]);
    taut_pipe_clear(&t->p);
    return 0;
}

static void finalize(PyObject *self) {
    taut_pipe_finalize(pipe_in(self));
}

static void dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* resurrected */
    PyObject_GC_UnTrack(self);
    if (pipe_in(self)->weaklist != NULL)
        PyObject_ClearWeakRefs(self);
    (void)clear(self);
    taut_pipe_release(pipe_in(self));
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef methods[] = {
    {"write", m_write, METH_O, "Write bytes, now or as soon as the reader has made room."},
    {"writelines", m_writelines, METH_O, "Write an iterable of bytes-like objects as one."},
    {"write_eof", m_close, METH_NOARGS, "The same as close()."},
    {"can_write_eof", m_can_write_eof, METH_NOARGS, "True."},
    {"close", m_close, METH_NOARGS, "Close the pipe after the write buffer has been written."},
    {"abort", m_abort, METH_NOARGS, "Close at once; buffered data is lost."},
    {"is_closing", m_is_closing, METH_NOARGS, "True once closing has begun."},
    {"set_protocol", m_set_protocol, METH_O, "Switch to another protocol."},
    {"get_protocol", m_get_protocol, METH_NOARGS, "The current protocol."},
    {"get_write_buffer_size", m_buffer_size, METH_NOARGS, "Bytes not yet written."},
    {"get_write_buffer_limits", m_limits, METH_NOARGS, "(low, high) in bytes."},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))m_set_limits,
     METH_VARARGS | METH_KEYWORDS, "Set the marks that pause and resume the protocol."},
    {NULL},
};

static PyGetSetDef getset[] = {
    {"_loop", get_loop, NULL, "The loop; None once the connection is lost."},
    {"_protocol", get_protocol, NULL, "The current protocol, or None."},
    {"_pipe", get_pipe, set_pipe, "The pipe object; None once it is closed."},
    {"_fileno", get_fileno, NULL, "The file descriptor's number, also after closing."},
    {"_closing", get_closing, NULL, "True once closing has begun."},
    {"_conn_lost", get_conn_lost, NULL, "Writes that went nowhere."},
    {"_protocol_paused", get_protocol_paused, NULL, "True after pause_writing()."},
    {NULL},
};

static PyMemberDef members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(taut_write_pipe, p.dict), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_write_pipe, p.weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The writing end of a pipe, FIFO, socket or character device."},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_finalize, finalize},
    {Py_tp_dealloc, dealloc},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getset},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "taut._core.WritePipeTransport",
    .basicsize = sizeof(taut_write_pipe),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int taut_write_pipe_type_add(PyObject *module, taut_state *st) {
    PyTypeObject *base = (PyTypeObject *)st->base_transport;
    if (base->tp_basicsize != (Py_ssize_t)offsetof(taut_write_pipe, p) ||
        base->tp_dictoffset != 0 || base->tp_weaklistoffset != 0) {
        PyErr_SetString(PyExc_ImportError, "asyncio's transport classes have an unknown layout");
        return -1;
    }
    st->write_pipe_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, st->base_transport);
    return st->write_pipe_type == NULL ? -1 : PyModule_AddType(module, st->write_pipe_type);
}
