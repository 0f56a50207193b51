/* taut._core.Transport: the writing side. */
#include "binding/transport.h"
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/err.h"

/* Up to 3.11 asyncio's writelines() is a write() of all, and says so when it is refused. */
#if PY_VERSION_HEX < 0x030c0000
#define WRITELINES "write"
#else
#define WRITELINES "writelines"
#endif

#if PY_VERSION_HEX < 0x030E0000
#define WRITABLE "bytes-like object"
#else
#define WRITABLE "bytes, bytearray, or memoryview object"
#endif

/* asyncio warns from the fifth write on that goes nowhere. */
#define DROPPED_WRITES_QUIET 4

static taut_transport *transport_of(taut_stream *s) {
    return TAUT_CONTAINER(s, taut_transport, stream);
}

void taut_transport_on_release(void *token) {
    Py_DECREF((PyObject *)token);
}

/* An exception of pause_writing or resume_writing is reported; the connection goes on. */
static void tell_protocol(taut_transport *t, PyObject *name, const char *message) {
    PyObject *args[2] = {NULL, NULL};
    PyObject *r = taut_transport_call(t, name, args + 1, 1);
    if (TAUT_LIKELY(r != NULL)) {
        Py_DECREF(r);
        return;
    }
    if (taut_pyloop_take_exit(t->lp))
        return;
    PyObject *exc = taut_exception_take();
    taut_transport_report(t, exc, message);
    Py_DECREF(exc);
}

void taut_transport_on_pause(taut_stream *s) {
    taut_transport *t = transport_of(s);
    if (t->protocol_paused || t->gathering)
        return;
    t->protocol_paused = 1;
    tell_protocol(t, t->lp->st->str_pause_writing, "protocol.pause_writing() failed");
}

void taut_transport_on_resume(taut_stream *s) {
    taut_transport *t = transport_of(s);
    if (!t->protocol_paused)
        return;
    t->protocol_paused = 0;
    tell_protocol(t, t->lp->st->str_resume_writing, "protocol.resume_writing() failed");
}

/* 0: write; 1: nothing to do; -1 with an exception. */
static int check_write(taut_transport *t, const char *name, Py_ssize_t size) {
    if (TAUT_UNLIKELY(t->stream.eof_requested)) {
        PyErr_Format(PyExc_RuntimeError, "Cannot call %s() after write_eof()", name);
        return -1;
    }
    if (TAUT_UNLIKELY(t->sendfile != NULL)) {
        PyErr_Format(PyExc_RuntimeError, "unable to %s; sendfile is in progress", name);
        return -1;
    }
    if (size == 0)
        return 1;
    if (TAUT_UNLIKELY(t->stream.lost || !t->open)) {
        if (t->dropped++ < DROPPED_WRITES_QUIET)
            return 1;
        PyObject *r = PyObject_CallMethod(t->lp->st->logger, "warning", "s",
                                          "socket.send() raised exception.");
        Py_XDECREF(r);
        return r == NULL ? -1 : 1;
    }
    return taut_transport_check(t);
}

int taut_transport_send(taut_transport *t, const void *bytes, size_t size, PyObject *token,
                        int append) {
    unsigned outer = t->in_call;
    Py_INCREF((PyObject *)t); /* pause_writing runs user code */
    t->in_call = 1;
    int rc = append ? taut_stream_append(&t->stream, bytes, size, token)
                    : taut_stream_write(&t->stream, bytes, size, token);
    t->in_call = outer;
    taut_transport_update_hold(t);
    if (TAUT_UNLIKELY(rc < 0))
        taut_err_raise(rc);
    Py_DECREF((PyObject *)t);
    return rc < 0 ? -1 : 0;
}

void taut_transport_send_held(taut_transport *t) {
    if (!t->open || t->orphan || t->stream.lost || t->stream.pending_size == 0 ||
        t->stream.watch.want & TAUT_WRITE)
        return;
    unsigned outer = t->in_call;
    t->in_call = 1;
    int gone = taut_stream_flush(&t->stream);
    taut_assert(!gone); /* transports never detach */
    t->in_call = outer;
}

/* Any buffer; one that is not contiguous is flattened first. */
static int send_object(taut_transport *t, PyObject *data, const char *name, int append) {
    if (PyBytes_CheckExact(data)) {
        Py_ssize_t size = PyBytes_GET_SIZE(data);
        int go = check_write(t, name, size);
        return go != 0 ? (go < 0 ? -1 : 0)
                       : taut_transport_send(t, PyBytes_AS_STRING(data), (size_t)size,
                                             Py_NewRef(data), append);
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) == 0) {
        int go = check_write(t, name, view.len);
        if (go == 0)
            go = taut_transport_send(t, view.buf, (size_t)view.len, NULL, append);
        PyBuffer_Release(&view);
        return go < 0 ? -1 : 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_BufferError))
        return -1;
    PyErr_Clear();
    PyObject *flat = PyBytes_FromObject(data);
    if (flat == NULL)
        return -1;
    int rc = send_object(t, flat, name, append);
    Py_DECREF(flat);
    return rc;
}

