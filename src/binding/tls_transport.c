/* taut._core.SSLTransport: creation, lifetime, the type. */
#include "binding/tls_transport.h"

#include "binding/args.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"
#include "binding/stream_reader.h"
#include "binding/tls_engine.h"

/* asyncio.constants: seconds, and KiB of water marks. */
#define HANDSHAKE_TIMEOUT 60.0
#define SHUTDOWN_TIMEOUT 30.0
#define READ_MARK_KIB 256
#define WRITE_MARK_KIB 512
#define SPARE_SIZE_MAX (256 * 1024)

static taut_tls_transport *self_of(PyObject *self) {
    return (taut_tls_transport *)self;
}

/* ---- calling out --------------------------------------------------------------------------- */

int taut_tls_enter(taut_tls_transport *c) {
    if (taut_pyloop_call_begin(c->lp, c->lower->context, (PyObject *)c) < 0) {
        taut_pyloop_unhandled(c->lp, "entering the context failed", "transport", (PyObject *)c);
        return -1;
    }
    return 0;
}

void taut_tls_leave(taut_tls_transport *c) {
    taut_pyloop_call_end(c->lp, c->lower->context);
}

PyObject *taut_tls_call(taut_tls_transport *c, PyObject *name, PyObject **args, size_t nargs) {
    PyObject *protocol = Py_XNewRef(c->protocol);
    if (protocol == NULL)
        Py_RETURN_NONE;
    args[0] = protocol;
    uint64_t began_ns = taut_debug_time(c->lp);
    PyObject *r =
        PyObject_VectorcallMethod(name, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    taut_debug_timed(c->lp, began_ns, protocol, name, (PyObject *)c);
    Py_DECREF(protocol);
    return r;
}

int taut_tls_is_open(const taut_tls_transport *c) {
    return c->lower != NULL && !c->lost && c->lower->open && !c->lower->orphan &&
           !c->lower->stream.lost;
}

static int report(taut_tls_transport *c, PyObject *exc, const char *message) {
    PyObject *context =
        Py_BuildValue("{sssOsOsO}", "message", message, "exception", exc, "transport",
                      (PyObject *)c, "protocol", c->protocol != NULL ? c->protocol : Py_None);
    if (context == NULL)
        return -1;
    PyObject *r = PyObject_CallMethodOneArg((PyObject *)c->lp,
                                            c->lp->st->str_call_exception_handler, context);
    Py_DECREF(context);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

void taut_tls_report(taut_tls_transport *c, PyObject *exc, const char *message) {
    if (report(c, exc, message) < 0)
        taut_pyloop_unhandled(c->lp, message, "transport", (PyObject *)c);
}

void taut_tls_fatal(taut_tls_transport *c, PyObject *exc, const char *message) {
    if (c->lower != NULL && !c->lost)
        taut_transport_force_close(c->lower, exc);
    if (PyErr_GivenExceptionMatches(exc, PyExc_OSError))
        taut_debug_log(c->lp, "%r: %s", (PyObject *)c, message, exc); /* the network's doing */
    else
        taut_tls_report(c, exc, message);
}

void taut_tls_fatal_raised(taut_tls_transport *c, const char *message) {
    if (taut_pyloop_take_exit(c->lp))
        return;
    PyObject *exc = taut_exception_take();
    taut_tls_fatal(c, exc, message);
    Py_DECREF(exc);
}

void taut_tls_wake_waiter(taut_tls_transport *c, PyObject *exc) {
    PyObject *waiter = c->waiter;
    c->waiter = NULL;
    if (waiter == NULL)
        return;
    if (exc != NULL && exc != Py_None)
        taut_pyloop_future_exception(c->lp, waiter, exc);
    else
        taut_pyloop_future_result(c->lp, waiter, Py_None);
    Py_DECREF(waiter);
}

/* ---- what is to be sent ---------------------------------------------------------------------- */

void taut_tls_out_begin(taut_tls_transport *c) {
    taut_buf *spare = &c->lp->tls.spare;
    if (c->tls.out.data == NULL && spare->data != NULL) {
        c->tls.out = *spare;
        taut_buf_init(spare);
    }
}

static void out_give_back(taut_tls_transport *c) {
    taut_buf *spare = &c->lp->tls.spare;
    if (c->tls.out.data == NULL)
        return;
    if (spare->data == NULL && c->tls.out.capacity <= SPARE_SIZE_MAX && !c->lp->closed)
        *spare = c->tls.out;
    else
        taut_buf_free(&c->tls.out);
    taut_buf_init(&c->tls.out);
}

void taut_tls_out_send(taut_tls_transport *c) {
    if (taut_tls_engine_collect(c) < 0) {
        PyErr_NoMemory();
        taut_tls_fatal_raised(c, "Fatal error on SSL protocol");
    }
    size_t size = taut_buf_size(&c->tls.out);
    if (size > 0 && !c->lower_full && taut_tls_is_open(c)) {
        if (taut_transport_send(c->lower, taut_buf_bytes(&c->tls.out), size, NULL, 0) < 0)
            taut_tls_fatal_raised(c, "Fatal error on SSL protocol");
        taut_buf_clear(&c->tls.out);
        size = 0;
    }
    if (size == 0)
        out_give_back(c);
    taut_tls_control_writing(c);
}

/* ---- creation -------------------------------------------------------------------------------- */

static int timeout_from(PyObject *value, const char *name, double fallback, double *out) {
    if (value == NULL || value == Py_None) {
        *out = fallback;
        return 0;
    }
    *out = PyFloat_AsDouble(value);
    if (*out == -1.0 && PyErr_Occurred())
        return -1;
    if (*out > 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s should be a positive number, got %S", name, value);
    return -1;
}

static taut_tls_transport *alloc(taut_pyloop *lp) {
    PyTypeObject *type = lp->st->tls_type;
    taut_tls_transport *c = (taut_tls_transport *)type->tp_alloc(type, 0); /* zeroed */
    if (c == NULL)
        return NULL;
    c->lp = (taut_pyloop *)Py_NewRef((PyObject *)lp);
    taut_list_init(&c->queue_link);
    c->high = WRITE_MARK_KIB * 1024;
    c->read_high = READ_MARK_KIB * 1024;
    c->low = c->high / 4;
    c->read_low = c->read_high / 4;
    c->closed = 1; /* until it is complete: no warning */
    return c;
}

int taut_tls_set_protocol(taut_tls_transport *c, PyObject *protocol) {
    int buffered = PyObject_IsInstance(protocol, c->lp->st->buffered_protocol);
    int streams = buffered < 0 ? -1 : taut_stream_reader_serves(c->lp->st, protocol, &c->dict);
    if (streams < 0)
        return -1;
    Py_XSETREF(c->protocol, Py_NewRef(protocol));
    c->buffered = buffered != 0;
    c->streams = streams != 0;
    return 0;
}

PyObject *taut_tls_new(taut_pyloop *lp, PyObject *protocol, PyObject *context, PyObject *waiter,
                       int server_side, PyObject *server_hostname, PyObject *handshake_timeout,
                       PyObject *shutdown_timeout, int call_connection_made) {
    taut_tls_transport *c = alloc(lp);
    if (c == NULL)
        return NULL;
    int named = server_hostname == NULL || server_side ? 0 : PyObject_IsTrue(server_hostname);
    if (named < 0 ||
        timeout_from(handshake_timeout, "ssl_handshake_timeout", HANDSHAKE_TIMEOUT,
                     &c->handshake_timeout) < 0 ||
        timeout_from(shutdown_timeout, "ssl_shutdown_timeout", SHUTDOWN_TIMEOUT,
                     &c->shutdown_timeout) < 0 ||
        taut_tls_set_protocol(c, protocol) < 0)
        goto fail;
    c->server_side = server_side != 0;
    if (taut_tls_engine_begin(c, context, named ? server_hostname : Py_None) < 0)
        goto fail;
    c->sslcontext = Py_NewRef(context);
    c->waiter = Py_XNewRef(waiter);
    c->made_at = taut_debug_made_at(lp);
    c->app = call_connection_made ? TAUT_APP_INIT : TAUT_APP_MADE;
    c->closed = 0;
    return (PyObject *)c;
fail:
    Py_DECREF((PyObject *)c);
    return NULL;
}

PyObject *taut_tls_m_make(PyObject *loop, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"protocol",
                            "sslcontext",
                            "waiter",
                            "server_side",
                            "server_hostname",
                            "ssl_handshake_timeout",
                            "ssl_shutdown_timeout",
                            "call_connection_made",
                            NULL};
    PyObject *protocol, *context, *waiter = Py_None, *hostname = Py_None, *handshake = Py_None,
                                  *shutdown = Py_None;
    int server_side = 0, call_made = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O$pOOOp:_make_tls", names, &protocol,
                                     &context, &waiter, &server_side, &hostname, &handshake,
                                     &shutdown, &call_made))
        return NULL;
    PyObject *made =
        taut_tls_new((taut_pyloop *)loop, protocol, context, waiter != Py_None ? waiter : NULL,
                     server_side, hostname, handshake, shutdown, call_made);
    if (made == NULL && !PyErr_Occurred())
        Py_RETURN_NONE;
    return made;
}

