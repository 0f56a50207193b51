/* Direct and memory access to a connection's OpenSSL. */
#include "binding/tls_engine.h"

#include <errno.h>

#include "binding/compat.h"
#include "binding/err.h"
#include "binding/tls_openssl.h"

#define RECORD_SIZE_MAX 16384

/* ---- beginning ----------------------------------------------------------------------------------
 */

static PyObject *wrap_bio(taut_tls_transport *c, PyObject *context, PyObject *in, PyObject *out,
                          PyObject *hostname) {
    taut_state *st = c->lp->st;
    PyObject *args[] = {context, in, out, c->server_side ? Py_True : Py_False, hostname};
    PyObject *names = PyTuple_Pack(2, st->str_server_side, st->str_server_hostname);
    if (names == NULL)
        return NULL;
    PyObject *sslobject = PyObject_VectorcallMethod(st->str_wrap_bio, args, 3, names);
    Py_DECREF(names);
    return sslobject;
}

/* 1: done; 0: not to be had that way; -1 with an exception. */
static int begin_direct(taut_tls_transport *c, PyObject *context, PyObject *hostname) {
    taut_ssl_names *ssl = &c->lp->st->ssl;
    const taut_tls_api *api = taut_openssl_api(c->lp->st);
    if (api == NULL)
        return 0;
    c->sslobject = wrap_bio(c, context, ssl->unused_in, ssl->unused_out, hostname);
    if (c->sslobject == NULL)
        return -1;
    void *connection = taut_openssl_connection(c->lp->st, api, c->sslobject, context);
    if (connection == NULL) {
        Py_CLEAR(c->sslobject);
        return 0;
    }
    if (taut_tls_begin(&c->tls, api, connection) == 0)
        return 1;
    PyErr_NoMemory();
    return -1;
}

int taut_tls_engine_begin(taut_tls_transport *c, PyObject *context, PyObject *server_hostname) {
    int rc = begin_direct(c, context, server_hostname);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    if (taut_openssl_names(c->lp->st) < 0)
        return -1;
    PyObject *bio_type = c->lp->st->ssl.memory_bio;
    c->memory_in = PyObject_CallNoArgs(bio_type);
    c->memory_out = c->memory_in != NULL ? PyObject_CallNoArgs(bio_type) : NULL;
    if (c->memory_out != NULL)
        c->sslobject = wrap_bio(c, context, c->memory_in, c->memory_out, server_hostname);
    return c->sslobject == NULL ? -1 : 0;
}

void taut_tls_engine_end(taut_tls_transport *c) {
    taut_buf_free(&c->tls.out);
    taut_tls_end(&c->tls);
    Py_CLEAR(c->memory_in);
    Py_CLEAR(c->memory_out);
    Py_CLEAR(c->memory_error);
}

/* ---- memory
 * -------------------------------------------------------------------------------------- */

/* An integer attribute or the answer of a method that cannot fail for an object of ssl's. */
static size_t number_from(PyObject *number) {
    size_t value = number == NULL ? 0 : PyLong_AsSize_t(number);
    Py_XDECREF(number);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        value = 0;
    }
    return value;
}

static size_t pending_in(PyObject *bio, taut_state *st) {
    return bio == NULL ? 0 : number_from(PyObject_GetAttr(bio, st->str_pending));
}

/* The exception that is set: 0 when OpenSSL only waits for the peer, else it is kept. */
static int memory_failed(taut_tls_transport *c) {
    taut_ssl_names *ssl = &c->lp->st->ssl;
    if (PyErr_ExceptionMatches(ssl->want_read) || PyErr_ExceptionMatches(ssl->want_write)) {
        PyErr_Clear();
        return 0;
    }
    Py_XSETREF(c->memory_error, taut_exception_take());
    return TAUT_E_TLS_FAILED;
}

static int memory_feed(taut_tls_transport *c, const uint8_t *bytes, size_t size) {
    PyObject *view =
        PyMemoryView_FromMemory((char *)(uintptr_t)bytes, (Py_ssize_t)size, PyBUF_READ);
    PyObject *r =
        view == NULL ? NULL : PyObject_CallMethodOneArg(c->memory_in, c->lp->st->str_write, view);
    Py_XDECREF(view);
    Py_XDECREF(r);
    return r == NULL ? memory_failed(c) : 0;
}

