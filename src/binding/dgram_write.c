/* taut._core.DatagramTransport: the writing side. */
#include "binding/dgram_transport.h"
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/err.h"
#include <errno.h>

#define SEND_FAILED "Fatal write error on datagram transport"
#define ERROR_RAISED "Exception in callback protocol.error_received()"
/* asyncio sends empty datagrams since 3.13, and ignored them before. */
#define SENDS_EMPTY (PY_VERSION_HEX >= 0x030D0000)
/* asyncio warns from the fifth send on that goes nowhere. */
#define DROPPED_SENDS_QUIET 4

void taut_endpoint_on_release(void *token) {
    Py_DECREF((PyObject *)token);
}

void taut_endpoint_on_pause(taut_dgram *d) {
    taut_endpoint *t = taut_endpoint_of(d);
    PyObject *args[2] = {NULL, NULL};
    if (t->protocol_paused)
        return;
    t->protocol_paused = 1;
    taut_endpoint_tell(t, t->lp->st->str_pause_writing, args + 1, 1,
                       "protocol.pause_writing() failed");
}

void taut_endpoint_on_resume(taut_dgram *d) {
    taut_endpoint *t = taut_endpoint_of(d);
    PyObject *args[2] = {NULL, NULL};
    if (!t->protocol_paused)
        return;
    t->protocol_paused = 0;
    taut_endpoint_tell(t, t->lp->st->str_resume_writing, args + 1, 1,
                       "protocol.resume_writing() failed");
}

/* ---- addresses ---------------------------------------------------------------------------- */

/* Where a datagram goes: `raw` for the core (size 0: the connected peer), or by the socket's own
 * method, which knows every kind of address. */
typedef struct {
    int by_socket;
    socklen_t size;
    struct sockaddr_storage raw;
} target;

static int target_raw(taut_endpoint *t, PyObject *addr, target *to) {
    if (addr == t->sender && addr != NULL) {
        memcpy(&to->raw, t->sender_raw.bytes, t->sender_raw.size);
        to->size = t->sender_raw.size;
        return 1;
    }
    if (t->family == AF_UNIX)
        return taut_addr_parse_unix(addr, &to->raw, &to->size);
    return taut_addr_parse(addr, t->family, &to->raw, &to->size);
}

/* 0, or -1 when an audit hook objects. */
static int target_find(taut_endpoint *t, PyObject *addr, target *to) {
    to->size = 0;
    to->by_socket = 0;
    if (t->to_peer || (addr == Py_None && t->has_peer && t->address == NULL))
        return 0;
    if (!t->d.own_io && target_raw(t, addr, to))
        return PySys_Audit("socket.sendto", "OO", t->sock, addr);
    to->by_socket = 1;
    return 0;
}

/* asyncio's rule for an endpoint with a remote address. *addr is replaced by it. 0, or -1. */
static int check_address(const taut_endpoint *t, PyObject **addr) {
    if (*addr != Py_None && *addr != t->address) {
        int same = PyObject_RichCompareBool(*addr, t->address, Py_EQ);
        if (same < 0)
            return -1;
        if (same == 0) {
            PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S", t->address);
            return -1;
        }
    }
    *addr = t->address;
    return 0;
}

/* ---- sending ------------------------------------------------------------------------------ */

/* error_received() with the OSError that is set; 0, or -1 with what it raised. */
static int tell_error(taut_endpoint *t) {
    PyObject *exc = taut_exception_take();
    PyObject *args[3] = {NULL, NULL, exc};
    PyObject *r = taut_endpoint_call(t, t->lp->st->str_error_received, args + 1, 2);
    Py_DECREF(exc);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* By the socket's method; the token is (bytes, address). */
static PyObject *send_by_socket(taut_endpoint *t, PyObject *pair) {
    PyObject *args[3] = {Py_XNewRef(t->sock), PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1)};
    if (args[0] == NULL) {
        PyErr_SetString(PyExc_OSError, "the socket is closed");
        return NULL;
    }
    taut_state *st = t->lp->st;
    PyObject *sent = t->to_peer ? PyObject_VectorcallMethod(st->str_send, args, 2, NULL)
                                : PyObject_VectorcallMethod(st->str_sendto, args, 3, NULL);
    Py_DECREF(args[0]);
    return sent;
}

