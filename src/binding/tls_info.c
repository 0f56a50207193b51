/* taut._core.SSLTransport: what it says about itself, and the attributes that asyncio's own code
 * and libraries look at. */
#include "binding/tls_transport.h"
#include "binding/compat.h"

/* What an ssl.SSLObject is asked for, at the first question: most connections never are. */
static PyObject *ask(taut_tls_transport *c, PyObject *method) {
    return PyObject_CallMethodNoArgs(c->sslobject, method);
}

/* A new reference; NULL with or without an exception (not ours to know). */
static PyObject *make_info(taut_tls_transport *c, const char *name) {
    taut_state *st = c->lp->st;
    if (strcmp(name, "sslcontext") == 0)
        return Py_NewRef(c->sslcontext);
    if (strcmp(name, "tls_path") == 0)
        return PyUnicode_FromString(c->memory_in != NULL ? "memory" : "direct");
    if (!c->secured)
        return NULL;
    if (strcmp(name, "ssl_object") == 0)
        return Py_NewRef(c->sslobject);
    if (strcmp(name, "peercert") == 0)
        return ask(c, st->str_getpeercert);
    if (strcmp(name, "cipher") == 0)
        return ask(c, st->str_cipher);
    if (strcmp(name, "compression") == 0)
        return ask(c, st->str_compression);
    return NULL;
}

static PyObject *lookup(taut_tls_transport *c, PyObject *name) {
    if (c->extra == NULL && (c->extra = PyDict_New()) == NULL)
        return NULL;
    PyObject *found = PyDict_GetItemWithError(c->extra, name);
    if (found != NULL || PyErr_Occurred() || !PyUnicode_Check(name))
        return Py_XNewRef(found);
    const char *text = PyUnicode_AsUTF8(name);
    found = text == NULL ? NULL : make_info(c, text);
    if (found != NULL && PyDict_SetItem(c->extra, name, found) < 0)
        Py_CLEAR(found);
    return found;
}

PyObject *taut_tls_m_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "default", NULL};
    taut_tls_transport *c = (taut_tls_transport *)self;
    PyObject *name, *fallback = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name, &fallback))
        return NULL;
    PyObject *found = lookup(c, name);
    if (found != NULL || PyErr_Occurred())
        return found;
    if (c->lower == NULL)
        return Py_NewRef(fallback);
    return taut_transport_m_get_extra_info((PyObject *)c->lower, args, kwargs);
}

static PyObject *or_none(PyObject *obj) {
    return Py_NewRef(obj != NULL ? obj : Py_None);
}
static PyObject *get_protocol(PyObject *self, void *closure) {
    return or_none(((taut_tls_transport *)self)->protocol);
}
static PyObject *get_lower(PyObject *self, void *closure) {
    taut_tls_transport *c = (taut_tls_transport *)self;
    return or_none(c->lost ? NULL : (PyObject *)c->lower);
}
static PyObject *get_loop(PyObject *self, void *closure) {
    return or_none((PyObject *)((taut_tls_transport *)self)->lp);
}
static PyObject *get_sslobj(PyObject *self, void *closure) {
    return or_none(((taut_tls_transport *)self)->sslobject);
}
static PyObject *get_context(PyObject *self, void *closure) {
    return or_none(((taut_tls_transport *)self)->sslcontext);
}
static PyObject *get_self(PyObject *self, void *closure) {
    return Py_NewRef(self);
}
static PyObject *get_closed(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_tls_transport *)self)->closed);
}
static PyObject *get_writing_paused(PyObject *self, void *closure) {
    return PyBool_FromLong(((taut_tls_transport *)self)->writing_paused);
}

PyGetSetDef taut_tls_getset[] = {
    {"_ssl_protocol", get_self, NULL, "The protocol of the socket's transport: this object."},
    {"_app_transport", get_self, NULL, "The transport that the protocol was given: this object."},
    {"_app_protocol", get_protocol, NULL, "The current protocol, or None."},
    {"_transport", get_lower, NULL, "The socket's transport; None once the connection is lost."},
    {"_sslobj", get_sslobj, NULL, "The connection's ssl.SSLObject."},
    {"_sslcontext", get_context, NULL, "The ssl.SSLContext it was made with."},
    {"_loop", get_loop, NULL, "The loop."},
    {"_closed", get_closed, NULL, "True once closing has begun."},
    {"_protocol_paused", get_writing_paused, NULL, "True after pause_writing()."},
    {NULL},
};

PyObject *taut_tls_repr(PyObject *self) {
    static const char *const states[] = {"", " handshake", " open", " closing", " closing"};
    taut_tls_transport *c = (taut_tls_transport *)self;
    const char *state = c->lost ? " closed" : states[c->state];
    if (c->lower == NULL)
        return PyUnicode_FromFormat("<SSLTransport%s>", state);
    if (c->lost || !c->lower->open || c->lower->orphan)
        return PyUnicode_FromFormat("<SSLTransport%s fd=%d>", state, c->lower->fd);
    const taut_stream *s = &c->lower->stream;
    return PyUnicode_FromFormat("<SSLTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>", state,
                                c->lower->fd, s->reading ? "polling" : "idle",
                                s->watch.want & TAUT_WRITE ? "polling" : "idle",
                                c->backlog_size + taut_buf_size(&c->tls.out));
}