/* ---- as lower's protocol --------------------------------------------------------------------- */

static PyObject *m_connection_made(PyObject *self, PyObject *transport) {
    taut_tls_transport *c = self_of(self);
    if (!PyObject_TypeCheck(transport, c->lp->st->transport_type)) {
        PyErr_Format(PyExc_TypeError, "transport must be a transport of taut, not %.200s",
                     Py_TYPE(transport)->tp_name);
        return NULL;
    }
    if (c->lower != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "connection_made() was called before");
        return NULL;
    }
    c->lower = (taut_transport *)Py_NewRef(transport);
    if (c->closed) /* before it began */
        taut_tls_abort(c, NULL);
    else
        taut_tls_handshake_start(c);
    Py_RETURN_NONE;
}

static PyObject *m_pause_writing(PyObject *self, PyObject *unused) {
    self_of(self)->lower_full = 1;
    Py_RETURN_NONE;
}

static PyObject *m_resume_writing(PyObject *self, PyObject *unused) {
    taut_tls_transport *c = self_of(self);
    c->lower_full = 0;
    if (c->state == TAUT_TLS_FLUSHING)
        taut_tls_flush_go(c);
    else
        taut_tls_write_go(c);
    taut_tls_file_wake(c, NULL);
    Py_RETURN_NONE;
}

