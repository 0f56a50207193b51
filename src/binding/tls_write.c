/* taut._core.SSLTransport: the writing side. What is written is encrypted as far as the socket
 * takes it, and kept in plain from there on: memory and the time of one call stay bounded. */
#include "binding/tls_engine.h"

#include "binding/compat.h"

/* Encrypted between two looks at whether the socket still takes it. */
#define CHUNK_SIZE (64 * 1024)
/* writelines() of no more than this leaves as one run of bytes, in as few records as possible. */
#define JOIN_SIZE_MAX (64 * 1024)
#define DROPPED_WRITES_QUIET 5
#define FATAL "Fatal error on SSL protocol"

/* ---- the backlog ------------------------------------------------------------------------------
 */

void taut_tls_backlog_clear(taut_tls_transport *c) {
    Py_CLEAR(c->backlog);
    c->backlog_at = 0;
    c->backlog_offset = c->backlog_size = 0;
}

/* `bytes` from `offset` on. 0, or -1 with an exception. */
static int backlog_add(taut_tls_transport *c, PyObject *bytes, size_t offset) {
    if (c->backlog == NULL && (c->backlog = PyList_New(0)) == NULL)
        return -1;
    if (PyList_Append(c->backlog, bytes) < 0)
        return -1;
    if (c->backlog_size == 0)
        c->backlog_offset = offset;
    c->backlog_size += (size_t)PyBytes_GET_SIZE(bytes) - offset;
    return 0;
}

static PyObject *backlog_first(taut_tls_transport *c) {
    return PyList_GET_ITEM(c->backlog, c->backlog_at);
}

/* The first is encrypted as a whole. 0, or -1 with an exception. */
static int backlog_next(taut_tls_transport *c) {
    c->backlog_offset = 0;
    c->backlog_at++;
    if (c->backlog_at == PyList_GET_SIZE(c->backlog)) {
        Py_CLEAR(c->backlog);
        c->backlog_at = 0;
    } else if (c->backlog_at >= 64 && c->backlog_at * 2 >= PyList_GET_SIZE(c->backlog)) {
        if (PyList_SetSlice(c->backlog, 0, c->backlog_at, NULL) < 0)
            return -1;
        c->backlog_at = 0;
    }
    return 0;
}

/* ---- encrypting -------------------------------------------------------------------------------
 */

Py_ssize_t taut_tls_encrypt(taut_tls_transport *c, const char *bytes, size_t size) {
    size_t taken = 0;
    while (taken < size && !c->lower_full && taut_tls_is_open(c)) {
        size_t part = size - taken < CHUNK_SIZE ? size - taken : CHUNK_SIZE;
        taut_tls_out_begin(c);
        ssize_t n = taut_tls_engine_write(c, bytes + taken, part);
        if (n < 0) {
            PyObject *exc = taut_tls_engine_error(c, n);
            taut_tls_out_send(c);
            if (exc == NULL)
                taut_tls_fatal_raised(c, FATAL);
            else
                taut_tls_fatal(c, exc, FATAL);
            Py_XDECREF(exc);
            return -1;
        }
        taken += (size_t)n;
        taut_tls_out_send(c);
        if (n == 0)
            break;
    }
    return (Py_ssize_t)taken;
}

void taut_tls_write_go(taut_tls_transport *c) {
    if (c->state != TAUT_TLS_WRAPPED && c->state != TAUT_TLS_FLUSHING) {
        taut_tls_out_send(c);
        return;
    }
    Py_INCREF((PyObject *)c);
    while (c->backlog_size > 0 && !c->lower_full && taut_tls_is_open(c)) {
        PyObject *first = Py_NewRef(backlog_first(c));
        size_t left = (size_t)PyBytes_GET_SIZE(first) - c->backlog_offset;
        Py_ssize_t n = taut_tls_encrypt(c, PyBytes_AS_STRING(first) + c->backlog_offset, left);
        Py_DECREF(first);
        if (n <= 0 || c->backlog_size == 0) /* refused, or cleared by what was called meanwhile */
            break;
        c->backlog_size -= (size_t)n;
        c->backlog_offset += (size_t)n;
        if ((size_t)n == left && backlog_next(c) < 0) {
            taut_tls_fatal_raised(c, FATAL);
            break;
        }
    }
    taut_tls_out_send(c);
    taut_tls_file_wake(c, NULL);
    Py_DECREF((PyObject *)c);
}

/* ---- flow control -------------------------------------------------------------------------------
 */

static void tell_protocol(taut_tls_transport *c, PyObject *name, const char *message) {
    PyObject *args[2] = {NULL, NULL};
    PyObject *r = taut_tls_call(c, name, args + 1, 1);
    if (r != NULL) {
        Py_DECREF(r);
        return;
    }
    if (taut_pyloop_take_exit(c->lp))
        return;
    PyObject *exc = taut_exception_take();
    taut_tls_report(c, exc, message);
    Py_DECREF(exc);
}

void taut_tls_control_writing(taut_tls_transport *c) {
    if (c->gathering)
        return;
    size_t size = c->backlog_size + taut_buf_size(&c->tls.out);
    if (size > 0 && size >= c->high && !c->writing_paused) {
        c->writing_paused = 1;
        tell_protocol(c, c->lp->st->str_pause_writing, "protocol.pause_writing() failed");
    } else if (size <= c->low && c->writing_paused) {
        c->writing_paused = 0;
        tell_protocol(c, c->lp->st->str_resume_writing, "protocol.resume_writing() failed");
    }
}

/* ---- the user's calls
 * ----------------------------------------------------------------------------- */

