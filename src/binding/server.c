/* taut._core.Server: accepting, starting and stopping. */
#include "binding/server_type.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"
#include "binding/tls_transport.h"
#include "base/mem.h"
#include "io/sock.h"

/* ---- connections ------------------------------------------------------------------------- */

static int is_ours(PyObject *server, taut_transport *t) {
    return PyObject_TypeCheck(server, t->lp->st->server_type);
}

static void wake_waiters(taut_server *sv) {
    PyObject *waiters = sv->waiters;
    sv->waiters = NULL;
    for (Py_ssize_t i = 0; waiters != NULL && i < PyList_GET_SIZE(waiters); i++)
        taut_pyloop_future_result(sv->lp, PyList_GET_ITEM(waiters, i), Py_None);
    Py_XDECREF(waiters);
}

void taut_server_client_gone(taut_server *sv) {
    if (--sv->client_count == 0 && sv->sockets == NULL)
        wake_waiters(sv);
}

/* Before 3.13 the method takes no argument. */
static int call_attach(PyObject *server, const char *name, taut_transport *t) {
    PyObject *r =
        PyObject_CallMethod(server, name, PY_VERSION_HEX >= 0x030D0000 ? "O" : NULL, (PyObject *)t);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

int taut_server_attach(PyObject *server, taut_transport *t) {
    if (!is_ours(server, t))
        return call_attach(server, "_attach", t);
    taut_server *sv = (taut_server *)server;
    taut_list_append(&sv->clients, &t->server_link);
    sv->client_count++;
    return 0;
}

int taut_server_detach(PyObject *server, taut_transport *t) {
    if (!is_ours(server, t))
        return call_attach(server, "_detach", t);
    taut_list_unlink(&t->server_link);
    taut_server_client_gone((taut_server *)server);
    return 0;
}

static void report(taut_server *sv, const char *message, PyObject *exc, const char *key,
                   PyObject *value) {
    PyObject *context = Py_BuildValue("{sssO}", "message", message, "exception", exc);
    if (context != NULL && key != NULL && PyDict_SetItemString(context, key, value) < 0)
        Py_CLEAR(context);
    PyObject *r = context == NULL
                      ? NULL
                      : PyObject_CallMethodOneArg((PyObject *)sv->lp,
                                                  sv->lp->st->str_call_exception_handler, context);
    if (r == NULL)
        taut_pyloop_unhandled(sv->lp, message, key, value);
    Py_XDECREF(context);
    Py_XDECREF(r);
}

/* As asyncio: an accepted connection that could not be set up is told of in debug mode only. */
static void creation_failed(taut_server *sv, PyObject *protocol) {
    if (taut_pyloop_take_exit(sv->lp))
        return;
    PyObject *exc = taut_exception_take();
    if (sv->lp->debug)
        report(sv, "Error on transport creation for incoming connection", exc,
               protocol != NULL ? "protocol" : NULL, protocol);
    Py_DECREF(exc);
}

static void accept_plain(taut_server *sv, int fd, const struct sockaddr *peer, socklen_t size) {
    PyObject *protocol = PyObject_CallNoArgs(sv->protocol_factory);
    if (protocol == NULL) {
        taut_sock_close(fd);
        creation_failed(sv, NULL);
        return;
    }
    PyObject *t =
        taut_transport_new(sv->lp, fd, NULL, protocol, NULL, NULL, (PyObject *)sv, peer, size);
    if (t == NULL)
        creation_failed(sv, protocol);
    Py_XDECREF(t);
    Py_DECREF(protocol);
}

static void accept_tls(taut_server *sv, int fd, const struct sockaddr *peer, socklen_t size) {
    PyObject *protocol = PyObject_CallNoArgs(sv->protocol_factory);
    PyObject *tls = protocol == NULL
                        ? NULL
                        : taut_tls_new(sv->lp, protocol, sv->ssl_context, NULL, 1, NULL,
                                       sv->ssl_handshake_timeout, sv->ssl_shutdown_timeout, 1);
    if (tls == NULL) {
        taut_sock_close(fd);
        creation_failed(sv, protocol);
        Py_XDECREF(protocol);
        return;
    }
    ((taut_tls_transport *)tls)->accepted = 1;
    PyObject *t = taut_transport_new(sv->lp, fd, NULL, tls, NULL, NULL, (PyObject *)sv, peer, size);
    if (t == NULL) {
        ((taut_tls_transport *)tls)->closed = 1;
        creation_failed(sv, protocol);
    }
    Py_XDECREF(t);
    Py_DECREF(tls);
    Py_DECREF(protocol);
}

static void log_accepted(taut_server *sv, int fd, const struct sockaddr *peer, socklen_t size) {
    PyObject *address = taut_addr_object(peer, size);
    PyObject *r = address == NULL ? NULL
                                  : PyObject_CallMethod((PyObject *)sv->lp, "_log_accepted", "OiO",
                                                        (PyObject *)sv, fd, address);
    if (r == NULL)
        PyErr_WriteUnraisable((PyObject *)sv);
    Py_XDECREF(r);
    Py_XDECREF(address);
}

static void on_accepted(taut_listener *ln, int fd, const struct sockaddr *peer, socklen_t size) {
    taut_server *sv = ((server_socket *)ln)->server;
    if (sv == NULL || sv->sockets == NULL) {
        taut_sock_close(fd);
        return;
    }
    Py_INCREF((PyObject *)sv);
    if (taut_pyloop_call_begin(sv->lp, sv->context, (PyObject *)sv) < 0) {
        taut_sock_close(fd);
        taut_pyloop_unhandled(sv->lp, "accepting a connection failed", NULL, NULL);
    } else {
        PyObject *context = Py_NewRef(sv->context);
        if (TAUT_UNLIKELY(sv->lp->debug))
            log_accepted(sv, fd, peer, size);
        uint64_t began_ns = taut_debug_time(sv->lp);
        if (sv->ssl_context == Py_None)
            accept_plain(sv, fd, peer, size);
        else
            accept_tls(sv, fd, peer, size);
        taut_pyloop_call_end(sv->lp, context);
        taut_debug_timed(sv->lp, began_ns, (PyObject *)sv, sv->lp->st->str_accept, (PyObject *)sv);
        Py_DECREF(context);
    }
    Py_DECREF((PyObject *)sv);
}

static void accept_error(taut_listener *ln, int err, const char *message) {
    server_socket *ls = (server_socket *)ln;
    taut_server *sv = ls->server;
    if (sv == NULL)
        return;
    Py_INCREF((PyObject *)sv);
    PyObject *exc = taut_err_exception(err);
    PyObject *shown = exc ? PyObject_CallOneArg(sv->lp->st->transport_socket, ls->sock) : NULL;
    if (shown == NULL)
        taut_pyloop_unhandled(sv->lp, message, NULL, NULL);
    else
        report(sv, message, exc, "socket", shown);
    Py_XDECREF(exc);
    Py_XDECREF(shown);
    Py_DECREF((PyObject *)sv);
}

static void on_starved(taut_listener *ln, int err) {
    accept_error(ln, err, "socket.accept() out of system resource");
}

static void on_failed(taut_listener *ln, int err) {
    accept_error(ln, err, "socket.accept() failed");
}

static const taut_listener_ops listener_ops = {
    .accepted = on_accepted, .starved = on_starved, .failed = on_failed};

/* ---- starting and stopping ----------------------------------------------------------------- */

static void on_listener_freed(taut_listener *ln) {
    taut_free(ln);
}

static void stop_listeners(taut_server *sv) {
    server_socket **listeners = sv->listeners;
    Py_ssize_t count = sv->listener_count;
    sv->listeners = NULL;
    sv->listener_count = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *sock = listeners[i]->sock;
        listeners[i]->server = NULL;
        listeners[i]->sock = NULL;
        taut_listener_close(&listeners[i]->core, on_listener_freed);
        Py_DECREF(sock);
    }
    taut_free(listeners);
}

