/* taut._core.Transport: what it says about itself, and the attributes that asyncio's own code and
 * libraries look at. */
#include "binding/transport.h"
#include "binding/compat.h"

/* ---- addresses and the socket object ------------------------------------------------------- */

PyObject *taut_transport_socket(taut_transport *t) {
    if (t->sock != NULL || !t->open || t->stream.watch.fd < 0)
        return t->sock;
    taut_state *st = t->lp->st;
    PyObject *kwargs = Py_BuildValue("{si}", "fileno", t->stream.watch.fd);
    PyObject *no_args = kwargs ? PyTuple_New(0) : NULL;
    PyObject *sock = no_args ? PyObject_Call(st->socket_type, no_args, kwargs) : NULL;
    Py_XDECREF(no_args);
    Py_XDECREF(kwargs);
    if (sock == NULL)
        return NULL;
    /* From here on the object owns the fd. */
    t->sock = sock;
    t->stream.foreign_fd = 1;
    PyObject *r = PyObject_CallMethodOneArg(sock, st->str_setblocking, Py_False);
    if (r == NULL)
        return NULL;
    Py_DECREF(r);
    return sock;
}

static PyObject *make_info(taut_transport *t, PyObject *name) {
    taut_state *st = t->lp->st;
    if (PyUnicode_CompareWithASCIIString(name, "peername") == 0)
        return taut_addr_kept_object(&t->peer);
    if (PyUnicode_CompareWithASCIIString(name, "sockname") == 0)
        return taut_addr_kept_object(&t->local);
    if (PyUnicode_CompareWithASCIIString(name, "socket") == 0) {
        PyObject *sock = taut_transport_socket(t);
        return sock == NULL ? NULL : PyObject_CallOneArg(st->transport_socket, sock);
    }
    return NULL;
}

/* A new reference; NULL with or without an exception (unknown). Kept in `extra` once made. */
static PyObject *lookup(taut_transport *t, PyObject *name) {
    if (t->extra == NULL && (t->extra = PyDict_New()) == NULL)
        return NULL;
    PyObject *found = PyDict_GetItemWithError(t->extra, name);
    if (found != NULL || PyErr_Occurred() || !PyUnicode_Check(name))
        return Py_XNewRef(found);
    found = make_info(t, name);
    if (found != NULL && PyDict_SetItem(t->extra, name, found) < 0)
        Py_CLEAR(found);
    return found;
}

PyObject *taut_transport_m_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "default", NULL};
    PyObject *name, *fallback = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name, &fallback))
        return NULL;
    PyObject *found = lookup((taut_transport *)self, name);
    if (found == NULL && !PyErr_Occurred())
        found = Py_NewRef(fallback);
    return found;
}

/* ---- attributes ---------------------------------------------------------------------------- */

static PyObject *get_extra(PyObject *self, void *closure) {
    static const char *const names[] = {"socket", "sockname", "peername"};
    taut_transport *t = (taut_transport *)self;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        PyObject *name = PyUnicode_InternFromString(names[i]);
        PyObject *value = name ? lookup(t, name) : NULL;
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (value == NULL && PyErr_Occurred())
            return NULL;
    }
    return Py_NewRef(t->extra);
}

static PyObject *or_none(PyObject *obj) {
    return Py_NewRef(obj != NULL ? obj : Py_None);
}

static PyObject *get_loop(PyObject *self, void *closure) {
    taut_transport *t = (taut_transport *)self;
    return or_none(t->open ? (PyObject *)t->lp : NULL);
}
static PyObject *get_protocol(PyObject *self, void *closure) {
    return or_none(((taut_transport *)self)->protocol);
}
static int set_protocol(PyObject *self, PyObject *value, void *closure) {
    return taut_transport_set_protocol((taut_transport *)self, value != NULL ? value : Py_None);
}
static PyObject *get_sock(PyObject *self, void *closure) {
    taut_transport *t = (taut_transport *)self;
    PyObject *sock = t->open ? taut_transport_socket(t) : NULL;
    return sock == NULL && PyErr_Occurred() ? NULL : or_none(sock);
}
static PyObject *get_sock_fd(PyObject *self, void *closure) {
    return PyLong_FromLong(((taut_transport *)self)->fd);
}
static PyObject *get_server(PyObject *self, void *closure) {
    return or_none(((taut_transport *)self)->server);
}
static PyObject *get_paused(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_transport *)self)->paused);
}
static PyObject *get_eof(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_transport *)self)->stream.eof_requested);
}
static PyObject *get_conn_lost(PyObject *self, void *closure) {
    taut_transport *t = (taut_transport *)self;
    return PyLong_FromUnsignedLong(t->stream.lost || !t->open ? 1UL + t->dropped : 0UL);
}
static PyObject *get_closing(PyObject *self, void *closure) {
    taut_transport *t = (taut_transport *)self;
    return PyBool_FromLong(!t->open || t->stream.closing);
}
static PyObject *get_protocol_paused(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_transport *)self)->protocol_paused);
}

PyGetSetDef taut_transport_getset[] = {
    {"_extra", get_extra, NULL, "Everything get_extra_info() knows, as a dict."},
    {"_loop", get_loop, NULL, "The loop; None once the connection is lost."},
    {"_protocol", get_protocol, set_protocol, "The current protocol, or None."},
    {"_sock", get_sock, NULL, "The socket object; None once the connection is lost."},
    {"_sock_fd", get_sock_fd, NULL, "The file descriptor's number, also after closing."},
    {"_server", get_server, NULL, "The server that accepted it, or None."},
    {"_paused", get_paused, NULL, "True while reading is paused."},
    {"_eof", get_eof, NULL, "True after write_eof()."},
    {"_conn_lost", get_conn_lost, NULL, "0 while writes are sent."},
    {"_closing", get_closing, NULL, "True once closing has begun."},
    {"_protocol_paused", get_protocol_paused, NULL, "True after pause_writing()."},
    {NULL},
};

PyObject *taut_transport_repr(PyObject *self) {
    taut_transport *t = (taut_transport *)self;
    const char *name = strrchr(Py_TYPE(self)->tp_name, '.');
    name = name ? name + 1 : Py_TYPE(self)->tp_name;
    const char *state = !t->open ? " closed" : t->stream.closing ? " closing" : "";
    if (!t->open || t->orphan)
        return PyUnicode_FromFormat("<%s%s fd=%d>", name, state, t->fd);
    return PyUnicode_FromFormat("<%s%s fd=%d read=%s write=<%s, bufsize=%zu>>", name, state, t->fd,
                                t->stream.reading ? "polling" : "idle",
                                t->stream.watch.want & TAUT_WRITE ? "polling" : "idle",
                                t->stream.pending_size);
}
