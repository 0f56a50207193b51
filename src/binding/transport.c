/* taut._core.Transport: creation, closing, lifetime, the type. */
#include "binding/transport.h"
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"
#include "binding/server.h"
#include "binding/tls_transport.h"
#include "io/sock.h"
#include <string.h>

static taut_transport *transport_of(taut_stream *s) {
    return TAUT_CONTAINER(s, taut_transport, stream);
}

/* ---- lifetime ---------------------------------------------------------------------------- */

static int wants_hold(const taut_transport *t) {
    return t->open && !t->orphan &&
           (t->starting || t->stream.reading || t->stream.pending_size > 0 ||
            t->stream.file != NULL || t->stream.closing);
}

static void release_hold(void *arg) {
    taut_transport *t = arg;
    t->release_queued = 0;
    if (!wants_hold(t))
        taut_member_release(&t->member);
}

void taut_transport_update_hold(taut_transport *t) {
    if (wants_hold(t)) {
        taut_member_hold(&t->member);
    } else if (t->member.held && t->open && !t->release_queued) {
        /* Later: a callback of the stream may be running, and the stream is part of us. */
        t->release_queued = taut_loop_call_soon(&t->lp->core, release_hold, t) == 0;
    }
}

int taut_transport_check(taut_transport *t) {
    if (TAUT_UNLIKELY(t->orphan))
        return taut_pyloop_check_closed(t->lp);
    return 0;
}

static void detach_server(taut_transport *t) {
    PyObject *server = t->server;
    t->server = NULL;
    if (server == NULL)
        return;
    if (taut_server_detach(server, t) < 0)
        taut_pyloop_unhandled(t->lp, "server._detach() failed", "transport", (PyObject *)t);
    Py_DECREF(server);
}

void taut_transport_release_fd(taut_transport *t) {
    t->open = 0;
    taut_fdtable_unclaim(t->lp, t->fd, (PyObject *)t);
    if (t->sock != NULL) {
        PyObject *r = PyObject_CallMethodNoArgs(t->sock, t->lp->st->str_close);
        if (r == NULL)
            taut_pyloop_unhandled(t->lp, "socket.close() failed", "transport", (PyObject *)t);
        Py_XDECREF(r);
    }
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->read_buffer);
    Py_CLEAR(t->close_exc);
    detach_server(t);
}

static void on_closed(taut_stream *s, int err) {
    taut_transport *t = transport_of(s);
    Py_INCREF((PyObject *)t);
    PyObject *exc = t->close_exc;
    t->close_exc = NULL;
    if (exc == NULL) {
        exc = err == 0 ? Py_NewRef(Py_None) : taut_err_exception(err);
        if (err != 0 && exc != NULL)
            taut_debug_log(t->lp, "%r: %s", (PyObject *)t,
                           s->write_failed ? "Fatal write error on socket transport"
                                           : "Fatal read error on socket transport",
                           exc);
    }
    PyObject *args[3] = {NULL, NULL, exc};
    PyObject *r =
        exc == NULL ? NULL : taut_transport_call(t, t->lp->st->str_connection_lost, args + 1, 2);
    if (r == NULL)
        taut_pyloop_unhandled(t->lp, "Exception in callback protocol.connection_lost()",
                              "transport", (PyObject *)t);
    Py_XDECREF(r);
    Py_XDECREF(exc);
    taut_transport_release_fd(t);
    taut_member_remove(&t->member);
    Py_DECREF((PyObject *)t);
}

static const taut_stream_ops stream_ops = {
    .data = taut_transport_on_data,
    .get_buffer = taut_transport_on_get_buffer,
    .filled = taut_transport_on_filled,
    .eof = taut_transport_on_eof,
    .pause_writing = taut_transport_on_pause,
    .resume_writing = taut_transport_on_resume,
    .closed = on_closed,
    .release = taut_transport_on_release,
};

