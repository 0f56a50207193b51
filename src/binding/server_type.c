/* taut._core.Server: methods, attributes, lifetime. */
#include "binding/server_type.h"
#include "binding/compat.h"
#include "binding/debug.h"

static PyObject *m_start_serving(PyObject *self, PyObject *unused) {
    if (taut_server_start((taut_server *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    if (taut_server_close((taut_server *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- what the Python part asks --------------------------------------------------------------- */

static PyObject *m_closed_waiter(PyObject *self, PyObject *unused) {
    taut_server *sv = (taut_server *)self;
    /* The version that runs, which need not be the one we were built with. Up to 3.11 a closed
     * server is not waited for; 3.12.0 waits for connections alone, 3.12.1 for both. */
    unsigned long version = Py_Version >> 8;
    if (sv->waiters == NULL || (version < 0x030C00 && sv->sockets == NULL) ||
        (version == 0x030C00 && sv->client_count == 0))
        Py_RETURN_NONE;
    PyObject *future = taut_pyloop_new_future(sv->lp);
    if (future != NULL && PyList_Append(sv->waiters, future) < 0)
        Py_CLEAR(future);
    return future;
}

static PyObject *m_attach(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    ((taut_server *)self)->client_count++;
    Py_RETURN_NONE;
}

static PyObject *m_detach(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    taut_server *sv = (taut_server *)self;
    if (sv->client_count > 0)
        taut_server_client_gone(sv);
    Py_RETURN_NONE;
}

static PyObject *for_each_client(taut_server *sv, PyObject *name) {
    PyObject *clients = PyList_New(0);
    if (clients == NULL)
        return NULL;
    for (taut_list *l = sv->clients.next; l != &sv->clients; l = l->next) {
        taut_transport *t = TAUT_CONTAINER(l, taut_transport, server_link);
        /* With TLS the protocol is what the user knows as the transport. */
        if (PyList_Append(clients, t->layer != NULL ? t->protocol : (PyObject *)t) < 0) {
            Py_DECREF(clients);
            return NULL;
        }
    }
    PyObject *result = Py_NewRef(Py_None);
    for (Py_ssize_t i = 0; result != NULL && i < PyList_GET_SIZE(clients); i++) {
        PyObject *r = PyObject_CallMethodNoArgs(PyList_GET_ITEM(clients, i), name);
        if (r == NULL)
            Py_CLEAR(result);
        Py_XDECREF(r);
    }
    Py_DECREF(clients);
    return result;
}

static PyObject *m_close_clients(PyObject *self, PyObject *unused) {
    taut_server *sv = (taut_server *)self;
    return for_each_client(sv, sv->lp->st->str_close);
}

static PyObject *m_abort_clients(PyObject *self, PyObject *unused) {
    taut_server *sv = (taut_server *)self;
    return for_each_client(sv, sv->lp->st->str_abort);
}

static PyObject *m_get_loop(PyObject *self, PyObject *unused) {
    return Py_NewRef((PyObject *)((taut_server *)self)->lp);
}

static PyObject *m_is_serving(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(((taut_server *)self)->serving);
}

static PyObject *get_sockets(PyObject *self, void *closure) {
    taut_server *sv = (taut_server *)self;
    Py_ssize_t count = sv->sockets != NULL ? PyList_GET_SIZE(sv->sockets) : 0;
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *shown =
            PyObject_CallOneArg(sv->lp->st->transport_socket, PyList_GET_ITEM(sv->sockets, i));
        if (shown == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, shown);
    }
    return tuple;
}

static PyObject *get_raw_sockets(PyObject *self, void *closure) {
    taut_server *sv = (taut_server *)self;
    return Py_NewRef(sv->sockets != NULL ? sv->sockets : Py_None);
}

static PyObject *get_waiters(PyObject *self, void *closure) {
    taut_server *sv = (taut_server *)self;
    return Py_NewRef(sv->waiters != NULL ? sv->waiters : Py_None);
}

static PyObject *get_active_count(PyObject *self, void *closure) {
    return PyLong_FromSsize_t(((taut_server *)self)->client_count);
}

static PyObject *server_repr(PyObject *self) {
    PyObject *sockets = PyObject_GetAttrString(self, "sockets");
    const char *name = strrchr(Py_TYPE(self)->tp_name, '.');
    PyObject *repr = sockets == NULL
                         ? NULL
                         : PyUnicode_FromFormat("<%s sockets=%R>",
                                                name ? name + 1 : Py_TYPE(self)->tp_name, sockets);
    Py_XDECREF(sockets);
    return repr;
}

/* ---- the type -------------------------------------------------------------------------------- */

static PyObject *server_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"loop",
                            "sockets",
                            "protocol_factory",
                            "ssl_context",
                            "backlog",
                            "ssl_handshake_timeout",
                            "ssl_shutdown_timeout",
                            NULL};
    PyObject *loop, *sockets, *factory, *ssl_context = Py_None, *handshake = Py_None,
                                        *shutdown = Py_None;
    int backlog = 100;
    taut_state *st = taut_state_of_type(type);
    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO|OiOO:Server", names,
                                                   st->loop_type, &loop, &sockets, &factory,
                                                   &ssl_context, &backlog, &handshake, &shutdown))
        return NULL;
    taut_server *sv = (taut_server *)type->tp_alloc(type, 0); /* zeroed */
    if (sv == NULL)
        return NULL;
    taut_list_init(&sv->clients);
    taut_list_init(&sv->member.link);
    sv->lp = (taut_pyloop *)Py_NewRef(loop);
    sv->protocol_factory = Py_NewRef(factory);
    sv->ssl_context = Py_NewRef(ssl_context);
    sv->ssl_handshake_timeout = Py_NewRef(handshake);
    sv->ssl_shutdown_timeout = Py_NewRef(shutdown);
    sv->serving_forever_fut = Py_NewRef(Py_None);
    sv->backlog = backlog;
    sv->made_at = taut_debug_made_at(sv->lp);
    sv->sockets = PySequence_List(sockets);
    sv->waiters = PyList_New(0);
    if (sv->sockets == NULL || sv->waiters == NULL)
        Py_CLEAR(sv);
    return (PyObject *)sv;
}

static int server_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_server *sv = (taut_server *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)sv->lp);
    Py_VISIT(sv->sockets);
    Py_VISIT(sv->protocol_factory);
    Py_VISIT(sv->ssl_context);
    Py_VISIT(sv->ssl_handshake_timeout);
    Py_VISIT(sv->ssl_shutdown_timeout);
    Py_VISIT(sv->context);
    Py_VISIT(sv->waiters);
    Py_VISIT(sv->serving_forever_fut);
    Py_VISIT(sv->made_at);
    for (Py_ssize_t i = 0; i < sv->listener_count; i++)
        Py_VISIT(sv->listeners[i]->sock);
    return 0;
}