static ssize_t memory_read(taut_tls_transport *c, char *to, size_t room) {
    PyObject *args[3] = {c->sslobject, PyLong_FromSize_t(room),
                         PyMemoryView_FromMemory(to, (Py_ssize_t)room, PyBUF_WRITE)};
    PyObject *r = args[1] == NULL || args[2] == NULL
                      ? NULL
                      : PyObject_VectorcallMethod(c->lp->st->str_read, args, 3, NULL);
    Py_XDECREF(args[1]);
    Py_XDECREF(args[2]);
    if (r == NULL)
        return memory_failed(c);
    size_t size = number_from(r);
    return size == 0 ? TAUT_E_TLS_CLOSED : (ssize_t)size;
}

static ssize_t memory_write(taut_tls_transport *c, const char *from, size_t size) {
    PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)from, (Py_ssize_t)size, PyBUF_READ);
    PyObject *r =
        view == NULL ? NULL : PyObject_CallMethodOneArg(c->sslobject, c->lp->st->str_write, view);
    Py_XDECREF(view);
    return r == NULL ? memory_failed(c) : (ssize_t)number_from(r);
}

int taut_tls_engine_collect(taut_tls_transport *c) {
    if (c->memory_out == NULL || pending_in(c->memory_out, c->lp->st) == 0)
        return 0;
    PyObject *data = PyObject_CallMethodNoArgs(c->memory_out, c->lp->st->str_read);
    if (data == NULL || !PyBytes_Check(data)) {
        Py_XDECREF(data);
        PyErr_Clear();
        return -ENOMEM; /* there is no other way to fail */
    }
    int rc = taut_buf_append(&c->tls.out, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    Py_DECREF(data);
    return rc;
}

/* ---- either way
 * ------------------------------------------------------------------------------------ */

int taut_tls_engine_feed(taut_tls_transport *c, const uint8_t *bytes, size_t size) {
    return c->memory_in != NULL ? memory_feed(c, bytes, size) : taut_tls_feed(&c->tls, bytes, size);
}

int taut_tls_engine_settle(taut_tls_transport *c) {
    return c->tls.ssl != NULL ? taut_tls_settle(&c->tls) : 0;
}

size_t taut_tls_engine_held_size(const taut_tls_transport *c) {
    return taut_tls_held_size(&c->tls) + pending_in(c->memory_in, c->lp->st);
}

ssize_t taut_tls_engine_read(taut_tls_transport *c, char *to, size_t room) {
    return c->memory_in != NULL ? memory_read(c, to, room) : taut_tls_read(&c->tls, to, room);
}

int taut_tls_engine_readable(taut_tls_transport *c) {
    if (c->memory_in == NULL)
        return taut_tls_readable(&c->tls);
    return pending_in(c->memory_in, c->lp->st) > 0 ||
           number_from(PyObject_CallMethodNoArgs(c->sslobject, c->lp->st->str_pending)) > 0;
}

ssize_t taut_tls_engine_write(taut_tls_transport *c, const char *from, size_t size) {
    return c->memory_in != NULL ? memory_write(c, from, size) : taut_tls_write(&c->tls, from, size);
}

size_t taut_tls_engine_plain_max(taut_tls_transport *c) {
    size_t size = taut_tls_engine_held_size(c); /* plaintext is never longer */
    /* A part of one more record may be with OpenSSL already. */
    if (c->memory_in != NULL || c->tls.api->SSL_has_pending(c->tls.ssl))
        size += RECORD_SIZE_MAX;
    return size;
}

PyObject *taut_tls_engine_error(taut_tls_transport *c, ssize_t rc) {
    taut_ssl_names *ssl = &c->lp->st->ssl;
    PyObject *exc = c->memory_error;
    c->memory_error = NULL;
    if (exc != NULL)
        return exc;
    if (rc == -ENOMEM)
        return taut_err_exception(-ENOMEM);
    /* OpenSSL's queue holds the reason, and the ssl module makes its exception of the newest one:
     * a connection that has failed cannot succeed in any further call. */
    PyObject *r = PyObject_CallMethod(c->sslobject, "read", "i", 1);
    if (r == NULL && !PyErr_ExceptionMatches(ssl->want_read) &&
        !PyErr_ExceptionMatches(ssl->want_write))
        return taut_exception_take();
    PyErr_Clear();
    Py_XDECREF(r);
    return PyObject_CallFunction(ssl->error, "s", "the TLS connection failed");
}