/* The loop closes under an open transport: what it still has is given back when it is dropped. */
static void on_orphan(PyObject *self) {
    taut_transport *t = (taut_transport *)self;
    t->orphan = 1;
    t->stream.reading = 0;
    taut_loop_undefer(&t->stream.flush);
    if (t->lp->core.poller != NULL)
        taut_poller_remove(t->lp->core.poller, &t->stream.watch, 1);
}

/* ---- creation ---------------------------------------------------------------------------- */

static void on_start(void *arg) {
    taut_transport *t = arg;
    t->starting = 0;
    (void)taut_transport_read_start(t);
    PyObject *waiter = t->waiter;
    t->waiter = NULL;
    if (waiter != NULL)
        taut_pyloop_future_result(t->lp, waiter, Py_None);
    Py_XDECREF(waiter);
    taut_transport_update_hold(t);
}

static int set_extra(taut_transport *t, const char *key, PyObject *value) {
    if (value == NULL)
        return -1;
    if (t->extra == NULL)
        t->extra = PyDict_New();
    int rc = t->extra == NULL ? -1 : PyDict_SetItemString(t->extra, key, value);
    Py_DECREF(value);
    return rc;
}

/* Kept raw where it fits, else as an object under `key`. */
static int keep_address(taut_transport *t, taut_addr *kept, const char *key,
                        const struct sockaddr *sa, socklen_t size) {
    if (taut_addr_keep(kept, sa, size))
        return 0;
    return set_extra(t, key, taut_addr_object(sa, size));
}

/* Both addresses are taken now: later the peer may be gone, or the fd closed. */
static int take_addresses(taut_transport *t, const struct sockaddr *peer, socklen_t peer_size) {
    struct sockaddr_storage ss;
    socklen_t size = sizeof ss;
    if (taut_sock_name(t->fd, (struct sockaddr *)&ss, &size) == 0 &&
        keep_address(t, &t->local, "sockname", (struct sockaddr *)&ss, size) < 0)
        return -1;
    return keep_address(t, &t->peer, "peername", peer, peer_size);
}

