/* taut._core.SSLTransport: the reading side. Plaintext is decrypted straight into the bytes object
 * that data_received() is given, or into the protocol's own buffer. */
#include "binding/tls_engine.h"

#include "binding/compat.h"
#include "binding/stream_reader.h"

/* Larger blocks are mapped by malloc, and faulting them in costs more than the copy saves. */
#define ROOM_MAX (120 * 1024)
#define FATAL "Fatal error on SSL protocol"

static void fail_with(taut_tls_transport *c, PyObject *exc) {
    if (exc == NULL) {
        taut_tls_fatal_raised(c, FATAL);
        return;
    }
    taut_tls_out_send(c); /* the alert */
    taut_tls_fatal(c, exc, FATAL);
    Py_DECREF(exc);
}

/* ---- delivering ------------------------------------------------------------------------------ */

static int can_read(const taut_tls_transport *c) {
    return (c->state == TAUT_TLS_WRAPPED || c->state == TAUT_TLS_FLUSHING) && !c->reading_paused &&
           !c->lost && c->protocol != NULL && taut_tls_engine_live(c);
}

/* As much as there is, up to `room`. *last: the answer that ended it, 0 or negative, or positive
 * when the room is full. */
static size_t decrypt(taut_tls_transport *c, char *to, size_t room, ssize_t *last) {
    size_t total = 0;
    *last = 1;
    while (total<room && * last> 0) {
        *last = taut_tls_engine_read(c, to + total, room - total);
        if (*last > 0)
            total += (size_t)*last;
        if (*last > 0 && total < room && !taut_tls_engine_readable(c))
            *last = 0; /* nothing is left: no call just to hear that */
    }
    return total;
}

/* After a delivery. 1: there may be more. */
static int go_on_after(taut_tls_transport *c, ssize_t last, PyObject *exc) {
    if (last == TAUT_E_TLS_CLOSED) {
        taut_tls_eof_received(c);
        taut_tls_shutdown_start(c);
        return 0;
    }
    if (last < 0) {
        fail_with(c, exc);
        return 0;
    }
    return last > 0;
}

static PyObject *error_of(taut_tls_transport *c, ssize_t last) {
    return last < 0 && last != TAUT_E_TLS_CLOSED ? taut_tls_engine_error(c, last) : NULL;
}

static size_t room_for(taut_tls_transport *c) {
    size_t room = taut_tls_engine_plain_max(c);
    return room < ROOM_MAX ? room : ROOM_MAX;
}

/* data_received(data). 0, or -1 with an exception. */
static int give(taut_tls_transport *c, PyObject *data) {
    if (c->streams && c->protocol != NULL) {
        int fed =
            taut_stream_reader_feed(c->lp, c->protocol, (const uint8_t *)PyBytes_AS_STRING(data),
                                    (size_t)PyBytes_GET_SIZE(data));
        if (fed != 0)
            return fed < 0 ? -1 : 0;
    }
    PyObject *args[3] = {NULL, NULL, data};
    PyObject *r = taut_tls_call(c, c->lp->st->str_data_received, args + 1, 2);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

static int read_copied(taut_tls_transport *c) {
    ssize_t last;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room_for(c));
    if (data == NULL) {
        taut_tls_fatal_raised(c, FATAL);
        return 0;
    }
    size_t size = decrypt(c, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), &last);
    PyObject *exc = error_of(c, last);
    if (size < (size_t)PyBytes_GET_SIZE(data) && _PyBytes_Resize(&data, (Py_ssize_t)size) < 0) {
        Py_XDECREF(exc);
        taut_tls_fatal_raised(c, FATAL);
        return 0;
    }
    int rc = size == 0 ? 0 : give(c, data);
    Py_DECREF(data);
    if (rc < 0) {
        Py_XDECREF(exc);
        taut_tls_fatal_raised(c, FATAL);
        return 0;
    }
    return go_on_after(c, last, exc);
}

static PyObject *ask_buffer(taut_tls_transport *c, Py_buffer *view) {
    PyObject *hint = PyLong_FromSize_t(taut_tls_engine_held_size(c));
    PyObject *args[3] = {NULL, NULL, hint};
    PyObject *buffer =
        hint == NULL ? NULL : taut_tls_call(c, c->lp->st->str_get_buffer, args + 1, 2);
    Py_XDECREF(hint);
    if (buffer == NULL)
        return NULL;
    if (PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE) < 0) {
        Py_DECREF(buffer);
        return NULL;
    }
    if (view->len == 0) {
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        PyBuffer_Release(view);
        Py_DECREF(buffer);
        return NULL;
    }
    return buffer;
}

static int read_buffered(taut_tls_transport *c) {
    Py_buffer view;
    ssize_t last = 0;
    size_t size = 0;
    PyObject *buffer = ask_buffer(c, &view);
    if (buffer == NULL) {
        taut_tls_fatal_raised(c, FATAL);
        return 0;
    }
    if (can_read(c)) /* get_buffer() may have closed it */
        size = decrypt(c, view.buf, (size_t)view.len, &last);
    PyObject *exc = error_of(c, last);
    PyBuffer_Release(&view);
    Py_DECREF(buffer);
    PyObject *count = size == 0 ? Py_NewRef(Py_None) : PyLong_FromSize_t(size);
    PyObject *args[3] = {NULL, NULL, count};
    PyObject *r = size == 0 || count == NULL
                      ? Py_XNewRef(count)
                      : taut_tls_call(c, c->lp->st->str_buffer_updated, args + 1, 2);
    Py_XDECREF(count);
    if (r == NULL) {
        Py_XDECREF(exc);
        taut_tls_fatal_raised(c, FATAL);
        return 0;
    }
    Py_DECREF(r);
    return go_on_after(c, last, exc);
}

