/* taut._core.DatagramTransport: creation, closing, lifetime, the type. */
#include "binding/dgram_transport.h"
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"
#include "io/sock.h"

/* What a queued datagram counts beyond its bytes: asyncio has it since 3.13. */
#define HEADER_SIZE (PY_VERSION_HEX >= 0x030D0000 ? 8 : 0)

/* ---- lifetime ---------------------------------------------------------------------------- */

static int wants_hold(const taut_endpoint *t) {
    return t->open && !t->orphan &&
           (t->starting || t->d.reading || t->d.queue_count > 0 || t->d.closing);
}

static void release_hold(void *arg) {
    taut_endpoint *t = arg;
    t->release_queued = 0;
    if (!wants_hold(t))
        taut_member_release(&t->member);
}

void taut_endpoint_update_hold(taut_endpoint *t) {
    if (wants_hold(t)) {
        taut_member_hold(&t->member);
    } else if (t->member.held && t->open && !t->release_queued) {
        /* Later: a callback of the core may be running, and its struct is part of us. */
        t->release_queued = taut_loop_call_soon(&t->lp->core, release_hold, t) == 0;
    }
}

int taut_endpoint_check(taut_endpoint *t) {
    if (TAUT_UNLIKELY(t->orphan))
        return taut_pyloop_check_closed(t->lp);
    return 0;
}

/* Leaves `t` without its socket: after connection_lost, or abandoned. */
static void release_socket(taut_endpoint *t) {
    PyObject *sock = t->sock;
    t->open = 0;
    t->sock = NULL;
    taut_fdtable_unclaim(t->lp, t->fd, (PyObject *)t);
    if (sock != NULL) {
        PyObject *r = PyObject_CallMethodNoArgs(sock, t->lp->st->str_close);
        if (r == NULL)
            taut_pyloop_unhandled(t->lp, "socket.close() failed", "transport", (PyObject *)t);
        Py_XDECREF(r);
        Py_DECREF(sock);
    }
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->close_exc);
    Py_CLEAR(t->sender);
}

static void on_closed(taut_dgram *d, int err) {
    taut_endpoint *t = taut_endpoint_of(d);
    Py_INCREF((PyObject *)t);
    PyObject *exc = t->close_exc;
    t->close_exc = NULL;
    if (exc == NULL)
        exc = err == 0 ? Py_NewRef(Py_None) : taut_err_exception(err);
    PyObject *args[3] = {NULL, NULL, exc};
    PyObject *r =
        exc == NULL ? NULL : taut_endpoint_call(t, t->lp->st->str_connection_lost, args + 1, 2);
    if (r == NULL)
        taut_pyloop_unhandled(t->lp, "Exception in callback protocol.connection_lost()",
                              "transport", (PyObject *)t);
    Py_XDECREF(r);
    Py_XDECREF(exc);
    release_socket(t);
    taut_member_remove(&t->member);
    Py_DECREF((PyObject *)t);
}

static const taut_dgram_ops dgram_ops = {
    .received = taut_endpoint_on_received,
    .readable = taut_endpoint_on_readable,
    .send_own = taut_endpoint_on_send_own,
    .error = taut_endpoint_on_error,
    .pause_writing = taut_endpoint_on_pause,
    .resume_writing = taut_endpoint_on_resume,
    .closed = on_closed,
    .release = taut_endpoint_on_release,
};

/* The loop closes under an open transport: what it still has is given back when it is dropped. */
static void on_orphan(PyObject *self) {
    taut_endpoint *t = (taut_endpoint *)self;
    t->orphan = 1;
    t->d.reading = 0;
    taut_loop_undefer(&t->d.flush);
    if (t->lp->core.poller != NULL)
        taut_poller_remove(t->lp->core.poller, &t->d.watch, 1);
}

/* ---- creation ---------------------------------------------------------------------------- */

static void on_start(void *arg) {
    taut_endpoint *t = arg;
    t->starting = 0;
    taut_endpoint_start_reading(t);
    PyObject *waiter = t->waiter;
    t->waiter = NULL;
    if (waiter != NULL)
        taut_pyloop_future_result(t->lp, waiter, Py_None);
    Py_XDECREF(waiter);
    taut_endpoint_update_hold(t);
}

static int schedule_start(taut_endpoint *t) {
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
    return 0;
}

static int is_closing(PyObject *self) {
    return ((taut_endpoint *)self)->d.closing;
}

static int take_address(taut_endpoint *t, PyObject *address) {
    int given = PyObject_IsTrue(address);
    if (given > 0) {
        t->address = Py_NewRef(address);
        t->d.connected = 1;
    }
    return given < 0 ? -1 : 0;
}