/* What asyncio does about the exception that a send has raised. 0, or -1 with one for the caller of
 * sendto(). */
static int send_raised(taut_endpoint *t) {
    if (PyErr_ExceptionMatches(PyExc_OSError))
        return tell_error(t);
    if (t->in_call && (PyErr_ExceptionMatches(PyExc_SystemExit) ||
                       PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)))
        return -1;
    taut_endpoint_fatal_raised(t, SEND_FAILED);
    return 0;
}

/* Within sendto() what is raised goes to its caller (TAUT_E_INTERRUPTED, and it stays set). */
int taut_endpoint_on_send_own(taut_dgram *d, void *token) {
    taut_endpoint *t = taut_endpoint_of(d);
    unsigned outer = t->in_call;
    PyObject *pair = Py_NewRef((PyObject *)token);
    PyObject *sent = send_by_socket(t, pair);
    Py_DECREF(pair);
    if (sent != NULL) {
        Py_DECREF(sent);
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
        PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear();
        return -EAGAIN;
    }
    if (d->flushing) /* one of an earlier sendto() */
        t->in_call = 0;
    int rc = send_raised(t);
    t->in_call = outer;
    if (rc == 0)
        return 0;
    if (outer && !d->flushing)
        return TAUT_E_INTERRUPTED;
    taut_pyloop_unhandled(t->lp, ERROR_RAISED, "transport", (PyObject *)t);
    return 0;
}

static int send_own(taut_endpoint *t, PyObject *data, PyObject *addr, size_t size) {
    PyObject *pair = PyBytes_CheckExact(data)
                         ? PyTuple_Pack(2, data, addr)
                         : Py_BuildValue("(NO)", PyBytes_FromObject(data), addr);
    if (pair == NULL)
        return -ENOMEM;
    return taut_dgram_send_own(&t->d, size, pair);
}

/* 0, or -1 with an exception. */
static int send_bytes(taut_endpoint *t, PyObject *data, const void *bytes, size_t size,
                      PyObject *addr) {
    target to;
    unsigned outer = t->in_call;
    int rc = target_find(t, addr, &to);
    Py_INCREF((PyObject *)t); /* the protocol's methods are called */
    t->in_call = 1;
    if (TAUT_UNLIKELY(rc < 0))
        rc = send_raised(t);
    else if (TAUT_UNLIKELY(to.by_socket))
        rc = send_own(t, data, addr, size);
    else
        rc = taut_dgram_send(&t->d, bytes, size, to.size > 0 ? (struct sockaddr *)&to.raw : NULL,
                             to.size, PyBytes_CheckExact(data) ? Py_NewRef(data) : NULL);
    if (TAUT_UNLIKELY(rc < 0) && !PyErr_Occurred()) {
        taut_err_raise(rc);
        if (PyErr_ExceptionMatches(PyExc_OSError))
            rc = tell_error(t);
    }
    t->in_call = outer;
    taut_endpoint_update_hold(t);
    Py_DECREF((PyObject *)t);
    return rc < 0 ? -1 : 0;
}

void taut_endpoint_send_held(taut_endpoint *t) {
    if (!t->open || t->orphan || t->d.lost || t->d.queue_count == 0 || t->d.watch.want & TAUT_WRITE)
        return;
    unsigned outer = t->in_call;
    t->in_call = 0; /* what its errors raise is not for our caller */
    Py_INCREF((PyObject *)t);
    taut_dgram_flush(&t->d);
    t->in_call = outer;
    Py_DECREF((PyObject *)t);
}