static int server_clear(PyObject *self) {
    taut_server *sv = (taut_server *)self;
    Py_CLEAR(sv->sockets);
    Py_CLEAR(sv->protocol_factory);
    Py_CLEAR(sv->ssl_context);
    Py_CLEAR(sv->ssl_handshake_timeout);
    Py_CLEAR(sv->ssl_shutdown_timeout);
    Py_CLEAR(sv->context);
    Py_CLEAR(sv->waiters);
    Py_CLEAR(sv->serving_forever_fut);
    Py_CLEAR(sv->made_at);
    return 0;
}

static int is_open(taut_server *sv, PyObject *sock) {
    PyObject *fd = PyObject_CallMethodNoArgs(sock, sv->lp->st->str_fileno);
    int open = fd != NULL && PyLong_AsLong(fd) >= 0;
    Py_XDECREF(fd);
    PyErr_Clear();
    return open;
}

/* Dropped unclosed, and so are its sockets, unless they were the user's: those may be in use. */
static void server_finalize(PyObject *self) {
    taut_server *sv = (taut_server *)self;
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    PyObject *sockets = sv->made_sockets ? sv->sockets : NULL;
    for (Py_ssize_t i = 0; sockets != NULL && i < PyList_GET_SIZE(sockets); i++) {
        if (is_open(sv, PyList_GET_ITEM(sockets, i))) {
            taut_debug_unclosed(self, "server", sv->made_at);
            break;
        }
    }
    if (exc != NULL)
        taut_exception_restore(exc);
}