static PyObject *ask_or_none(PyObject *sock, PyObject *name) {
    PyObject *r = PyObject_CallMethodNoArgs(sock, name);
    if (r == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return r;
}

/* Whatever the socket module knows to show, for families that are not ours to decode. */
static int take_shown_addresses(taut_transport *t, PyObject *sock) {
    taut_state *st = t->lp->st;
    if (set_extra(t, "sockname", ask_or_none(sock, st->str_getsockname)) < 0)
        return -1;
    int has = PyDict_Contains(t->extra, st->str_peername);
    if (has == 0)
        return set_extra(t, "peername", ask_or_none(sock, st->str_getpeername));
    return has < 0 ? -1 : 0;
}

static int take_socket(taut_transport *t, PyObject *sock, PyObject *extra) {
    struct sockaddr_storage local, peer;
    socklen_t local_size = sizeof local, peer_size = sizeof peer;
    t->sock = Py_NewRef(sock);
    t->stream.foreign_fd = 1;
    if (extra != NULL && extra != Py_None && (t->extra = PyDict_Copy(extra)) == NULL)
        return -1;
    if (taut_sock_name(t->fd, (struct sockaddr *)&local, &local_size) == 0 &&
        taut_addr_keep(&t->local, (struct sockaddr *)&local, local_size) &&
        taut_sock_peer(t->fd, (struct sockaddr *)&peer, &peer_size) == 0 &&
        taut_addr_keep(&t->peer, (struct sockaddr *)&peer, peer_size))
        return 0;
    return take_shown_addresses(t, sock);
}

static int schedule_start(taut_transport *t) {
    taut_pyloop *lp = t->lp;
    PyObject *made = PyObject_GetAttr(t->protocol, lp->st->str_connection_made);
    if (made == NULL)
        return -1;
    int rc = taut_ready_call1(lp, made, (PyObject *)t, t->context);
    Py_DECREF(made);
    if (rc < 0)
        return -1;
    rc = taut_loop_call_soon(&lp->core, on_start, t);
    if (rc < 0) {
        taut_err_raise(rc);
        return -1;
    }
    t->starting = 1;
    taut_transport_update_hold(t);
    return 0;
}

static int is_closing(PyObject *self) {
    return ((taut_transport *)self)->stream.closing;
}

static taut_transport *transport_alloc(taut_pyloop *lp, int fd) {
    PyTypeObject *type = lp->st->transport_type;
    taut_transport *t = (taut_transport *)type->tp_alloc(type, 0); /* zeroed */
    if (t == NULL)
        return NULL;
    t->lp = (taut_pyloop *)Py_NewRef((PyObject *)lp);
    t->fd = fd;
    taut_list_init(&t->server_link);
    taut_list_init(&t->member.link);
    taut_stream_open(&t->stream, &lp->core, fd, &stream_ops);
    return t;
}

PyObject *taut_transport_new(taut_pyloop *lp, int fd, PyObject *sock, PyObject *protocol,
                             PyObject *waiter, PyObject *extra, PyObject *server,
                             const struct sockaddr *peer, socklen_t peer_size) {
    taut_transport *t = transport_alloc(lp, fd);
    if (t == NULL) {
        if (sock == NULL)
            taut_sock_close(fd);
        return NULL;
    }
    t->context = PyContext_CopyCurrent();
    if (t->context == NULL || taut_transport_set_protocol(t, protocol) < 0 ||
        (sock != NULL ? take_socket(t, sock, extra) : take_addresses(t, peer, peer_size)) < 0 ||
        taut_fdtable_claim(lp, fd, (PyObject *)t, is_closing) < 0)
        goto fail;
    t->waiter = Py_XNewRef(waiter);
    t->made_at = taut_debug_made_at(lp);
    taut_member_add(lp, &t->member, (PyObject *)t, on_orphan);
    if (schedule_start(t) < 0)
        goto fail;
    t->open = 1;
    taut_transport_update_hold(t);
    if (server != NULL) {
        t->server = Py_NewRef(server);
        if (taut_server_attach(server, t) < 0) {
            Py_CLEAR(t->server);
            taut_transport_force_close(t, NULL);
            Py_DECREF((PyObject *)t);
            return NULL;
        }
    }
    return (PyObject *)t;
fail:
    taut_fdtable_unclaim(lp, fd, (PyObject *)t);
    taut_member_remove(&t->member);
    taut_stream_discard(&t->stream); /* closes the fd, unless the caller's socket has it */
    Py_DECREF((PyObject *)t);
    return NULL;
}

static PyObject *make_socket_transport(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"sock", "protocol", "waiter", "extra", "server", NULL};
    taut_pyloop *lp = (taut_pyloop *)self;
    PyObject *sock, *protocol, *waiter = Py_None, *extra = Py_None, *server = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O$OO:_make_socket_transport", names, &sock,
                                     &protocol, &waiter, &extra, &server))
        return NULL;
    int fd = taut_args_fd(sock);
    if (fd < 0 || taut_pyloop_check_closed(lp) < 0 || taut_fdtable_check_free(lp, fd, sock) < 0)
        return NULL;
    (void)taut_sock_nodelay(fd); /* Unix sockets have none */
    return taut_transport_new(lp, fd, sock, protocol, waiter != Py_None ? waiter : NULL, extra,
                              server != Py_None ? server : NULL, NULL, 0);
}

PyMethodDef taut_loop_transport_methods[] = {
    {"_make_tls", (PyCFunction)(void (*)(void))taut_tls_m_make, METH_VARARGS | METH_KEYWORDS,
     "_make_tls(protocol, sslcontext, waiter=None, *, server_side=False, server_hostname=None, "
     "ssl_handshake_timeout=None, ssl_shutdown_timeout=None, call_connection_made=True)\n\n"
     "A TLS connection, to be made the protocol of a socket transport."},
    {"_make_socket_transport", (PyCFunction)(void (*)(void))make_socket_transport,
     METH_VARARGS | METH_KEYWORDS,
     "_make_socket_transport(sock, protocol, waiter=None, *, extra=None, server=None)\n\n"
     "A transport over a connected, non-blocking stream socket, which it closes in the end."},
    {NULL},
};

