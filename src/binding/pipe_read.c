/* taut._core.ReadPipeTransport. */
#include "binding/pipe.h"
#include <errno.h>
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"
#include "binding/stream_reader.h"

static taut_pipe *pipe_in(PyObject *self) {
    return &((taut_read_pipe *)self)->p;
}

#define DATA_RECEIVED_FAILED "Exception in callback protocol.data_received()"

/* What a protocol raises is reported, and the transport goes on. */
static void on_data(taut_stream *s, const uint8_t *bytes, size_t size) {
    taut_pipe *p = taut_pipe_of(s);
    int fed = taut_stream_reader_feed(p->lp, p->protocol, bytes, size);
    if (fed < 0)
        taut_pipe_report_raised(p, DATA_RECEIVED_FAILED);
    if (fed != 0)
        return;
    PyObject *data = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
    if (data == NULL) { /* bytes are lost: it cannot go on */
        PyErr_Clear();
        taut_stream_abort(s, -ENOMEM);
        return;
    }
    PyObject *args[3] = {NULL, NULL, data};
    PyObject *r = taut_pipe_call(p, p->lp->st->str_data_received, args + 1, 2);
    Py_DECREF(data);
    if (r == NULL)
        taut_pipe_report_raised(p, DATA_RECEIVED_FAILED);
    Py_XDECREF(r);
}

/* As asyncio: closing from now on, eof_received and connection_lost soon, whatever the former
 * returns. */
static int on_eof(taut_stream *s) {
    taut_pipe *p = taut_pipe_of(s);
    taut_pipe_debug_gone(p);
    PyObject *protocol = Py_NewRef(p->protocol);
    PyObject *eof = PyObject_GetAttr(protocol, p->lp->st->str_eof_received);
    Py_DECREF(protocol);
    if (eof == NULL || taut_ready_call0(p->lp, eof, p->context) < 0)
        taut_pipe_report_raised(p, "Exception in callback protocol.eof_received()");
    Py_XDECREF(eof);
    return 0;
}

static const taut_stream_ops ops = {.data = on_data, .eof = on_eof, .closed = taut_pipe_on_closed};

static PyObject *make(PyObject *self, PyObject *args, PyObject *kwargs) {
    taut_pyloop *lp = (taut_pyloop *)self;
    PyTypeObject *type = lp->st->read_pipe_type;
    taut_read_pipe *t = (taut_read_pipe *)type->tp_alloc(type, 0); /* zeroed */
    if (t != NULL && taut_pipe_open(&t->p, (PyObject *)t, &t->extra, lp, args, kwargs, &ops) < 0)
        Py_CLEAR(t);
    return (PyObject *)t;
}

PyMethodDef taut_loop_read_pipe_methods[] = {
    {"_make_read_pipe_transport", (PyCFunction)(void (*)(void))make, METH_VARARGS | METH_KEYWORDS,
     "_make_read_pipe_transport(pipe, protocol, waiter=None, extra=None)\n\n"
     "A transport that reads from the pipe object and closes it in the end."},
    {NULL},
};

/* ---- methods ----------------------------------------------------------------------------- */

static PyObject *m_pause_reading(PyObject *self, PyObject *unused) {
    taut_pipe *p = pipe_in(self);
    if (taut_pipe_is_closing(p) || p->paused)
        Py_RETURN_NONE;
    p->paused = 1;
    if (!p->orphan) {
        taut_stream_read_stop(&p->stream);
        taut_pipe_update_hold(p);
    }
    taut_debug_log(p->lp, "%r pauses reading", self, NULL, NULL);
    Py_RETURN_NONE;
}

static PyObject *m_resume_reading(PyObject *self, PyObject *unused) {
    taut_pipe *p = pipe_in(self);
    if (taut_pipe_is_closing(p) || !p->paused)
        Py_RETURN_NONE;
    if (taut_pipe_check(p) < 0)
        return NULL;
    p->paused = 0;
    if (!p->starting) /* on_start will see to it, after connection_made */
        taut_pipe_read_start(p);
    taut_debug_log(p->lp, "%r resumes reading", self, NULL, NULL);
    Py_RETURN_NONE;
}