/* Whether `peername` is one that asyncio takes for a connected socket. */
static int take_peer(taut_endpoint *t) {
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    t->has_peer = taut_sock_peer(t->fd, (struct sockaddr *)&peer, &size) == 0;
    PyObject *name = PyDict_GetItemWithError(t->extra, t->lp->st->str_peername);
    int named = name != NULL ? PyObject_IsTrue(name) : PyErr_Occurred() ? -1 : 0;
    t->to_peer = named > 0;
    return named < 0 ? -1 : 0;
}

static taut_endpoint *endpoint_alloc(taut_pyloop *lp, int fd, PyObject *sock, PyObject *protocol) {
    PyTypeObject *type = lp->st->dgram_type;
    taut_endpoint *t = (taut_endpoint *)type->tp_alloc(type, 0); /* zeroed */
    if (t == NULL)
        return NULL;
    t->lp = (taut_pyloop *)Py_NewRef((PyObject *)lp);
    t->fd = fd;
    t->family = taut_sock_family(fd);
    t->sock = Py_NewRef(sock);
    t->protocol = Py_NewRef(protocol);
    taut_list_init(&t->member.link);
    taut_dgram_open(&t->d, &lp->core, fd, t->family, &dgram_ops);
    t->d.foreign_fd = 1;
    t->d.header_size = HEADER_SIZE;
    t->d.own_io = t->family != AF_INET && t->family != AF_INET6 && t->family != AF_UNIX;
    return t;
}

static PyObject *make_datagram_transport(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"sock", "protocol", "address", "waiter", "extra", NULL};
    taut_pyloop *lp = (taut_pyloop *)self;
    PyObject *sock, *protocol, *address = Py_None, *waiter = Py_None, *extra = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OOO:_make_datagram_transport", names, &sock,
                                     &protocol, &address, &waiter, &extra))
        return NULL;
    int fd = taut_args_fd(sock);
    if (fd < 0 || taut_pyloop_check_closed(lp) < 0 || taut_fdtable_check_free(lp, fd, sock) < 0)
        return NULL;
    taut_endpoint *t = endpoint_alloc(lp, fd, sock, protocol);
    if (t == NULL)
        return NULL;
    t->context = PyContext_CopyCurrent();
    if (t->context == NULL || taut_endpoint_fill_extra(t, extra) < 0 || take_peer(t) < 0 ||
        take_address(t, address) < 0 || taut_fdtable_claim(lp, fd, (PyObject *)t, is_closing) < 0 ||
        schedule_start(t) < 0) {
        taut_fdtable_unclaim(lp, fd, (PyObject *)t);
        Py_DECREF((PyObject *)t); /* the socket is the caller's still */
        return NULL;
    }
    t->waiter = waiter != Py_None ? Py_NewRef(waiter) : NULL;
    t->made_at = taut_debug_made_at(lp);
    t->open = 1;
    taut_member_add(lp, &t->member, (PyObject *)t, on_orphan);
    taut_endpoint_update_hold(t);
    return (PyObject *)t;
}

PyMethodDef taut_loop_dgram_methods[] = {
    {"_make_datagram_transport", (PyCFunction)(void (*)(void))make_datagram_transport,
     METH_VARARGS | METH_KEYWORDS,
     "_make_datagram_transport(sock, protocol, address=None, waiter=None, extra=None)\n\n"
     "A transport over a non-blocking datagram socket, which it closes in the end."},
    {NULL},
};

/* ---- callbacks into the protocol, errors ------------------------------------------------- */

