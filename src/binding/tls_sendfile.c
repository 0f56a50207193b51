/* taut._core.SSLTransport: a file goes out from the page cache, read and encrypted block by block,
 * without a thread. What would need the disk is left to python/taut/_sendfile.py. */
#include "binding/compat.h"
#include "binding/op.h"
#include "binding/tls_transport.h"
#include "base/mem.h"
#include "io/sock.h"

#define BLOCK_SIZE (64 * 1024)
/* Sent between two turns of the loop, when the peer is fast enough to take it all. */
#define STEP_SIZE_MAX (1024 * 1024)

enum { ARG_TRANSPORT, ARG_FD, ARG_OFFSET, ARG_COUNT, ARG_NOTE };

typedef struct {
    int fd;
    uint64_t offset, left, sent;
    char block[BLOCK_SIZE]; /* not the loop's: pause_writing() may run anything */
} tls_file;

/* How a step's sending ended: with an exception; the socket is full; the file, or what was asked
 * for, is at its end; more is not in the page cache; others come first. */
enum outcome { FAILED = -1, FULL, SENT, COLD, ENOUGH };

static enum outcome send_some(taut_tls_transport *c, tls_file *f) {
    for (size_t spent = 0; spent < STEP_SIZE_MAX && f->left > 0;) {
        if (c->closed || !taut_tls_is_open(c)) {
            PyErr_SetString(PyExc_ConnectionError, "Connection closed by peer");
            return FAILED;
        }
        if (c->state != TAUT_TLS_WRAPPED)
            return COLD;
        if (c->lower_full || c->backlog_size > 0)
            return FULL;
        size_t size = f->left < BLOCK_SIZE ? (size_t)f->left : BLOCK_SIZE;
        ssize_t n = taut_sock_file_read(f->fd, f->block, size, f->offset);
        if (n == 0)
            return SENT;
        Py_ssize_t taken = n < 0 ? 0 : taut_tls_encrypt(c, f->block, (size_t)n);
        if (taken == 0) /* or a message of the peer's must come first, which write() waits for */
            return c->lower_full ? FULL : COLD;
        if (taken < 0)
            continue; /* it is closed now */
        f->offset += (uint64_t)taken;
        f->left -= (uint64_t)taken;
        f->sent += (uint64_t)taken;
        spent += (size_t)taken;
    }
    return f->left == 0 ? SENT : ENOUGH;
}

void taut_tls_file_wake(taut_tls_transport *c, PyObject *exc) {
    if (c->sendfile == NULL || (!c->lost && (c->lower_full || c->backlog_size > 0)))
        return;
    taut_op *op = (taut_op *)Py_NewRef(c->sendfile);
    PyObject *future = Py_XNewRef(op->future);
    if (future != NULL && exc != NULL && exc != Py_None)
        taut_pyloop_future_exception(c->lp, future, exc);
    else if (future != NULL)
        taut_pyloop_future_result(c->lp, future, Py_None);
    Py_XDECREF(future);
    Py_DECREF((PyObject *)op);
}

static int begin(taut_op *op) {
    taut_tls_transport *c = (taut_tls_transport *)op->args[ARG_TRANSPORT];
    if (!PyObject_TypeCheck((PyObject *)c, op->lp->st->tls_type)) {
        PyErr_Format(PyExc_TypeError, "transp must be a TLS transport, not %.200s",
                     Py_TYPE((PyObject *)c)->tp_name);
        return -1;
    }
    long fd = PyLong_AsLong(op->args[ARG_FD]);
    long long offset = PyLong_AsLongLong(op->args[ARG_OFFSET]);
    long long count =
        op->args[ARG_COUNT] == Py_None ? INT64_MAX : PyLong_AsLongLong(op->args[ARG_COUNT]);
    if (PyErr_Occurred())
        return -1;
    if (fd < 0 || fd > INT_MAX || offset < 0 || count < 0) {
        PyErr_Format(PyExc_ValueError, "fd %ld, offset %lld and count %lld must not be negative",
                     fd, offset, count);
        return -1;
    }
    tls_file *f = taut_malloc(sizeof *f);
    if (f == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    f->fd = (int)fd;
    f->offset = (uint64_t)offset;
    f->left = (uint64_t)count;
    f->sent = 0;
    op->job = f;
    return 0;
}

static int step(taut_op *op, PyObject **result) {
    if (op->job == NULL && begin(op) < 0)
        return -1;
    taut_tls_transport *c = (taut_tls_transport *)op->args[ARG_TRANSPORT];
    int taken = c->sendfile != NULL && c->sendfile != (PyObject *)op; /* by another file */
    Py_CLEAR(op->future);
    enum outcome how = taken ? COLD : send_some(c, op->job);
    if (how == FAILED)
        return -1;
    if (how == SENT || how == COLD) {
        *result = PyBool_FromLong(how == SENT);
        return 1;
    }
    if (c->sendfile == NULL)
        c->sendfile = Py_NewRef((PyObject *)op);
    if (how == ENOUGH)
        return 2;
    op->future = taut_pyloop_new_future(op->lp);
    return op->future == NULL ? -1 : 0;
}

/* Tells how much was sent, also after an error. */
static void cleanup(taut_op *op) {
    tls_file *f = op->job;
    op->job = NULL;
    if (f == NULL)
        return;
    taut_tls_transport *c = (taut_tls_transport *)op->args[ARG_TRANSPORT];
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (c->sendfile == (PyObject *)op)
        Py_CLEAR(c->sendfile);
    PyObject *sent = PyLong_FromUnsignedLongLong(f->sent);
    PyObject *r = sent == NULL ? NULL : PyObject_CallOneArg(op->args[ARG_NOTE], sent);
    if (r == NULL)
        PyErr_WriteUnraisable(op->args[ARG_NOTE]);
    Py_XDECREF(r);
    Py_XDECREF(sent);
    taut_free(f);
    PyErr_Restore(type, value, traceback);
}

PyObject *taut_tls_m_send_file(PyObject *loop, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    static const taut_op_kind kind = {"_tls_send_file", step, cleanup};
    static const char *const names[] = {"transp", "fd", "offset", "count", "note", NULL};
    return taut_op_new(loop, &kind, names, 5, args, nargs, kwnames);
}