PyObject *taut_transport_m_write(PyObject *self, PyObject *data) {
    if (TAUT_UNLIKELY(!PyBytes_Check(data) && !PyByteArray_Check(data) &&
                      !PyMemoryView_Check(data)))
        return PyErr_Format(PyExc_TypeError, "data argument must be a %s, not '%s'", WRITABLE,
                            Py_TYPE(data)->tp_name);
    if (send_object((taut_transport *)self, data, "write", 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* What a lost connection drops counts as one write. 1: dropped, or nothing to write; 0: write; -1
 * with an exception. */
static int drop_lines(taut_transport *t, PyObject *const *items, Py_ssize_t count) {
    if (TAUT_LIKELY(!t->stream.lost && t->open))
        return 0;
    if (PY_VERSION_HEX >= 0x030E0000 && count > 0) /* there asyncio does not look at them */
        return check_write(t, WRITELINES, 1);
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t size = PyObject_Size(items[i]);
        if (size != 0)
            return size < 0 ? -1 : check_write(t, WRITELINES, size);
    }
    return 1;
}

static int all_buffers(PyObject *const *items, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyObject_CheckBuffer(items[i])) {
            PyErr_Format(PyExc_TypeError,
                         "sequence item %zd: expected a bytes-like object, %.80s found", i,
                         Py_TYPE(items[i])->tp_name);
            return 0;
        }
    }
    return 1;
}

/* Each in its turn, with nothing else in between. 0, or -1 with an exception. */
static int send_lines(taut_transport *t, PyObject *const *items, Py_ssize_t count) {
    int rc = 0;
    t->gathering = 1;
    for (Py_ssize_t i = 0; i < count && rc == 0 && !t->stream.lost; i++)
        rc = send_object(t, items[i], WRITELINES, count > 1);
    t->gathering = 0;
    if (t->stream.writing_paused && !t->stream.lost) {
        PyObject *type, *value, *traceback;
        unsigned outer = t->in_call;
        PyErr_Fetch(&type, &value, &traceback);
        t->in_call = 1;
        taut_transport_on_pause(&t->stream);
        t->in_call = outer;
        PyErr_Restore(type, value, traceback);
    }
    return rc;
}

/* One write of an iterable: nothing is sent unless every item can be. */
PyObject *taut_transport_m_writelines(PyObject *self, PyObject *list_of_data) {
    taut_transport *t = (taut_transport *)self;
    if (check_write(t, WRITELINES, 0) < 0)
        return NULL;
    PyObject *items = PySequence_Tuple(list_of_data); /* ours: user code cannot change it */
    if (items == NULL)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    PyObject *const *first = &PyTuple_GET_ITEM(items, 0);
    int rc = all_buffers(first, count) ? drop_lines(t, first, count) : -1;
    if (rc == 0)
        rc = send_lines(t, first, count);
    Py_DECREF(items);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *taut_transport_m_write_eof(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    if (!t->open || t->stream.closing || t->stream.eof_requested)
        Py_RETURN_NONE;
    if (taut_transport_check(t) < 0)
        return NULL;
    int rc = taut_stream_write_eof(&t->stream);
    if (rc < 0)
        return taut_err_raise(rc);
    Py_RETURN_NONE;
}

PyObject *taut_transport_m_can_write_eof(PyObject *self, PyObject *unused) {
    Py_RETURN_TRUE;
}

PyObject *taut_transport_m_buffer_size(PyObject *self, PyObject *unused) {
    return PyLong_FromSize_t(((taut_transport *)self)->stream.pending_size);
}

PyObject *taut_transport_m_limits(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    return Py_BuildValue("(nn)", (Py_ssize_t)t->stream.low, (Py_ssize_t)t->stream.high);
}

PyObject *taut_transport_m_set_limits(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"high", "low", NULL};
    taut_transport *t = (taut_transport *)self;
    PyObject *high_obj = Py_None, *low_obj = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names, &high_obj,
                                     &low_obj))
        return NULL;
    size_t high, low;
    if (taut_args_marks(high_obj, low_obj, 64 * 1024, &high, &low) < 0)
        return NULL;
    unsigned outer = t->in_call;
    Py_INCREF(self);
    taut_transport_send_held(t); /* what the kernel would take is no reason to pause */
    t->in_call = 1;
    taut_stream_set_water_marks(&t->stream, low, high);
    t->in_call = outer;
    Py_DECREF(self);
    Py_RETURN_NONE;
}
