/* taut._core.SSLTransport: its end. close() sends what was written, then close_notify, and waits
 * for the peer's; a deadline cuts that short. */
#include "binding/debug.h"
#include "binding/tls_engine.h"

#include "base/mem.h"
#include "binding/compat.h"
#include "binding/err.h"
#include "binding/handle.h"

#define FATAL "Fatal error on transport"

/* ---- deadlines ----------------------------------------------------------------------------------
 */

/* Allocated apart, since a cancelled timer stays in the heap for a while. */
struct taut_tls_deadline {
    taut_timer timer;
    taut_tls_transport *owner; /* NULL: stopped */
    struct taut_tls_deadline **slot;
};

static taut_tls_transport *let_go(struct taut_tls_deadline *d) {
    taut_tls_transport *owner = d->owner;
    if (owner != NULL)
        *d->slot = NULL;
    taut_free(d);
    return owner;
}

static void on_dropped(taut_timer *t) {
    (void)let_go(TAUT_CONTAINER(t, struct taut_tls_deadline, timer));
}

/* `type` with a text; NULL with an exception when memory is out. */
static PyObject *handshake_late(const taut_tls_transport *c) {
    PyObject *seconds = PyFloat_FromDouble(c->handshake_timeout);
    PyObject *text = seconds == NULL ? NULL
                                     : PyUnicode_FromFormat("SSL handshake is taking longer than "
                                                            "%S seconds: aborting the connection",
                                                            seconds);
    PyObject *exc = text == NULL ? NULL : PyObject_CallOneArg(PyExc_ConnectionAbortedError, text);
    Py_XDECREF(seconds);
    Py_XDECREF(text);
    return exc;
}

static void expired(taut_tls_transport *c, int handshake) {
    PyObject *exc = NULL;
    if (handshake && c->state == TAUT_TLS_HANDSHAKE) {
        exc = handshake_late(c);
        if (exc != NULL)
            taut_tls_fatal(c, exc, FATAL);
    } else if (!handshake && (c->state == TAUT_TLS_FLUSHING || c->state == TAUT_TLS_SHUTDOWN)) {
        exc = PyObject_CallFunction(PyExc_TimeoutError, "s", "SSL shutdown timed out");
        if (exc != NULL && !c->lost)
            taut_transport_force_close(c->lower, exc);
    } else {
        return;
    }
    if (exc == NULL)
        taut_tls_fatal_raised(c, FATAL);
    Py_XDECREF(exc);
}

static void on_due(taut_timer *t) {
    struct taut_tls_deadline *d = TAUT_CONTAINER(t, struct taut_tls_deadline, timer);
    int handshake = d->owner != NULL && d->slot == &d->owner->handshake_deadline;
    taut_tls_transport *c = let_go(d);
    if (c == NULL)
        return;
    Py_INCREF((PyObject *)c);
    if (taut_tls_enter(c) == 0) {
        expired(c, handshake);
        taut_tls_leave(c);
    }
    Py_DECREF((PyObject *)c);
}