/* 0: it is dropped; 1: send; -1 with an exception. */
static int check_send(taut_endpoint *t) {
    if (TAUT_LIKELY(t->open && !(t->d.lost && t->address != NULL)))
        return taut_endpoint_check(t) < 0 ? -1 : 1;
    if (t->dropped++ < DROPPED_SENDS_QUIET)
        return 0;
    PyObject *r =
        PyObject_CallMethod(t->lp->st->logger, "warning", "s", "socket.send() raised exception.");
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

static int sendto_sized(taut_endpoint *t, PyObject *data, const void *bytes, Py_ssize_t size,
                        PyObject *addr) {
    if (size == 0 && !SENDS_EMPTY)
        return 0;
    if (t->address != NULL && check_address(t, &addr) < 0)
        return -1;
    int go = check_send(t);
    return go <= 0 ? go : send_bytes(t, data, bytes, (size_t)size, addr);
}

/* Any buffer; one that is not contiguous is flattened first. */
static int sendto_any(taut_endpoint *t, PyObject *data, PyObject *addr) {
    if (PyBytes_CheckExact(data))
        return sendto_sized(t, data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), addr);
    Py_buffer view;
    int rc;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) == 0) {
        rc = sendto_sized(t, data, view.buf, view.len, addr);
        PyBuffer_Release(&view);
        return rc;
    }
    if (!PyErr_ExceptionMatches(PyExc_BufferError))
        return -1;
    PyErr_Clear();
    PyObject *flat = PyBytes_FromObject(data);
    if (flat == NULL)
        return -1;
    rc = sendto_sized(t, flat, PyBytes_AS_STRING(flat), PyBytes_GET_SIZE(flat), addr);
    Py_DECREF(flat);
    return rc;
}

static int parse_keywords(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                          PyObject *found[2]) {
    static const char *const names[2] = {"data", "addr"};
    Py_ssize_t count = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < nargs && i < 2; i++)
        found[i] = args[i];
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        int at = PyUnicode_CompareWithASCIIString(name, names[0]) == 0   ? 0
                 : PyUnicode_CompareWithASCIIString(name, names[1]) == 0 ? 1
                                                                         : -1;
        if (at < 0 || at < nargs) {
            PyErr_Format(PyExc_TypeError,
                         at < 0 ? "sendto() got an unexpected keyword argument %R"
                                : "sendto() got multiple values for argument %R",
                         name);
            return -1;
        }
        found[at] = args[nargs + i];
    }
    if (nargs > 2) {
        PyErr_Format(PyExc_TypeError, "sendto() takes at most 2 arguments (%zd given)", nargs);
        return -1;
    }
    return taut_args_at_least("sendto", found[0] != NULL, 1, "data");
}

PyObject *taut_endpoint_m_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    PyObject *found[2] = {NULL, Py_None};
    if (parse_keywords(args, nargs, kwnames, found) < 0)
        return NULL;
    PyObject *data = found[0];
    if (TAUT_UNLIKELY(!PyBytes_Check(data) && !PyByteArray_Check(data) &&
                      !PyMemoryView_Check(data))) {
        const char *name = strrchr(Py_TYPE(data)->tp_name, '.');
        return PyErr_Format(PyExc_TypeError, "data argument must be a bytes-like object, not '%s'",
                            name != NULL ? name + 1 : Py_TYPE(data)->tp_name);
    }
    if (sendto_any((taut_endpoint *)self, data, found[1]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- water marks -------------------------------------------------------------------------- */

PyObject *taut_endpoint_m_buffer_size(PyObject *self, PyObject *unused) {
    return PyLong_FromSize_t(((taut_endpoint *)self)->d.pending_size);
}

PyObject *taut_endpoint_m_limits(PyObject *self, PyObject *unused) {
    taut_endpoint *t = (taut_endpoint *)self;
    return Py_BuildValue("(nn)", (Py_ssize_t)t->d.low, (Py_ssize_t)t->d.high);
}

PyObject *taut_endpoint_m_set_limits(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"high", "low", NULL};
    taut_endpoint *t = (taut_endpoint *)self;
    PyObject *high_obj = Py_None, *low_obj = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names, &high_obj,
                                     &low_obj))
        return NULL;
    size_t high, low;
    if (taut_args_marks(high_obj, low_obj, 64 * 1024, &high, &low) < 0)
        return NULL;
    unsigned outer = t->in_call;
    Py_INCREF(self);
    taut_endpoint_send_held(t); /* what the kernel would take is no reason to pause */
    t->in_call = 1;
    taut_dgram_set_water_marks(&t->d, low, high);
    t->in_call = outer;
    Py_DECREF(self);
    Py_RETURN_NONE;
}