/* ---- as the user's transport ------------------------------------------------------------------
 */

static PyObject *m_is_closing(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(self_of(self)->closed);
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    taut_tls_transport *c = self_of(self);
    if (c->closed)
        Py_RETURN_NONE;
    if (taut_pyloop_check_thread(c->lp) < 0)
        return NULL;
    taut_debug_closing(c->lp->st, self, "transport", c->made_at);
    c->closed = 1;
    taut_tls_shutdown_start(c);
    Py_RETURN_NONE;
}

static PyObject *m_force_close(PyObject *self, PyObject *exc) {
    taut_tls_transport *c = self_of(self);
    if (!c->lost && taut_pyloop_check_thread(c->lp) < 0)
        return NULL;
    c->closed = 1;
    taut_tls_abort(c, exc);
    Py_RETURN_NONE;
}

static PyObject *m_abort(PyObject *self, PyObject *unused) {
    return m_force_close(self, Py_None);
}

static PyObject *m_set_protocol(PyObject *self, PyObject *protocol) {
    if (taut_tls_set_protocol(self_of(self), protocol) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *m_get_protocol(PyObject *self, PyObject *unused) {
    PyObject *protocol = self_of(self)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static PyObject *m_write_eof(PyObject *self, PyObject *unused) {
    PyErr_SetNone(PyExc_NotImplementedError); /* as asyncio: TLS has no half-close */
    return NULL;
}

static PyObject *m_can_write_eof(PyObject *self, PyObject *unused) {
    Py_RETURN_FALSE;
}

static PyObject *pair(size_t low, size_t high) {
    return Py_BuildValue("(nn)", (Py_ssize_t)low, (Py_ssize_t)high);
}

static PyObject *m_write_limits(PyObject *self, PyObject *unused) {
    return pair(self_of(self)->low, self_of(self)->high);
}
static PyObject *m_read_limits(PyObject *self, PyObject *unused) {
    return pair(self_of(self)->read_low, self_of(self)->read_high);
}
static PyObject *m_write_size(PyObject *self, PyObject *unused) {
    taut_tls_transport *c = self_of(self);
    return PyLong_FromSize_t(c->backlog_size + taut_buf_size(&c->tls.out));
}
static PyObject *m_read_size(PyObject *self, PyObject *unused) {
    return PyLong_FromSize_t(taut_tls_engine_held_size(self_of(self)));
}

static int marks_from(PyObject *args, PyObject *kwargs, const char *format, size_t fallback,
                      size_t *high, size_t *low) {
    static char *names[] = {"high", "low", NULL};
    PyObject *high_obj = Py_None, *low_obj = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &high_obj, &low_obj))
        return -1;
    return taut_args_marks(high_obj, low_obj, fallback, high, low);
}

static PyObject *m_set_write_limits(PyObject *self, PyObject *args, PyObject *kwargs) {
    taut_tls_transport *c = self_of(self);
    if (marks_from(args, kwargs, "|OO:set_write_buffer_limits", WRITE_MARK_KIB * 1024, &c->high,
                   &c->low) < 0)
        return NULL;
    taut_tls_control_writing(c);
    Py_RETURN_NONE;
}

static PyObject *m_set_read_limits(PyObject *self, PyObject *args, PyObject *kwargs) {
    taut_tls_transport *c = self_of(self);
    if (marks_from(args, kwargs, "|OO:set_read_buffer_limits", READ_MARK_KIB * 1024, &c->read_high,
                   &c->read_low) < 0)
        return NULL;
    taut_tls_control_reading(c);
    Py_RETURN_NONE;
}

/* ---- the type -------------------------------------------------------------------------------- */

static int tls_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_tls_transport *c = self_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(c->extra);
    for (size_t i = 0; i < sizeof c->unused_slots / sizeof *c->unused_slots; i++)
        Py_VISIT(c->unused_slots[i]);
    Py_VISIT(c->dict);
    Py_VISIT((PyObject *)c->lp);
    Py_VISIT((PyObject *)c->lower);
    Py_VISIT(c->protocol);
    Py_VISIT(c->sslobject);
    Py_VISIT(c->sslcontext);
    Py_VISIT(c->waiter);
    Py_VISIT(c->backlog);
    Py_VISIT(c->sendfile);
    Py_VISIT(c->memory_in);
    Py_VISIT(c->memory_out);
    Py_VISIT(c->memory_error);
    Py_VISIT(c->made_at);
    return 0;
}

