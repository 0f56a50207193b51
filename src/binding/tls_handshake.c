/* taut._core.SSLTransport: the handshake. A burst of new connections must not hold the loop, so
 * each iteration has only so much time for handshakes; the rest wait in line. */
#include "binding/tls_transport.h"

#include "binding/compat.h"

#define BUDGET_NS (2 * TAUT_NS_PER_MS)

/* ---- one step ------------------------------------------------------------------------------- */

static void debug_log(taut_tls_transport *c, const char *format, double ms) {
    if (TAUT_LIKELY(!c->lp->debug))
        return;
    PyObject *r =
        ms < 0 ? PyObject_CallMethod(c->lp->st->logger, "debug", "sO", format, (PyObject *)c)
               : PyObject_CallMethod(c->lp->st->logger, "debug", "sOd", format, (PyObject *)c, ms);
    if (r == NULL)
        PyErr_WriteUnraisable((PyObject *)c);
    Py_XDECREF(r);
}

/* What asyncio's task for an accepted connection does with a failed handshake. */
void taut_tls_tell_accept_failed(taut_tls_transport *c, PyObject *exc) {
    if (c->accepted && c->lp->debug)
        taut_tls_report(c, exc, "Error on transport creation for incoming connection");
}

static void failed(taut_tls_transport *c, PyObject *exc) {
    int certificate = PyErr_GivenExceptionMatches(exc, c->lp->st->ssl.certificate_error);
    taut_tls_out_send(c); /* the alert: the peer shall know why */
    c->state = TAUT_TLS_UNWRAPPED;
    taut_tls_fatal(c, exc,
                   certificate ? "SSL handshake failed on verifying the certificate"
                               : "SSL handshake failed");
    taut_tls_tell_accept_failed(c, exc);
    taut_tls_wake_waiter(c, exc);
}

void taut_tls_handshake_done(taut_tls_transport *c, PyObject *exc) {
    taut_tls_handshake_unqueue(c);
    taut_tls_deadline_stop(c, &c->handshake_deadline);
    if (exc != NULL) {
        failed(c, exc);
        return;
    }
    c->state = TAUT_TLS_WRAPPED;
    c->secured = 1;
    taut_tls_out_send(c);
    debug_log(c, "%r: SSL handshake took %.1f ms", (double)(taut_sys_now_ns() - c->began_ns) / 1e6);
    if (c->app == TAUT_APP_INIT) {
        c->app = TAUT_APP_MADE;
        PyObject *args[3] = {NULL, NULL, (PyObject *)c};
        PyObject *r = taut_tls_call(c, c->lp->st->str_connection_made, args + 1, 2);
        if (r == NULL) { /* connection_lost() will tell the waiter */
            taut_tls_fatal_raised(c, "Fatal error: protocol.connection_made() call failed.");
            return;
        }
        Py_DECREF(r);
    }
    taut_tls_wake_waiter(c, NULL);
    taut_tls_read_go(c);
}

static void step(taut_tls_transport *c) {
    taut_ssl_names *ssl = &c->lp->st->ssl;
    taut_tls_out_begin(c);
    PyObject *r = PyObject_CallMethodNoArgs(c->sslobject, c->lp->st->str_do_handshake);
    if (r != NULL) {
        Py_DECREF(r);
        if (c->state == TAUT_TLS_HANDSHAKE) /* a callback of the context may have closed it */
            taut_tls_handshake_done(c, NULL);
    } else if (PyErr_ExceptionMatches(ssl->want_read) || PyErr_ExceptionMatches(ssl->want_write)) {
        PyErr_Clear();
        taut_tls_out_send(c);
    } else if (!taut_pyloop_take_exit(c->lp)) {
        PyObject *exc = taut_exception_take();
        if (c->state == TAUT_TLS_HANDSHAKE)
            taut_tls_handshake_done(c, exc);
        Py_DECREF(exc);
    }
}

/* ---- turns -------------------------------------------------------------------------------------
 */

static int in_budget(taut_pyloop *lp) {
    uint64_t iteration = atomic_load_explicit(&lp->core.pulse.iterations, memory_order_relaxed);
    if (lp->tls.iteration != iteration) {
        lp->tls.iteration = iteration;
        lp->tls.spent_ns = 0;
    }
    return lp->tls.spent_ns < BUDGET_NS;
}

static void timed_step(taut_tls_transport *c) {
    taut_pyloop *lp = c->lp;
    uint64_t began_ns = taut_sys_now_ns();
    Py_INCREF((PyObject *)c);
    step(c);
    Py_DECREF((PyObject *)c);
    lp->tls.spent_ns += taut_sys_now_ns() - began_ns;
}

static void run_queue(void *arg);

static void schedule(taut_pyloop *lp) {
    if (!lp->tls.scheduled)
        lp->tls.scheduled = taut_loop_call_soon(&lp->core, run_queue, lp) == 0;
}

static void run_queue(void *arg) {
    taut_pyloop *lp = arg;
    lp->tls.scheduled = 0;
    while (!taut_list_empty(&lp->tls.waiting) && in_budget(lp)) {
        taut_tls_transport *c =
            TAUT_CONTAINER(lp->tls.waiting.next, taut_tls_transport, queue_link);
        taut_tls_handshake_unqueue(c);
        Py_INCREF((PyObject *)c);
        if (taut_tls_enter(c) == 0) {
            timed_step(c);
            taut_tls_leave(c);
        }
        Py_DECREF((PyObject *)c);
    }
    if (!taut_list_empty(&lp->tls.waiting))
        schedule(lp);
}

void taut_tls_handshake_unqueue(taut_tls_transport *c) {
    taut_list_unlink(&c->queue_link);
}

void taut_tls_handshake_go(taut_tls_transport *c) {
    taut_pyloop *lp = c->lp;
    if (!taut_list_empty(&c->queue_link))
        return; /* its turn comes */
    if (in_budget(lp) && taut_list_empty(&lp->tls.waiting)) {
        timed_step(c);
        return;
    }
    taut_list_append(&lp->tls.waiting, &c->queue_link);
    schedule(lp);
    if (!lp->tls.scheduled) { /* no memory for an entry: then it goes first */
        taut_tls_handshake_unqueue(c);
        timed_step(c);
    }
}

void taut_tls_handshake_start(taut_tls_transport *c) {
    c->state = TAUT_TLS_HANDSHAKE;
    debug_log(c, "%r starts SSL handshake", -1);
    c->began_ns = taut_sys_now_ns();
    if (taut_tls_deadline_start(c, &c->handshake_deadline, c->handshake_timeout) < 0)
        taut_tls_fatal_raised(c, "SSL handshake failed");
    else if (!c->server_side) /* a server has nothing to say before it is spoken to */
        taut_tls_handshake_go(c);
}