static void server_dealloc(PyObject *self) {
    taut_server *sv = (taut_server *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* resurrected */
    PyObject_GC_UnTrack(self);
    if (sv->weaklist != NULL)
        PyObject_ClearWeakRefs(self);
    (void)server_clear(self);
    Py_XDECREF((PyObject *)sv->lp);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef server_methods[] = {
    {"_start_serving", m_start_serving, METH_NOARGS, "Listen and accept; idempotent."},
    {"close", m_close, METH_NOARGS, "Stop listening; open connections go on."},
    {"_closed_waiter", m_closed_waiter, METH_NOARGS, "What wait_closed() awaits, or None."},
    {"_attach", (PyCFunction)(void (*)(void))m_attach, METH_FASTCALL, "Count a connection."},
    {"_detach", (PyCFunction)(void (*)(void))m_detach, METH_FASTCALL, "Discount a connection."},
    {"close_clients", m_close_clients, METH_NOARGS, "Call close() on every connection."},
    {"abort_clients", m_abort_clients, METH_NOARGS, "Call abort() on every connection."},
    {"get_loop", m_get_loop, METH_NOARGS, "The loop."},
    {"is_serving", m_is_serving, METH_NOARGS, "True while it accepts connections."},
    {NULL},
};

static PyGetSetDef server_getset[] = {
    {"sockets", get_sockets, NULL, "The listening sockets, as TransportSocket objects."},
    {"_sockets", get_raw_sockets, NULL, "The listening socket objects; None once closed."},
    {"_waiters", get_waiters, NULL, "Futures of wait_closed(); None once woken."},
    {"_active_count", get_active_count, NULL, "Open connections."},
    {NULL},
};

static PyMemberDef server_members[] = {
    {"_ssl_context", Py_T_OBJECT_EX, offsetof(taut_server, ssl_context), Py_READONLY},
    {"_ssl_handshake_timeout", Py_T_OBJECT_EX, offsetof(taut_server, ssl_handshake_timeout),
     Py_READONLY},
    {"_ssl_shutdown_timeout", Py_T_OBJECT_EX, offsetof(taut_server, ssl_shutdown_timeout),
     Py_READONLY},
    {"_protocol_factory", Py_T_OBJECT_EX, offsetof(taut_server, protocol_factory), Py_READONLY},
    {"_serving_forever_fut", Py_T_OBJECT_EX, offsetof(taut_server, serving_forever_fut), 0},
    {"_made_sockets", Py_T_INT, offsetof(taut_server, made_sockets), 0},
    {"_backlog", Py_T_INT, offsetof(taut_server, backlog), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_server, weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot server_slots[] = {
    {Py_tp_doc, "A listening server; taut.server.Server adds the coroutine methods."},
    {Py_tp_new, server_new},
    {Py_tp_traverse, server_traverse},
    {Py_tp_clear, server_clear},
    {Py_tp_finalize, server_finalize},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_repr, server_repr},
    {Py_tp_methods, server_methods},
    {Py_tp_members, server_members},
    {Py_tp_getset, server_getset},
    {0, NULL},
};

static PyType_Spec server_spec = {
    .name = "taut._core.Server",
    .basicsize = sizeof(taut_server),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = server_slots,
};

int taut_server_type_add(PyObject *module, taut_state *st) {
    st->server_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &server_spec, NULL);
    return st->server_type == NULL ? -1 : PyModule_AddType(module, st->server_type);
}
