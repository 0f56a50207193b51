/* taut._core.DatagramTransport: the reading side. */
#include "binding/dgram_transport.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"

#define RECEIVE_FAILED "Fatal read error on datagram transport"
#define RECEIVED_RAISED "Exception in callback protocol.datagram_received()"
#define ERROR_RAISED "Exception in callback protocol.error_received()"
/* What asyncio reads at once, for sockets that the socket module must read. */
#define OWN_READ_SIZE (256 * 1024)

/* A new reference, or NULL with an exception. */
static PyObject *sender_object(taut_endpoint *t, const struct sockaddr *from, socklen_t size) {
    if (TAUT_LIKELY(t->sender != NULL && size == t->sender_raw.size &&
                    memcmp(t->sender_raw.bytes, from, size) == 0))
        return Py_NewRef(t->sender);
    PyObject *sender = taut_addr_object(from, size);
    if (sender != NULL && taut_addr_keep(&t->sender_raw, from, size))
        Py_XSETREF(t->sender, Py_NewRef(sender));
    else
        Py_CLEAR(t->sender);
    return sender;
}

static void deliver(taut_endpoint *t, PyObject *data, PyObject *sender) {
    PyObject *args[4] = {NULL, NULL, data, sender};
    taut_endpoint_tell(t, t->lp->st->str_datagram_received, args + 1, 3, RECEIVED_RAISED);
}

void taut_endpoint_on_received(taut_dgram *d, const uint8_t *bytes, size_t size,
                               const struct sockaddr *from, socklen_t from_size) {
    taut_endpoint *t = taut_endpoint_of(d);
    PyObject *data = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
    PyObject *sender = data == NULL ? NULL : sender_object(t, from, from_size);
    if (TAUT_LIKELY(sender != NULL))
        deliver(t, data, sender);
    else
        taut_endpoint_fatal_raised(t, RECEIVE_FAILED);
    Py_XDECREF(data);
    Py_XDECREF(sender);
}

static void tell_error(taut_endpoint *t, PyObject *exc) {
    PyObject *args[3] = {NULL, NULL, exc};
    taut_endpoint_tell(t, t->lp->st->str_error_received, args + 1, 2, ERROR_RAISED);
}

void taut_endpoint_on_error(taut_dgram *d, int err) {
    taut_endpoint *t = taut_endpoint_of(d);
    PyObject *exc = taut_err_exception(err);
    if (exc == NULL)
        taut_endpoint_fatal_raised(t, RECEIVE_FAILED);
    else
        tell_error(t, exc);
    Py_XDECREF(exc);
}

/* Of a family whose addresses only the socket module knows. */
void taut_endpoint_on_readable(taut_dgram *d) {
    taut_endpoint *t = taut_endpoint_of(d);
    PyObject *sock = Py_NewRef(t->sock);
    PyObject *pair = PyObject_CallMethod(sock, "recvfrom", "i", OWN_READ_SIZE);
    Py_DECREF(sock);
    if (pair != NULL && PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        deliver(t, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
    } else if (pair == NULL && (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
                                PyErr_ExceptionMatches(PyExc_InterruptedError))) {
        PyErr_Clear();
    } else if (pair == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyObject *exc = taut_exception_take();
        tell_error(t, exc);
        Py_DECREF(exc);
    } else {
        if (pair != NULL)
            PyErr_SetString(PyExc_TypeError, "socket.recvfrom() did not return a pair");
        taut_endpoint_fatal_raised(t, RECEIVE_FAILED);
    }
    Py_XDECREF(pair);
}

void taut_endpoint_start_reading(taut_endpoint *t) {
    if (t->paused || !t->open || t->d.closing)
        return;
    int rc = taut_dgram_read_start(&t->d);
    if (rc < 0) {
        taut_err_raise(rc);
        taut_endpoint_fatal_raised(t, RECEIVE_FAILED);
    }
    taut_endpoint_update_hold(t);
}

PyObject *taut_endpoint_m_is_reading(PyObject *self, PyObject *unused) {
    taut_endpoint *t = (taut_endpoint *)self;
    return PyBool_FromLong(t->open && !t->d.closing && !t->paused);
}

PyObject *taut_endpoint_m_pause_reading(PyObject *self, PyObject *unused) {
    taut_endpoint *t = (taut_endpoint *)self;
    if (!t->open || t->d.closing || t->paused)
        Py_RETURN_NONE;
    t->paused = 1;
    if (!t->orphan) {
        taut_dgram_read_stop(&t->d);
        taut_endpoint_update_hold(t);
    }
    taut_debug_log(t->lp, "%r pauses reading", self, NULL, NULL);
    Py_RETURN_NONE;
}

PyObject *taut_endpoint_m_resume_reading(PyObject *self, PyObject *unused) {
    taut_endpoint *t = (taut_endpoint *)self;
    if (!t->open || t->d.closing || !t->paused)
        Py_RETURN_NONE;
    if (taut_endpoint_check(t) < 0)
        return NULL;
    t->paused = 0;
    if (!t->starting) /* on_start will see to it, after connection_made */
        taut_endpoint_start_reading(t);
    taut_debug_log(t->lp, "%r resumes reading", self, NULL, NULL);
    Py_RETURN_NONE;
}
