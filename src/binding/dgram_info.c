/* taut._core.DatagramTransport: what it says about itself, and the attributes that libraries look
 * at. */
#include "binding/dgram_transport.h"
#include "binding/compat.h"

static int put(PyObject *extra, const char *key, PyObject *value) {
    if (value == NULL)
        return -1;
    int rc = PyDict_SetItemString(extra, key, value);
    Py_DECREF(value);
    return rc;
}

static PyObject *ask_or_none(PyObject *sock, PyObject *name) {
    PyObject *r = PyObject_CallMethodNoArgs(sock, name);
    if (r == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return r;
}

int taut_endpoint_fill_extra(taut_endpoint *t, PyObject *given) {
    taut_state *st = t->lp->st;
    t->extra = PyDict_New();
    if (t->extra == NULL || (given != Py_None && PyDict_Update(t->extra, given) < 0) ||
        put(t->extra, "socket", PyObject_CallOneArg(st->transport_socket, t->sock)) < 0 ||
        put(t->extra, "sockname", ask_or_none(t->sock, st->str_getsockname)) < 0)
        return -1;
    int has = PyDict_Contains(t->extra, st->str_peername);
    if (has == 0)
        return put(t->extra, "peername", ask_or_none(t->sock, st->str_getpeername));
    return has < 0 ? -1 : 0;
}

PyObject *taut_endpoint_m_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "default", NULL};
    PyObject *name, *fallback = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name, &fallback))
        return NULL;
    PyObject *extra = ((taut_endpoint *)self)->extra; /* NULL: the collector has been here */
    PyObject *found = extra == NULL ? NULL : PyDict_GetItemWithError(extra, name);
    if (found == NULL && !PyErr_Occurred())
        found = fallback;
    return Py_XNewRef(found);
}

static PyObject *or_none(PyObject *obj) {
    return Py_NewRef(obj != NULL ? obj : Py_None);
}
static PyObject *get_extra(PyObject *self, void *closure) {
    return or_none(((taut_endpoint *)self)->extra);
}
static PyObject *get_loop(PyObject *self, void *closure) {
    taut_endpoint *t = (taut_endpoint *)self;
    return or_none(t->open ? (PyObject *)t->lp : NULL);
}
static PyObject *get_protocol(PyObject *self, void *closure) {
    return or_none(((taut_endpoint *)self)->protocol);
}
static int set_protocol(PyObject *self, PyObject *value, void *closure) {
    Py_XSETREF(((taut_endpoint *)self)->protocol, Py_NewRef(value != NULL ? value : Py_None));
    return 0;
}
static PyObject *get_sock(PyObject *self, void *closure) {
    return or_none(((taut_endpoint *)self)->sock);
}
static PyObject *get_sock_fd(PyObject *self, void *closure) {
    return PyLong_FromLong(((taut_endpoint *)self)->fd);
}
static PyObject *get_address(PyObject *self, void *closure) {
    return or_none(((taut_endpoint *)self)->address);
}
static PyObject *get_conn_lost(PyObject *self, void *closure) {
    taut_endpoint *t = (taut_endpoint *)self;
    return PyLong_FromUnsignedLong(t->d.lost || !t->open ? 1UL + t->dropped : 0UL);
}
static PyObject *get_closing(PyObject *self, void *closure) {
    taut_endpoint *t = (taut_endpoint *)self;
    return PyBool_FromLong(!t->open || t->d.closing);
}
static PyObject *get_protocol_paused(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_endpoint *)self)->protocol_paused);
}
static PyObject *get_paused(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_endpoint *)self)->paused);
}

PyGetSetDef taut_endpoint_getset[] = {
    {"_extra", get_extra, NULL, "Everything get_extra_info() knows, as a dict."},
    {"_loop", get_loop, NULL, "The loop; None once the transport is closed."},
    {"_protocol", get_protocol, set_protocol, "The current protocol, or None."},
    {"_sock", get_sock, NULL, "The socket object; None once the transport is closed."},
    {"_sock_fd", get_sock_fd, NULL, "The file descriptor's number, also after closing."},
    {"_address", get_address, NULL, "The endpoint's remote address, or None."},
    {"_conn_lost", get_conn_lost, NULL, "0 while datagrams are sent."},
    {"_closing", get_closing, NULL, "True once closing has begun."},
    {"_paused", get_paused, NULL, "True while reading is paused."},
    {"_protocol_paused", get_protocol_paused, NULL, "True after pause_writing()."},
    {NULL},
};

PyObject *taut_endpoint_repr(PyObject *self) {
    taut_endpoint *t = (taut_endpoint *)self;
    const char *name = strrchr(Py_TYPE(self)->tp_name, '.');
    name = name ? name + 1 : Py_TYPE(self)->tp_name;
    const char *state = !t->open ? " closed" : t->d.closing ? " closing" : "";
    if (!t->open || t->orphan)
        return PyUnicode_FromFormat("<%s%s fd=%d>", name, state, t->fd);
    return PyUnicode_FromFormat("<%s%s fd=%d read=%s write=<%s, bufsize=%zu>>", name, state, t->fd,
                                t->d.reading ? "polling" : "idle",
                                t->d.watch.want & TAUT_WRITE ? "polling" : "idle",
                                t->d.pending_size);
}