/* ---- callbacks into the protocol, errors ------------------------------------------------- */

PyObject *taut_transport_call(taut_transport *t, PyObject *name, PyObject **args, size_t nargs) {
    PyObject *protocol = Py_XNewRef(t->protocol);
    if (protocol == NULL)
        Py_RETURN_NONE;
    args[0] = protocol;
    PyObject *r = NULL;
    if (t->in_call) { /* user code called us: its context is the right one */
        r = PyObject_VectorcallMethod(name, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    } else if (taut_pyloop_call_begin(t->lp, t->context, (PyObject *)t) == 0) {
        /* A TLS layer's calls of its own protocol are timed, under that one's name. */
        uint64_t began_ns = t->layer != NULL ? 0 : taut_debug_time(t->lp);
        r = PyObject_VectorcallMethod(name, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        taut_pyloop_call_end(t->lp, t->context);
        taut_debug_timed(t->lp, began_ns, protocol, name, (PyObject *)t);
    }
    Py_DECREF(protocol);
    return r;
}

void taut_transport_force_close(taut_transport *t, PyObject *exc) {
    taut_transport_send_held(t);
    if (!t->open || t->orphan || t->stream.lost)
        return;
    Py_XSETREF(t->close_exc, exc != NULL && exc != Py_None ? Py_NewRef(exc) : NULL);
    taut_stream_abort(&t->stream, 0);
    taut_transport_update_hold(t);
}

static int report(taut_transport *t, PyObject *exc, const char *message) {
    PyObject *context =
        Py_BuildValue("{sssOsOsO}", "message", message, "exception", exc, "transport",
                      (PyObject *)t, "protocol", t->protocol != NULL ? t->protocol : Py_None);
    if (context == NULL)
        return -1;
    PyObject *r = PyObject_CallMethodOneArg((PyObject *)t->lp,
                                            t->lp->st->str_call_exception_handler, context);
    Py_DECREF(context);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

void taut_transport_report(taut_transport *t, PyObject *exc, const char *message) {
    if (report(t, exc, message) < 0)
        taut_pyloop_unhandled(t->lp, message, "transport", (PyObject *)t);
}

void taut_transport_fatal(taut_transport *t, PyObject *exc, const char *message) {
    if (PyErr_GivenExceptionMatches(exc, PyExc_OSError))
        taut_debug_log(t->lp, "%r: %s", (PyObject *)t, message, exc);
    else
        taut_transport_report(t, exc, message);
    taut_transport_force_close(t, exc);
}

void taut_transport_fatal_raised(taut_transport *t, const char *message) {
    if (taut_pyloop_take_exit(t->lp))
        return;
    PyObject *exc = taut_exception_take();
    taut_transport_fatal(t, exc, message);
    Py_DECREF(exc);
}

/* ---- methods ----------------------------------------------------------------------------- */

static PyObject *m_is_closing(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    return PyBool_FromLong(!t->open || t->stream.closing);
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    if (!t->open || t->stream.closing)
        Py_RETURN_NONE;
    if (taut_pyloop_check_thread(t->lp) < 0)
        return NULL;
    if (t->orphan) { /* as asyncio: told once, unless it would close when flushed */
        t->stream.closing = 1;
        if (t->stream.pending_size > 0)
            Py_RETURN_NONE;
        t->stream.lost = 1;
        return taut_transport_check(t) < 0 ? NULL : Py_NewRef(Py_None);
    }
    taut_debug_closing(t->lp->st, self, "transport", t->made_at);
    taut_transport_send_held(t); /* once it is sent, nothing can be written any more */
    taut_stream_close(&t->stream);
    taut_transport_update_hold(t);
    Py_RETURN_NONE;
}

/* 1: go on; 0: nothing to do any more; -1: with an exception. As asyncio tells of a closed loop,
 * but once. */
static int may_force(taut_transport *t) {
    if (!t->open || t->stream.lost)
        return 0;
    if (taut_pyloop_check_thread(t->lp) < 0)
        return -1;
    if (t->orphan)
        t->stream.closing = t->stream.lost = 1;
    return taut_transport_check(t) < 0 ? -1 : 1;
}

static PyObject *m_abort(PyObject *self, PyObject *unused) {
    taut_transport *t = (taut_transport *)self;
    int rc = may_force(t);
    if (rc < 0)
        return NULL;
    if (rc > 0)
        taut_transport_force_close(t, NULL);
    Py_RETURN_NONE;
}

static PyObject *m_force_close(PyObject *self, PyObject *exc) {
    taut_transport *t = (taut_transport *)self;
    int rc = may_force(t);
    if (rc < 0)
        return NULL;
    if (rc > 0)
        taut_transport_force_close(t, exc);
    Py_RETURN_NONE;
}

static PyObject *m_fatal_error(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"exc", "message", NULL};
    PyObject *exc;
    const char *message = "Fatal error on transport";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|s:_fatal_error", names, &exc, &message))
        return NULL;
    taut_transport_fatal((taut_transport *)self, exc, message);
    Py_RETURN_NONE;
}

/* ---- the type ---------------------------------------------------------------------------- */

static int transport_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_transport *t = (taut_transport *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->extra);
    for (size_t i = 0; i < sizeof t->unused_slots / sizeof *t->unused_slots; i++)
        Py_VISIT(t->unused_slots[i]);
    Py_VISIT(t->dict);
    Py_VISIT((PyObject *)t->lp);
    Py_VISIT(t->protocol);
    Py_VISIT(t->context);
    Py_VISIT(t->sock);
    Py_VISIT(t->server);
    Py_VISIT(t->waiter);
    Py_VISIT(t->close_exc);
    Py_VISIT(t->read_buffer);
    Py_VISIT(t->made_at);
    Py_VISIT(t->sendfile);
    return 0;
}

static int transport_clear(PyObject *self) {
    taut_transport *t = (taut_transport *)self;
    Py_CLEAR(t->extra);
    for (size_t i = 0; i < sizeof t->unused_slots / sizeof *t->unused_slots; i++)
        Py_CLEAR(t->unused_slots[i]);
    Py_CLEAR(t->dict);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->context);
    Py_CLEAR(t->waiter);
    Py_CLEAR(t->close_exc);
    Py_CLEAR(t->read_buffer);
    Py_CLEAR(t->made_at);
    Py_CLEAR(t->sendfile);
    return 0;
}