void taut_tls_read_go(taut_tls_transport *c) {
    if (c->state != TAUT_TLS_WRAPPED && c->state != TAUT_TLS_FLUSHING)
        return;
    while (can_read(c) && taut_tls_engine_readable(c))
        if (!(c->buffered ? read_buffered(c) : read_copied(c)))
            break;
    if (!taut_tls_is_open(c))
        return;
    if (c->backlog_size > 0)
        taut_tls_write_go(c);
    else
        taut_tls_out_send(c); /* answers of the protocol itself: key updates */
    taut_tls_control_reading(c);
}

void taut_tls_eof_received(taut_tls_transport *c) {
    if (c->app != TAUT_APP_MADE)
        return;
    c->app = TAUT_APP_EOF;
    PyObject *args[2] = {NULL, NULL};
    PyObject *r = taut_tls_call(c, c->lp->st->str_eof_received, args + 1, 1);
    int keep_open = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    if (keep_open > 0) {
        r = PyObject_CallMethod(c->lp->st->logger, "warning", "s",
                                "returning true from eof_received() has no effect when using ssl");
        keep_open = r == NULL ? -1 : 0;
        Py_XDECREF(r);
    }
    if (keep_open < 0)
        taut_tls_fatal_raised(c, "Error calling eof_received()");
}

/* ---- from below --------------------------------------------------------------------------------
 */

static void go(taut_tls_transport *c) {
    switch (c->state) {
    case TAUT_TLS_HANDSHAKE:
        taut_tls_handshake_go(c);
        break;
    case TAUT_TLS_WRAPPED:
        taut_tls_read_go(c);
        break;
    case TAUT_TLS_FLUSHING:
        taut_tls_flush_go(c);
        break;
    case TAUT_TLS_SHUTDOWN:
        taut_tls_shutdown_go(c);
        break;
    default:
        break; /* aborted: nobody wants it */
    }
}

static void receive(taut_tls_transport *c, const uint8_t *bytes, size_t size) {
    int rc = taut_tls_engine_feed(c, bytes, size);
    if (rc == 0) {
        go(c);
        rc = taut_tls_engine_settle(c);
    }
    if (rc < 0)
        fail_with(c, taut_tls_engine_error(c, rc));
}

void taut_tls_on_data(PyObject *self, const uint8_t *bytes, size_t size) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    if (c->lower == NULL || c->lost || !taut_tls_engine_live(c))
        return;
    Py_INCREF(self);
    if (taut_tls_enter(c) == 0) {
        receive(c, bytes, size);
        taut_tls_leave(c);
    }
    Py_DECREF(self);
}

/* For start_tls(): what a StreamReader has taken for its own. */
PyObject *taut_tls_m_data_early(PyObject *self, PyObject *bytes) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    if (!PyBytes_Check(bytes))
        return PyErr_Format(PyExc_TypeError, "bytes expected, not %.200s", Py_TYPE(bytes)->tp_name);
    if (c->lower == NULL || c->lost || !taut_tls_engine_live(c))
        Py_RETURN_NONE;
    receive(c, (const uint8_t *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    Py_RETURN_NONE;
}

/* ---- flow control ------------------------------------------------------------------------------
 */

void taut_tls_control_reading(taut_tls_transport *c) {
    size_t size = taut_tls_engine_held_size(c);
    if (!taut_tls_is_open(c))
        return;
    PyObject *lower = (PyObject *)c->lower, *r = NULL;
    if (size >= c->read_high && !c->lower_paused) {
        c->lower_paused = 1;
        r = taut_transport_m_pause_reading(lower, NULL);
    } else if (size <= c->read_low && c->lower_paused) {
        c->lower_paused = 0;
        r = taut_transport_m_resume_reading(lower, NULL);
    } else {
        return;
    }
    if (r == NULL)
        taut_tls_fatal_raised(c, FATAL);
    Py_XDECREF(r);
}

PyObject *taut_tls_m_is_reading(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(!((taut_tls_transport *)self)->reading_paused);
}

PyObject *taut_tls_m_pause_reading(PyObject *self, PyObject *unused) {
    ((taut_tls_transport *)self)->reading_paused = 1;
    Py_RETURN_NONE;
}

PyObject *taut_tls_m_reading_resumed(PyObject *self, PyObject *unused) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    if (c->state != TAUT_TLS_HANDSHAKE && taut_tls_engine_live(c))
        go(c);
    Py_RETURN_NONE;
}

PyObject *taut_tls_m_resume_reading(PyObject *self, PyObject *unused) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    if (!c->reading_paused)
        Py_RETURN_NONE;
    c->reading_paused = 0;
    if (c->lower == NULL || c->lost)
        Py_RETURN_NONE;
    PyObject *resumed = PyObject_GetAttrString(self, "_reading_resumed");
    int rc = resumed == NULL ? -1 : taut_ready_call0(c->lp, resumed, c->lower->context);
    Py_XDECREF(resumed);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}
