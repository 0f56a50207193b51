/* taut._core.Transport: the reading side. */
#include "binding/transport.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"
#include "binding/stream_reader.h"
#include "binding/tls_transport.h"

static taut_transport *transport_of(taut_stream *s) {
    return TAUT_CONTAINER(s, taut_transport, stream);
}

#define DATA_RECEIVED_FAILED "Fatal error: protocol.data_received() call failed."

/* Reads of at least the first size go straight into a bytes object, which spares a copy, until one
 * is smaller than the second. */
#define LARGE_SIZE_MIN (32 * 1024)
#define LARGE_SIZE_END (16 * 1024)
#define LARGE_SIZE_STEP 4096
/* Beyond this malloc maps each block, and shrinking keeps it from ever learning not to: mapping and
 * faulting in cost three times the copy. */
#define LARGE_ROOM_MAX (120 * 1024)

/* Room for the last size and some more, so that a read which brings as much again is short, and
 * needs no second one to know that. */
static size_t large_room(size_t size) {
    return size + size / 16 + LARGE_SIZE_STEP;
}

static void large_mode(taut_transport *t, size_t size) {
    t->large_size = large_room(size) <= LARGE_ROOM_MAX ? size : 0;
    taut_stream_set_buffered(&t->stream, t->large_size != 0);
}

/* Takes the reference. */
static void deliver(taut_transport *t, PyObject *data) {
    PyObject *args[3] = {NULL, NULL, data};
    PyObject *r = taut_transport_call(t, t->lp->st->str_data_received, args + 1, 2);
    Py_DECREF(data);
    if (TAUT_LIKELY(r != NULL))
        Py_DECREF(r);
    else
        taut_transport_fatal_raised(t, DATA_RECEIVED_FAILED);
}

/* Whether a StreamReaderProtocol's data is dealt with. */
static int feed_streams(taut_transport *t, const uint8_t *bytes, size_t size) {
    int rc = taut_stream_reader_feed(t->lp, t->protocol, bytes, size);
    if (TAUT_UNLIKELY(rc < 0))
        taut_transport_fatal_raised(t, DATA_RECEIVED_FAILED);
    return rc;
}

void taut_transport_on_data(taut_stream *s, const uint8_t *bytes, size_t size) {
    taut_transport *t = transport_of(s);
    if (t->streams && t->protocol != NULL && feed_streams(t, bytes, size) != 0)
        return;
    if (t->layer != NULL && t->protocol != NULL) {
        t->layer(t->protocol, bytes, size);
        return;
    }
    PyObject *data = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
    if (TAUT_UNLIKELY(data == NULL)) {
        taut_transport_fatal_raised(t, "Fatal read error on socket transport");
        return;
    }
    if (size >= LARGE_SIZE_MIN && !t->streams)
        large_mode(t, size);
    deliver(t, data);
}

static int large_buffer(taut_transport *t, void **bytes, size_t *size) {
    if (t->read_buffer == NULL) {
        size_t room = large_room(t->large_size);
        t->read_buffer = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
        if (t->read_buffer == NULL) {
            taut_transport_fatal_raised(t, "Fatal read error on socket transport");
            return TAUT_E_INTERRUPTED;
        }
    }
    *bytes = PyBytes_AS_STRING(t->read_buffer);
    *size = (size_t)PyBytes_GET_SIZE(t->read_buffer);
    return 0;
}

static void large_filled(taut_transport *t, size_t size) {
    PyObject *data = t->read_buffer;
    t->read_buffer = NULL;
    int full = size == (size_t)PyBytes_GET_SIZE(data);
    large_mode(t, size < LARGE_SIZE_END ? 0 : full ? 2 * size : size);
    if (!full && _PyBytes_Resize(&data, (Py_ssize_t)size) < 0)
        taut_transport_fatal_raised(t, "Fatal read error on socket transport");
    else
        deliver(t, data);
}

/* The memory stays valid without the export: we keep the object, and no Python code runs between
 * here and the read. So a bytearray can be resized as soon as buffer_updated() runs. */
static int take_buffer(taut_transport *t, PyObject *buffer, void **bytes, size_t *size) {
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        taut_transport_fatal_raised(t, "Fatal read error on socket transport");
        return 0;
    }
    if (view.len == 0) {
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        taut_transport_fatal_raised(t, "Fatal error: protocol.get_buffer() call failed.");
        PyBuffer_Release(&view);
        return 0;
    }
    *bytes = view.buf;
    *size = (size_t)view.len;
    Py_XSETREF(t->read_buffer, Py_NewRef(buffer));
    PyBuffer_Release(&view);
    return 1;
}