static int tls_clear(PyObject *self) {
    taut_tls_transport *c = self_of(self);
    Py_CLEAR(c->extra);
    for (size_t i = 0; i < sizeof c->unused_slots / sizeof *c->unused_slots; i++)
        Py_CLEAR(c->unused_slots[i]);
    Py_CLEAR(c->dict);
    Py_CLEAR(c->protocol);
    Py_CLEAR(c->waiter);
    Py_CLEAR(c->made_at);
    taut_tls_backlog_clear(c);
    Py_CLEAR(c->sendfile);
    c->lost = 1; /* lower may go first from here on */
    Py_CLEAR(c->lower);
    return 0;
}

static void tls_finalize(PyObject *self) {
    taut_tls_transport *c = self_of(self);
    if (c->closed)
        return;
    c->closed = 1;
    taut_debug_unclosed(self, "transport", c->made_at);
}

static void tls_dealloc(PyObject *self) {
    taut_tls_transport *c = self_of(self);
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* resurrected */
    PyObject_GC_UnTrack(self);
    if (c->weaklist != NULL)
        PyObject_ClearWeakRefs(self);
    taut_tls_handshake_unqueue(c);
    taut_tls_deadline_stop(c, &c->handshake_deadline);
    taut_tls_deadline_stop(c, &c->shutdown_deadline);
    (void)tls_clear(self);
    taut_tls_engine_end(c);
    Py_CLEAR(c->sslobject);
    Py_CLEAR(c->sslcontext);
    Py_XDECREF((PyObject *)c->lp);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef tls_methods[] = {
    {"_data_early", taut_tls_m_data_early, METH_O, "Bytes of the handshake that came before it."},
    {"connection_made", m_connection_made, METH_O, "Start the handshake over `transport`."},
    {"connection_lost", taut_tls_m_connection_lost, METH_O, "The socket is gone."},
    {"eof_received", taut_tls_m_eof_received, METH_NOARGS, "The peer half-closed the socket."},
    {"pause_writing", m_pause_writing, METH_NOARGS, "The socket's buffer is full."},
    {"resume_writing", m_resume_writing, METH_NOARGS, "The socket's buffer has drained."},
    {"is_closing", m_is_closing, METH_NOARGS, "True once closing has begun."},
    {"close", m_close, METH_NOARGS, "Send what is buffered, say goodbye, close."},
    {"abort", m_abort, METH_NOARGS, "Close at once; buffered data is lost."},
    {"_force_close", m_force_close, METH_O, "Close at once, telling the protocol why."},
    {"get_extra_info", (PyCFunction)(void (*)(void))taut_tls_m_get_extra_info,
     METH_VARARGS | METH_KEYWORDS,
     "sslcontext, ssl_object, peercert, cipher, compression, tls_path, and what the socket's "
     "transport knows."},
    {"set_protocol", m_set_protocol, METH_O, "Switch to another protocol."},
    {"get_protocol", m_get_protocol, METH_NOARGS, "The current protocol."},
    {"pause_reading", taut_tls_m_pause_reading, METH_NOARGS, "Stop calling data_received."},
    {"resume_reading", taut_tls_m_resume_reading, METH_NOARGS, "Read again."},
    {"is_reading", taut_tls_m_is_reading, METH_NOARGS, "True unless paused."},
    {"_reading_resumed", taut_tls_m_reading_resumed, METH_NOARGS, "resume_reading, a turn later."},
    {"write", taut_tls_m_write, METH_O, "Encrypt and send bytes."},
    {"writelines", taut_tls_m_writelines, METH_O, "Send an iterable of bytes-like objects."},
    {"_test__append_write_backlog", taut_tls_m_append_backlog, METH_O,
     "Queue bytes without encrypting them yet."},
    {"write_eof", m_write_eof, METH_NOARGS, "Raises NotImplementedError."},
    {"can_write_eof", m_can_write_eof, METH_NOARGS, "False."},
    {"get_write_buffer_size", m_write_size, METH_NOARGS, "Bytes that the socket has not taken."},
    {"get_write_buffer_limits", m_write_limits, METH_NOARGS, "(low, high) in bytes."},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))m_set_write_limits,
     METH_VARARGS | METH_KEYWORDS, "Set the marks that pause and resume the protocol."},
    {"get_read_buffer_size", m_read_size, METH_NOARGS, "Bytes received and not yet decrypted."},
    {"get_read_buffer_limits", m_read_limits, METH_NOARGS, "(low, high) in bytes."},
    {"set_read_buffer_limits", (PyCFunction)(void (*)(void))m_set_read_limits,
     METH_VARARGS | METH_KEYWORDS, "Set the marks at which the socket is paused and resumed."},
    {NULL},
};