int taut_tls_deadline_start(taut_tls_transport *c, struct taut_tls_deadline **slot,
                            double seconds) {
    taut_tls_deadline_stop(c, slot);
    struct taut_tls_deadline *d = taut_calloc(1, sizeof *d);
    if (d == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    taut_heap_node_init(&d->timer.node);
    d->timer.due = on_due;
    d->timer.dropped = on_dropped;
    d->owner = c;
    d->slot = slot;
    double now = taut_seconds_from_ns(taut_sys_now_ns());
    int rc =
        taut_timer_start(&c->lp->core.timers, &d->timer, taut_deadline_from_seconds(now + seconds));
    if (rc < 0) {
        taut_free(d);
        taut_err_raise(rc);
        return -1;
    }
    *slot = d;
    return 0;
}

void taut_tls_deadline_stop(taut_tls_transport *c, struct taut_tls_deadline **slot) {
    struct taut_tls_deadline *d = *slot;
    if (d == NULL)
        return;
    *slot = NULL;
    d->owner = NULL;
    taut_timer_cancel(&c->lp->core.timers, &d->timer);
}

/* ---- closing
 * --------------------------------------------------------------------------------------- */

void taut_tls_abort(taut_tls_transport *c, PyObject *exc) {
    c->state = TAUT_TLS_UNWRAPPED;
    taut_tls_handshake_unqueue(c);
    if (c->lower != NULL && !c->lost)
        taut_transport_force_close(c->lower, exc);
}

void taut_tls_shutdown_start(taut_tls_transport *c) {
    if (c->state == TAUT_TLS_FLUSHING || c->state == TAUT_TLS_SHUTDOWN ||
        c->state == TAUT_TLS_UNWRAPPED)
        return;
    c->closed = 1;
    if (c->state == TAUT_TLS_HANDSHAKE) {
        taut_tls_abort(c, NULL);
        return;
    }
    c->state = TAUT_TLS_FLUSHING;
    if (taut_tls_deadline_start(c, &c->shutdown_deadline, c->shutdown_timeout) < 0)
        taut_tls_fatal_raised(c, FATAL);
    else
        taut_tls_flush_go(c);
}

void taut_tls_flush_go(taut_tls_transport *c) {
    taut_tls_read_go(c);
    if (c->state != TAUT_TLS_FLUSHING || !taut_tls_is_open(c))
        return;
    if (c->eof_received)
        taut_tls_eof_received(c); /* the protocol need not wait for what it wrote to leave */
    if (c->backlog_size > 0)
        taut_tls_write_go(c);
    if (c->backlog_size > 0 || c->state != TAUT_TLS_FLUSHING || !taut_tls_is_open(c))
        return; /* resume_writing() comes back to it */
    c->state = TAUT_TLS_SHUTDOWN;
    taut_tls_shutdown_go(c);
}

static void shutdown_done(taut_tls_transport *c) {
    taut_tls_deadline_stop(c, &c->shutdown_deadline);
    if (!taut_tls_is_open(c))
        return;
    PyObject *close = PyObject_GetAttr((PyObject *)c->lower, c->lp->st->str_close);
    int rc = close == NULL ? -1 : taut_ready_call0(c->lp, close, c->lower->context);
    Py_XDECREF(close);
    if (rc < 0)
        taut_tls_fatal_raised(c, FATAL);
}

void taut_tls_shutdown_go(taut_tls_transport *c) {
    taut_ssl_names *ssl = &c->lp->st->ssl;
    if (!taut_tls_is_open(c))
        return;
    if (!c->eof_received) {
        taut_tls_out_begin(c);
        PyObject *r = PyObject_CallMethodNoArgs(c->sslobject, c->lp->st->str_unwrap);
        if (r == NULL &&
            (PyErr_ExceptionMatches(ssl->want_read) || PyErr_ExceptionMatches(ssl->want_write))) {
            PyErr_Clear();
            taut_tls_out_send(c);
            return;
        }
        if (r == NULL) {
            taut_tls_deadline_stop(c, &c->shutdown_deadline);
            taut_tls_fatal_raised(c, FATAL);
            return;
        }
        Py_DECREF(r);
    }
    taut_tls_out_send(c);
    taut_tls_eof_received(c);
    shutdown_done(c);
}

/* ---- from below
 * --------------------------------------------------------------------------------------- */

/* True keeps lower open until what waits has been sent or read. */
static int on_eof(taut_tls_transport *c) {
    c->eof_received = 1;
    switch (c->state) {
    case TAUT_TLS_HANDSHAKE: {
        PyObject *exc = PyObject_CallNoArgs(PyExc_ConnectionResetError);
        if (exc == NULL) {
            taut_tls_fatal_raised(c, FATAL);
            return 0;
        }
        taut_tls_handshake_done(c, exc);
        Py_DECREF(exc);
        return 0;
    }
    case TAUT_TLS_WRAPPED:
        c->state = TAUT_TLS_FLUSHING;
        if (c->reading_paused)
            return 1;
        taut_tls_flush_go(c);
        if (c->state == TAUT_TLS_FLUSHING && taut_tls_is_open(c)) {
            if (taut_tls_deadline_start(c, &c->shutdown_deadline, c->shutdown_timeout) == 0)
                return 1;
            taut_tls_fatal_raised(c, FATAL);
        }
        return 0;
    case TAUT_TLS_FLUSHING:
        taut_tls_flush_go(c);
        return c->state == TAUT_TLS_FLUSHING;
    case TAUT_TLS_SHUTDOWN:
        taut_tls_shutdown_go(c);
        return 0;
    default:
        return 0;
    }
}

PyObject *taut_tls_m_eof_received(PyObject *self, PyObject *unused) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    if (c->lower == NULL || c->lost)
        Py_RETURN_FALSE;
    Py_INCREF(self);
    taut_debug_log(c->lp, "%r received EOF", self, NULL, NULL);
    int keep_open = on_eof(c);
    Py_DECREF(self);
    return PyBool_FromLong(keep_open);
}

static void tell_lost(taut_tls_transport *c, PyObject *exc) {
    PyObject *args[3] = {NULL, NULL, exc};
    PyObject *r = taut_tls_call(c, c->lp->st->str_connection_lost, args + 1, 2);
    if (r == NULL)
        taut_pyloop_unhandled(c->lp, "Exception in callback protocol.connection_lost()",
                              "transport", (PyObject *)c);
    Py_XDECREF(r);
}

PyObject *taut_tls_m_connection_lost(PyObject *self, PyObject *exc) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    if (c->lost)
        Py_RETURN_NONE;
    Py_INCREF(self);
    if (c->lower == NULL) { /* a transport that was closed before start_tls() */
        c->lost = c->closed = 1;
        Py_CLEAR(c->protocol);
        taut_tls_wake_waiter(c, exc);
        Py_DECREF(self);
        Py_RETURN_NONE;
    }
    taut_tls_backlog_clear(c);
    taut_tls_handshake_unqueue(c);
    taut_tls_deadline_stop(c, &c->handshake_deadline);
    taut_tls_deadline_stop(c, &c->shutdown_deadline);
    c->conn_lost++;
    c->closed = 1;
    int shaking = c->state == TAUT_TLS_HANDSHAKE;
    int tell = !shaking && (c->app == TAUT_APP_MADE || c->app == TAUT_APP_EOF);
    if (shaking && exc != Py_None)
        taut_tls_tell_accept_failed(c, exc);
    c->state = TAUT_TLS_UNWRAPPED;
    c->lost = 1;
    taut_tls_engine_end(c);
    if (tell) {
        c->app = TAUT_APP_LOST;
        tell_lost(c, exc);
    }
    Py_CLEAR(c->protocol);
    taut_tls_wake_waiter(c, exc);
    taut_tls_file_wake(c, exc);
    Py_DECREF(self);
    Py_RETURN_NONE;
}