int taut_transport_on_get_buffer(taut_stream *s, size_t size_hint, void **bytes, size_t *size) {
    taut_transport *t = transport_of(s);
    if (t->large_size != 0)
        return large_buffer(t, bytes, size);
    PyObject *hint = PyLong_FromLong(-1);
    PyObject *args[3] = {NULL, NULL, hint};
    PyObject *buffer =
        hint == NULL ? NULL : taut_transport_call(t, t->lp->st->str_get_buffer, args + 1, 2);
    Py_XDECREF(hint);
    if (buffer == NULL) {
        taut_transport_fatal_raised(t, "Fatal error: protocol.get_buffer() call failed.");
        return TAUT_E_INTERRUPTED;
    }
    int ok = s->closing || take_buffer(t, buffer, bytes, size);
    Py_DECREF(buffer);
    return ok ? 0 : TAUT_E_INTERRUPTED;
}

void taut_transport_on_filled(taut_stream *s, size_t size) {
    taut_transport *t = transport_of(s);
    if (t->large_size != 0) {
        large_filled(t, size);
        return;
    }
    Py_CLEAR(t->read_buffer);
    PyObject *count = PyLong_FromSize_t(size);
    PyObject *args[3] = {NULL, NULL, count};
    PyObject *r =
        count == NULL ? NULL : taut_transport_call(t, t->lp->st->str_buffer_updated, args + 1, 2);
    Py_XDECREF(count);
    if (r != NULL)
        Py_DECREF(r);
    else
        taut_transport_fatal_raised(t, "Fatal error: protocol.buffer_updated() call failed.");
}

int taut_transport_on_eof(taut_stream *s) {
    taut_transport *t = transport_of(s);
    Py_CLEAR(t->read_buffer);
    taut_debug_log(t->lp, "%r received EOF", (PyObject *)t, NULL, NULL);
    PyObject *args[2] = {NULL, NULL};
    PyObject *r = taut_transport_call(t, t->lp->st->str_eof_received, args + 1, 1);
    int keep_open = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    if (keep_open < 0) {
        taut_transport_fatal_raised(t, "Fatal error: protocol.eof_received() call failed.");
        return 1; /* closed above, or the loop is about to be left */
    }
    taut_transport_update_hold(t);
    return keep_open;
}

int taut_transport_set_protocol(taut_transport *t, PyObject *protocol) {
    int buffered = PyObject_IsInstance(protocol, t->lp->st->buffered_protocol);
    int streams = buffered < 0 ? -1 : taut_stream_reader_serves(t->lp->st, protocol, &t->dict);
    if (streams < 0)
        return -1;
    Py_XSETREF(t->protocol, Py_NewRef(protocol));
    t->layer = Py_TYPE(protocol) == t->lp->st->tls_type ? taut_tls_on_data : NULL;
    t->streams = streams != 0;
    t->large_size = 0;
    Py_CLEAR(t->read_buffer);
    taut_stream_set_buffered(&t->stream, buffered);
    return 0;
}

int taut_transport_read_start(taut_transport *t) {
    if (t->paused || !t->open || t->stream.closing)
        return 0;
    int rc = taut_stream_read_start(&t->stream);
    if (TAUT_LIKELY(rc == 0)) {
        taut_transport_update_hold(t);
        return 0;
    }
    PyObject *exc = taut_err_exception(rc);
    if (exc == NULL) {
        taut_transport_fatal_raised(t, "Fatal read error on socket transport");
    } else {
        taut_transport_fatal(t, exc, "Fatal read error on socket transport");
        Py_DECREF(exc);
    }
    return -1;
}

PyObject *taut_transport_m_set_protocol(PyObject *self, PyObject *protocol) {
    if (taut_transport_set_protocol((taut_transport *)self, protocol) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *taut_transport_m_get_protocol(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    return Py_NewRef(t->protocol != NULL ? t->protocol : Py_None);
}

PyObject *taut_transport_m_is_reading(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    return PyBool_FromLong(t->open && !t->stream.closing && !t->paused);
}

PyObject *taut_transport_m_pause_reading(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    if (!t->open || t->stream.closing || t->paused)
        Py_RETURN_NONE;
    t->paused = 1;
    if (!t->orphan) {
        taut_stream_read_stop(&t->stream);
        taut_transport_update_hold(t);
    }
    taut_debug_log(t->lp, "%r pauses reading", (PyObject *)t, NULL, NULL);
    Py_RETURN_NONE;
}

PyObject *taut_transport_m_resume_reading(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    if (!t->open || t->stream.closing || !t->paused)
        Py_RETURN_NONE;
    if (taut_transport_check(t) < 0)
        return NULL;
    t->paused = 0;
    if (!t->starting) /* on_start will see to it, after connection_made */
        (void)taut_transport_read_start(t);
    taut_debug_log(t->lp, "%r resumes reading", (PyObject *)t, NULL, NULL);
    Py_RETURN_NONE;
}