static PyMemberDef tls_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(taut_tls_transport, dict), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(taut_tls_transport, weaklist), Py_READONLY},
    {NULL},
};

static PyType_Slot tls_slots[] = {
    {Py_tp_doc, "A TLS connection of a taut loop."},
    {Py_tp_traverse, tls_traverse},
    {Py_tp_clear, tls_clear},
    {Py_tp_finalize, tls_finalize},
    {Py_tp_dealloc, tls_dealloc},
    {Py_tp_repr, taut_tls_repr},
    {Py_tp_methods, tls_methods},
    {Py_tp_members, tls_members},
    {Py_tp_getset, taut_tls_getset},
    {0, NULL},
};

static PyType_Spec tls_spec = {
    .name = "taut._core.SSLTransport",
    .basicsize = sizeof(taut_tls_transport),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = tls_slots,
};

int taut_tls_type_add(PyObject *module, taut_state *st) {
    _Static_assert(offsetof(taut_tls_transport, dict) == offsetof(taut_transport, dict),
                   "taut_transport_type_add has checked the base's layout for both");
    PyObject *type = PyType_FromModuleAndSpec(module, &tls_spec, st->base_transport);
    if (type == NULL)
        return -1;
    st->tls_type = (PyTypeObject *)type;
    return taut_transport_mark_compatible(type, "FALLBACK") < 0
               ? -1
               : PyModule_AddType(module, st->tls_type);
}