static void transport_finalize(PyObject *self) {
    taut_transport *t = (taut_transport *)self;
    /* With `closed` on its way the loop holds us, so it is garbage, too, and its close() will bring
     * that; letting go of ourselves here would leave nobody to bring it to. */
    if (!t->open || (t->stream.closed_scheduled && !t->lp->closed))
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    taut_debug_unclosed(self, "transport", t->made_at);
    taut_stream_discard(&t->stream);
    taut_transport_release_fd(t);
    taut_member_remove(&t->member);
    PyErr_Restore(type, value, traceback);
}

static void transport_dealloc(PyObject *self) {
    taut_transport *t = (taut_transport *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* resurrected */
    PyObject_GC_UnTrack(self);
    if (t->weaklist != NULL)
        PyObject_ClearWeakRefs(self);
    (void)transport_clear(self);
    Py_CLEAR(t->sock);
    Py_CLEAR(t->server);
    Py_XDECREF((PyObject *)t->lp);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef transport_methods[] = {
    {"is_closing", m_is_closing, METH_NOARGS, "True once closing has begun."},
    {"close", m_close, METH_NOARGS, "Close after the write buffer has been sent."},
    {"abort", m_abort, METH_NOARGS, "Close at once; buffered data is lost."},
    {"_force_close", m_force_close, METH_O, "Close at once, telling the protocol why."},
    {"_fatal_error", (PyCFunction)(void (*)(void))m_fatal_error, METH_VARARGS | METH_KEYWORDS,
     "Report an error and close at once."},
    {"get_extra_info", (PyCFunction)(void (*)(void))taut_transport_m_get_extra_info,
     METH_VARARGS | METH_KEYWORDS, "The socket, sockname, peername, or the default."},
    {"set_protocol", taut_transport_m_set_protocol, METH_O, "Switch to another protocol."},
    {"get_protocol", taut_transport_m_get_protocol, METH_NOARGS, "The current protocol."},
    {"pause_reading", taut_transport_m_pause_reading, METH_NOARGS, "Stop calling data_received."},
    {"resume_reading", taut_transport_m_resume_reading, METH_NOARGS, "Read again."},
    {"is_reading", taut_transport_m_is_reading, METH_NOARGS, "True unless paused or closing."},
    {"write", taut_transport_m_write, METH_O, "Send bytes, now or as soon as the peer reads."},
    {"writelines", taut_transport_m_writelines, METH_O, "Send an iterable of bytes-like objects."},
    {"write_eof", taut_transport_m_write_eof, METH_NOARGS, "Half-close after buffered data."},
    {"can_write_eof", taut_transport_m_can_write_eof, METH_NOARGS, "True."},
    {"get_write_buffer_size", taut_transport_m_buffer_size, METH_NOARGS, "Bytes not yet sent."},
    {"get_write_buffer_limits", taut_transport_m_limits, METH_NOARGS, "(low, high) in bytes."},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))taut_transport_m_set_limits,
     METH_VARARGS | METH_KEYWORDS, "Set the marks that pause and resume the protocol."},
    {NULL},
};