static int can_write(const taut_tls_transport *c) {
    return c->state == TAUT_TLS_WRAPPED || c->state == TAUT_TLS_HANDSHAKE;
}

/* 1: write; 0: dropped; -1 with an exception. */
static int check_write(taut_tls_transport *c) {
    if (TAUT_LIKELY(can_write(c)))
        return 1;
    if (c->conn_lost++ < DROPPED_WRITES_QUIET)
        return 0;
    PyObject *r =
        PyObject_CallMethod(c->lp->st->logger, "warning", "s", "SSL connection is closed");
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* `keep`: the bytes object that `bytes` belong to, or NULL: what is left over is copied. */
static int send_run(taut_tls_transport *c, const char *bytes, size_t size, PyObject *keep) {
    Py_ssize_t taken = 0;
    if (c->state == TAUT_TLS_WRAPPED && c->backlog_size == 0)
        taken = taut_tls_encrypt(c, bytes, size);
    if (taken < 0 || (size_t)taken == size)
        return 0;
    PyObject *rest =
        keep != NULL ? Py_NewRef(keep)
                     : PyBytes_FromStringAndSize(bytes + taken, (Py_ssize_t)(size - (size_t)taken));
    int rc = rest == NULL ? -1 : backlog_add(c, rest, keep != NULL ? (size_t)taken : 0);
    Py_XDECREF(rest);
    if (rc < 0 && taken > 0) { /* the rest can never follow */
        taut_tls_fatal_raised(c, FATAL);
        return 0;
    }
    if (rc == 0)
        taut_tls_control_writing(c);
    return rc;
}

static int send_object(taut_tls_transport *c, PyObject *data) {
    if (PyBytes_CheckExact(data))
        return PyBytes_GET_SIZE(data) == 0
                   ? 0
                   : send_run(c, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), data);
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) == 0) {
        int rc = view.len == 0 ? 0 : send_run(c, view.buf, (size_t)view.len, NULL);
        PyBuffer_Release(&view);
        return rc;
    }
    if (!PyErr_ExceptionMatches(PyExc_BufferError))
        return -1;
    PyErr_Clear();
    PyObject *flat = PyBytes_FromObject(data); /* not contiguous */
    if (flat == NULL)
        return -1;
    int rc = send_object(c, flat);
    Py_DECREF(flat);
    return rc;
}

static PyObject *send_from_user(taut_tls_transport *c, PyObject *data) {
    Py_INCREF((PyObject *)c); /* pause_writing() runs user code */
    int rc = check_write(c);
    if (rc > 0)
        rc = send_object(c, data);
    Py_DECREF((PyObject *)c);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *taut_tls_m_write(PyObject *self, PyObject *data) {
    if (TAUT_UNLIKELY(!PyBytes_Check(data) && !PyByteArray_Check(data) &&
                      !PyMemoryView_Check(data)))
        return PyErr_Format(PyExc_TypeError, "data: expecting a bytes-like instance, got %s",
                            Py_TYPE(data)->tp_name);
    int empty = PyObject_Not(data);
    if (empty != 0)
        return empty < 0 ? NULL : Py_NewRef(Py_None);
    return send_from_user((taut_tls_transport *)self, data);
}

/* The total size, or -1 with TypeError. */
static Py_ssize_t total_size(PyObject *items) {
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items); i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        if (!PyObject_CheckBuffer(item)) {
            PyErr_Format(PyExc_TypeError,
                         "sequence item %zd: expected a bytes-like object, %.80s found", i,
                         Py_TYPE(item)->tp_name);
            return -1;
        }
        Py_ssize_t size = PyObject_Size(item);
        if (size < 0)
            return -1;
        total += size;
    }
    return total;
}

/* Whether or not an exception is set. */
static void control_after(taut_tls_transport *c) {
    PyObject *type, *value, *traceback;
    if (!taut_tls_is_open(c))
        return;
    PyErr_Fetch(&type, &value, &traceback);
    taut_tls_control_writing(c);
    PyErr_Restore(type, value, traceback);
}

/* Each in its turn, with nothing else in between. 0, or -1 with an exception. */
static int send_lines(taut_tls_transport *c, PyObject *items) {
    int rc = 0;
    c->gathering = 1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items) && rc == 0 && can_write(c); i++)
        rc = send_object(c, PyTuple_GET_ITEM(items, i));
    c->gathering = 0;
    control_after(c);
    return rc;
}

PyObject *taut_tls_m_writelines(PyObject *self, PyObject *list_of_data) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    int rc = check_write(c); /* once: what is dropped counts as one write */
    if (rc <= 0)
        return rc < 0 ? NULL : Py_NewRef(Py_None);
    PyObject *items = PySequence_Tuple(list_of_data), *r = NULL;
    Py_ssize_t total = items == NULL ? -1 : total_size(items);
    Py_INCREF(self); /* pause_writing() runs user code */
    if (total >= 0 && total <= JOIN_SIZE_MAX && PyTuple_GET_SIZE(items) > 1) {
        PyObject *joined = PyObject_CallMethod(c->lp->st->empty_bytes, "join", "(O)", items);
        r = joined == NULL ? NULL : taut_tls_m_write(self, joined);
        Py_XDECREF(joined);
    } else if (total >= 0 && send_lines(c, items) == 0) {
        r = Py_NewRef(Py_None);
    }
    Py_DECREF(self);
    Py_XDECREF(items);
    return r;
}

PyObject *taut_tls_m_append_backlog(PyObject *self, PyObject *data) {
    if (!PyBytes_Check(data))
        return PyErr_Format(PyExc_TypeError, "bytes expected, not %.200s", Py_TYPE(data)->tp_name);
    if (backlog_add((taut_tls_transport *)self, data, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}