PyObject *taut_endpoint_call(taut_endpoint *t, PyObject *name, PyObject **args, size_t nargs) {
    PyObject *protocol = Py_XNewRef(t->protocol);
    if (protocol == NULL)
        Py_RETURN_NONE;
    args[0] = protocol;
    PyObject *r = NULL;
    if (t->in_call) { /* user code called us: its context is the right one */
        r = PyObject_VectorcallMethod(name, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    } else if (taut_pyloop_call_begin(t->lp, t->context, (PyObject *)t) == 0) {
        uint64_t began_ns = taut_debug_time(t->lp);
        r = PyObject_VectorcallMethod(name, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        taut_pyloop_call_end(t->lp, t->context);
        taut_debug_timed(t->lp, began_ns, protocol, name, (PyObject *)t);
    }
    Py_DECREF(protocol);
    return r;
}

static void report(taut_endpoint *t, PyObject *exc, const char *message) {
    PyObject *context =
        Py_BuildValue("{sssOsOsO}", "message", message, "exception", exc, "transport",
                      (PyObject *)t, "protocol", t->protocol != NULL ? t->protocol : Py_None);
    PyObject *r = context == NULL
                      ? NULL
                      : PyObject_CallMethodOneArg((PyObject *)t->lp,
                                                  t->lp->st->str_call_exception_handler, context);
    if (r == NULL)
        taut_pyloop_unhandled(t->lp, message, "transport", (PyObject *)t);
    Py_XDECREF(context);
    Py_XDECREF(r);
}

void taut_endpoint_tell(taut_endpoint *t, PyObject *name, PyObject **args, size_t nargs,
                        const char *message) {
    PyObject *r = taut_endpoint_call(t, name, args, nargs);
    if (TAUT_LIKELY(r != NULL)) {
        Py_DECREF(r);
        return;
    }
    if (taut_pyloop_take_exit(t->lp))
        return;
    PyObject *exc = taut_exception_take();
    report(t, exc, message);
    Py_DECREF(exc);
}

void taut_endpoint_force_close(taut_endpoint *t, PyObject *exc) {
    taut_endpoint_send_held(t);
    if (!t->open || t->orphan || t->d.lost)
        return;
    Py_XSETREF(t->close_exc, exc != NULL && exc != Py_None ? Py_NewRef(exc) : NULL);
    taut_dgram_abort(&t->d, 0);
    taut_endpoint_update_hold(t);
}

void taut_endpoint_fatal(taut_endpoint *t, PyObject *exc, const char *message) {
    if (PyErr_GivenExceptionMatches(exc, PyExc_OSError))
        taut_debug_log(t->lp, "%r: %s", (PyObject *)t, message, exc);
    else
        report(t, exc, message);
    taut_endpoint_force_close(t, exc);
}

void taut_endpoint_fatal_raised(taut_endpoint *t, const char *message) {
    if (taut_pyloop_take_exit(t->lp))
        return;
    PyObject *exc = taut_exception_take();
    taut_endpoint_fatal(t, exc, message);
    Py_DECREF(exc);
}

/* ---- methods ----------------------------------------------------------------------------- */

static PyObject *m_is_closing(PyObject *self, PyObject *unused) {
    taut_endpoint *t = (taut_endpoint *)self;
    return PyBool_FromLong(!t->open || t->d.closing);
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    taut_endpoint *t = (taut_endpoint *)self;
    if (!t->open || t->d.closing)
        Py_RETURN_NONE;
    if (t->orphan && t->d.queue_count > 0) { /* as asyncio: it would close once sent */
        t->d.closing = 1;
        Py_RETURN_NONE;
    }
    if (taut_endpoint_check(t) < 0)
        return NULL;
    taut_endpoint_send_held(t); /* once it is sent, nothing can be sent any more */
    taut_dgram_close(&t->d);
    taut_endpoint_update_hold(t);
    Py_RETURN_NONE;
}

static PyObject *force_close(taut_endpoint *t, PyObject *exc) {
    if (t->open && !t->d.lost && taut_endpoint_check(t) < 0)
        return NULL;
    taut_endpoint_force_close(t, exc);
    Py_RETURN_NONE;
}

static PyObject *m_abort(PyObject *self, PyObject *unused) {
    return force_close((taut_endpoint *)self, NULL);
}

static PyObject *m_force_close(PyObject *self, PyObject *exc) {
    return force_close((taut_endpoint *)self, exc);
}

static PyObject *m_fatal_error(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"exc", "message", NULL};
    PyObject *exc;
    const char *message = "Fatal error on transport";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|s:_fatal_error", names, &exc, &message))
        return NULL;
    taut_endpoint_fatal((taut_endpoint *)self, exc, message);
    Py_RETURN_NONE;
}

static PyObject *m_set_protocol(PyObject *self, PyObject *protocol) {
    Py_XSETREF(((taut_endpoint *)self)->protocol, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

static PyObject *m_get_protocol(PyObject *self, PyObject *unused) {
    PyObject *protocol = ((taut_endpoint *)self)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

/* ---- the type ---------------------------------------------------------------------------- */

static int endpoint_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_endpoint *t = (taut_endpoint *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->extra);
    for (size_t i = 0; i < sizeof t->unused_slots / sizeof *t->unused_slots; i++)
        Py_VISIT(t->unused_slots[i]);
    Py_VISIT(t->dict);
    Py_VISIT((PyObject *)t->lp);
    Py_VISIT(t->protocol);
    Py_VISIT(t->context);
    Py_VISIT(t->sock);
    Py_VISIT(t->address);
    Py_VISIT(t->waiter);
    Py_VISIT(t->made_at);
    Py_VISIT(t->close_exc);
    Py_VISIT(t->sender);
    return 0;
}

static int endpoint_clear(PyObject *self) {
    taut_endpoint *t = (taut_endpoint *)self;
    Py_CLEAR(t->extra);
    for (size_t i = 0; i < sizeof t->unused_slots / sizeof *t->unused_slots; i++)
        Py_CLEAR(t->unused_slots[i]);
    Py_CLEAR(t->dict);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->context);
    Py_CLEAR(t->address);
    Py_CLEAR(t->waiter);
    Py_CLEAR(t->made_at);
    Py_CLEAR(t->close_exc);
    Py_CLEAR(t->sender);
    return 0;
}

static void endpoint_finalize(PyObject *self) {
    taut_endpoint *t = (taut_endpoint *)self;
    if (!t->open || (t->d.closed_scheduled && !t->lp->closed)) /* see transport_finalize */
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    taut_debug_unclosed(self, "transport", t->made_at);
    taut_dgram_discard(&t->d);
    release_socket(t);
    taut_member_remove(&t->member);
    PyErr_Restore(type, value, traceback);
}

static void endpoint_dealloc(PyObject *self) {
    taut_endpoint *t = (taut_endpoint *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* resurrected */
    PyObject_GC_UnTrack(self);
    if (t->weaklist != NULL)
        PyObject_ClearWeakRefs(self);
    (void)endpoint_clear(self);
    Py_CLEAR(t->sock);
    Py_XDECREF((PyObject *)t->lp);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void)) f, METH_VARARGS | METH_KEYWORDS
static PyMethodDef endpoint_methods[] = {
    {"sendto", (PyCFunction)(void (*)(void))taut_endpoint_m_sendto, METH_FASTCALL | METH_KEYWORDS,
     "sendto($self, /, data, addr=None)\n--\n\n"
     "Send a datagram to addr (None: the connected peer), now or before this turn of the loop "
     "ends.\nErrors of the system go to error_received()."},
    {"is_closing", m_is_closing, METH_NOARGS, "True once closing has begun."},
    {"close", m_close, METH_NOARGS, "Close after what is queued has been sent."},
    {"abort", m_abort, METH_NOARGS, "Close at once; queued datagrams are lost."},
    {"_force_close", m_force_close, METH_O, "Close at once, telling the protocol why."},
    {"_fatal_error", KEYWORDS(m_fatal_error), "Report an error and close at once."},
    {"get_extra_info", KEYWORDS(taut_endpoint_m_get_extra_info),
     "The socket, sockname, peername, or the default."},
    {"set_protocol", m_set_protocol, METH_O, "Switch to another protocol."},
    {"get_protocol", m_get_protocol, METH_NOARGS, "The current protocol."},
    {"pause_reading", taut_endpoint_m_pause_reading, METH_NOARGS,
     "Stop calling datagram_received."},
    {"resume_reading", taut_endpoint_m_resume_reading, METH_NOARGS, "Read again."},
    {"is_reading", taut_endpoint_m_is_reading, METH_NOARGS, "True unless paused or closing."},
    {"get_write_buffer_size", taut_endpoint_m_buffer_size, METH_NOARGS,
     "Bytes not yet sent; from Python 3.13 on, 8 more for each datagram."},
    {"get_write_buffer_limits", taut_endpoint_m_limits, METH_NOARGS, "(low, high) in bytes."},
    {"set_write_buffer_limits", KEYWORDS(taut_endpoint_m_set_limits),
     "Set the marks that pause and resume the protocol."},
    {NULL},
};

static PyMemberDef endpoint_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(taut_endpoint, dict), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_endpoint, weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot endpoint_slots[] = {
    {Py_tp_doc, "A datagram socket of a taut loop."},
    {Py_tp_traverse, endpoint_traverse},
    {Py_tp_clear, endpoint_clear},
    {Py_tp_finalize, endpoint_finalize},
    {Py_tp_dealloc, endpoint_dealloc},
    {Py_tp_repr, taut_endpoint_repr},
    {Py_tp_methods, endpoint_methods},
    {Py_tp_members, endpoint_members},
    {Py_tp_getset, taut_endpoint_getset},
    {0, NULL},
};

static PyType_Spec endpoint_spec = {
    .name = "taut._core.DatagramTransport",
    .basicsize = sizeof(taut_endpoint),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = endpoint_slots,
};

int taut_dgram_type_add(PyObject *module, taut_state *st) {
    PyTypeObject *base = (PyTypeObject *)st->base_transport;
    if (base->tp_basicsize != (Py_ssize_t)offsetof(taut_endpoint, dict) ||
        base->tp_dictoffset != 0 || base->tp_weaklistoffset != 0) {
        PyErr_SetString(PyExc_ImportError, "asyncio's transport classes have an unknown layout");
        return -1;
    }
    PyObject *bases = PyTuple_Pack(2, st->base_transport, st->datagram_transport);
    PyObject *type = bases == NULL ? NULL : PyType_FromModuleAndSpec(module, &endpoint_spec, bases);
    Py_XDECREF(bases);
    st->dgram_type = (PyTypeObject *)type;
    return type == NULL ? -1 : PyModule_AddType(module, st->dgram_type);
}