static PyObject *m_is_reading(PyObject *self, PyObject *unused) {
    taut_pipe *p = pipe_in(self);
    return PyBool_FromLong(!taut_pipe_is_closing(p) && !p->paused);
}

static PyObject *m_is_closing(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(taut_pipe_is_closing(pipe_in(self)));
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    if (taut_pipe_close(pipe_in(self), 0) < 0)
        return NULL;
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
static PyObject *get_paused(PyObject *self, void *closure) {
    return PyBool_FromLong(pipe_in(self)->paused);
}
static PyObject *get_closing(PyObject *self, void *closure) {
    return PyBool_FromLong(taut_pipe_is_closing(pipe_in(self)));
}

static PyObject *repr(PyObject *self) {
    taut_pipe *p = pipe_in(self);
    PyObject *start = taut_pipe_repr(p, "ReadPipeTransport");
    if (start == NULL)
        return NULL;
    const char *state = !p->open            ? ""
                        : p->orphan         ? " open"
                        : p->stream.reading ? " polling"
                                            : " idle";
    PyObject *r = PyUnicode_FromFormat("%U%s>", start, state);
    Py_DECREF(start);
    return r;
}

/* ---- the type ---------------------------------------------------------------------------- */

static int traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((taut_read_pipe *)self)->extra);
    return taut_pipe_traverse(pipe_in(self), visit, arg);
}

static int clear(PyObject *self) {
    Py_CLEAR(((taut_read_pipe *)self)->extra);
    taut_pipe_clear(pipe_in(self));
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
    {"is_closing", m_is_closing, METH_NOARGS, "True once closing has begun."},
    {"close", m_close, METH_NOARGS, "Stop reading, call connection_lost() and close the pipe."},
    {"set_protocol", m_set_protocol, METH_O, "Switch to another protocol."},
    {"get_protocol", m_get_protocol, METH_NOARGS, "The current protocol."},
    {"pause_reading", m_pause_reading, METH_NOARGS, "Stop calling data_received()."},
    {"resume_reading", m_resume_reading, METH_NOARGS, "Read again."},
    {"is_reading", m_is_reading, METH_NOARGS, "True unless paused or closing."},
    {NULL},
};

static PyGetSetDef getset[] = {
    {"_loop", get_loop, NULL, "The loop; None once the connection is lost."},
    {"_protocol", get_protocol, NULL, "The current protocol, or None."},
    {"_pipe", get_pipe, set_pipe, "The pipe object; None once it is closed."},
    {"_fileno", get_fileno, NULL, "The file descriptor's number, also after closing."},
    {"_paused", get_paused, NULL, "True while reading is paused."},
    {"_closing", get_closing, NULL, "True once closing has begun."},
    {NULL},
};

static PyMemberDef members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(taut_read_pipe, p.dict), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_read_pipe, p.weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The reading end of a pipe, FIFO, socket or character device."},
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
    .name = "taut._core.ReadPipeTransport",
    .basicsize = sizeof(taut_read_pipe),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int taut_read_pipe_type_add(PyObject *module, taut_state *st) {
    PyTypeObject *base = (PyTypeObject *)st->base_read_transport;
    if (base->tp_basicsize != (Py_ssize_t)offsetof(taut_read_pipe, p) || base->tp_dictoffset != 0 ||
        base->tp_weaklistoffset != 0) {
        PyErr_SetString(PyExc_ImportError, "asyncio's transport classes have an unknown layout");
        return -1;
    }
    st->read_pipe_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, st->base_read_transport);
    return st->read_pipe_type == NULL ? -1 : PyModule_AddType(module, st->read_pipe_type);
}