static PyMemberDef transport_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(taut_transport, dict), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_transport, weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot transport_slots[] = {
    {Py_tp_doc, "A connected TCP or Unix stream socket of a taut loop."},
    {Py_tp_traverse, transport_traverse},
    {Py_tp_clear, transport_clear},
    {Py_tp_finalize, transport_finalize},
    {Py_tp_dealloc, transport_dealloc},
    {Py_tp_repr, taut_transport_repr},
    {Py_tp_methods, transport_methods},
    {Py_tp_members, transport_members},
    {Py_tp_getset, taut_transport_getset},
    {0, NULL},
};

static PyType_Spec transport_spec = {
    .name = "taut._core.Transport",
    .basicsize = sizeof(taut_transport),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = transport_slots,
};

int taut_transport_mark_compatible(PyObject *type, const char *mode) {
    PyObject *constants = PyImport_ImportModule("asyncio.constants");
    PyObject *modes = constants ? PyObject_GetAttrString(constants, "_SendfileMode") : NULL;
    PyObject *value = modes ? PyObject_GetAttrString(modes, mode) : NULL;
    int rc = value ? PyObject_SetAttrString(type, "_sendfile_compatible", value) : -1;
    if (rc == 0)
        rc = PyObject_SetAttrString(type, "_start_tls_compatible", Py_True);
    Py_XDECREF(constants);
    Py_XDECREF(modes);
    Py_XDECREF(value);
    return rc;
}

int taut_transport_type_add(PyObject *module, taut_state *st) {
    PyTypeObject *base = (PyTypeObject *)st->base_transport;
    if (base->tp_basicsize != (Py_ssize_t)offsetof(taut_transport, dict) ||
        base->tp_dictoffset != 0 || base->tp_weaklistoffset != 0) {
        PyErr_SetString(PyExc_ImportError, "asyncio's transport classes have an unknown layout");
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &transport_spec, st->base_transport);
    if (type == NULL)
        return -1;
    st->transport_type = (PyTypeObject *)type;
    return taut_transport_mark_compatible(type, "TRY_NATIVE") < 0
               ? -1
               : PyModule_AddType(module, st->transport_type);
}