static int start_one(taut_server *sv, PyObject *sock) {
    PyObject *r = PyObject_CallMethod(sock, "listen", "i", sv->backlog);
    if (r == NULL)
        return -1;
    Py_DECREF(r);
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0)
        return -1;
    server_socket *ls = taut_calloc(1, sizeof *ls);
    if (ls == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    /* Accepted sockets inherit it, which spares a call for each. */
    (void)taut_sock_nodelay(fd);
    taut_listener_init(&ls->core, &sv->lp->core, fd, 0, sv->backlog, &listener_ops);
    ls->server = sv;
    ls->sock = Py_NewRef(sock);
    sv->listeners[sv->listener_count++] = ls;
    int rc = taut_listener_start(&ls->core);
    if (rc < 0)
        taut_err_raise(rc);
    return rc < 0 ? -1 : 0;
}

static void on_orphan(PyObject *self) {
    taut_server *sv = (taut_server *)self;
    stop_listeners(sv);
    sv->serving = 0;
}

int taut_server_start(taut_server *sv) {
    if (sv->serving)
        return 0;
    if (sv->sockets == NULL) {
        PyErr_Format(PyExc_RuntimeError, "server %R is closed", (PyObject *)sv);
        return -1;
    }
    if (taut_pyloop_check_closed(sv->lp) < 0)
        return -1;
    Py_ssize_t count = PyList_GET_SIZE(sv->sockets);
    sv->listeners = taut_calloc((size_t)count + 1, sizeof *sv->listeners);
    if (sv->listeners == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_XSETREF(sv->context, PyContext_CopyCurrent());
    if (sv->context == NULL)
        return -1;
    sv->serving = 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (start_one(sv, PyList_GET_ITEM(sv->sockets, i)) < 0) {
            stop_listeners(sv);
            sv->serving = 0;
            return -1;
        }
    }
    taut_member_add(sv->lp, &sv->member, (PyObject *)sv, on_orphan);
    taut_member_hold(&sv->member);
    return 0;
}

static int close_sockets(PyObject *sockets, taut_pyloop *lp) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(sockets); i++) {
        PyObject *r = PyObject_CallMethodOneArg((PyObject *)lp, lp->st->str__stop_serving,
                                                PyList_GET_ITEM(sockets, i));
        if (r == NULL)
            return -1;
        Py_DECREF(r);
    }
    return 0;
}

int taut_server_close(taut_server *sv) {
    PyObject *sockets = sv->sockets;
    if (sockets == NULL)
        return 0;
    sv->sockets = NULL;
    sv->serving = 0;
    stop_listeners(sv);
    int rc = close_sockets(sockets, sv->lp);
    Py_DECREF(sockets);
    PyObject *future = sv->serving_forever_fut;
    if (rc == 0 && future != NULL && future != Py_None) {
        sv->serving_forever_fut = Py_NewRef(Py_None);
        PyObject *r = PyObject_CallMethodNoArgs(future, sv->lp->st->str_cancel);
        rc = r == NULL ? -1 : 0;
        Py_XDECREF(r);
        Py_DECREF(future);
    }
    if (sv->client_count == 0)
        wake_waiters(sv);
    taut_member_remove(&sv->member); /* the caller holds us */
    return rc;
}
