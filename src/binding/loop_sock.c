/* sock_*: each tries its call at once and waits for readiness only when it has to. Plain
 * socket.socket objects are served in C; for anything else the object's own method is called. */
#include "binding/addr.h"
#include "binding/compat.h"
#include "binding/err.h"
#include "binding/op.h"
#include "io/sock.h"
#include <errno.h>

/* ---- common ---------------------------------------------------------------------------------- */

static int is_plain(const taut_op *op) {
    return Py_IS_TYPE(op->args[0], (PyTypeObject *)op->lp->st->socket_type);
}

/* Once, before the first try. */
static int check_socket(taut_op *op) {
    taut_state *st = op->lp->st;
    PyObject *sock = op->args[0];
    if (!is_plain(op)) {
        PyObject *r = PyObject_CallOneArg(st->check_ssl_socket, sock);
        if (r == NULL)
            return -1;
        Py_DECREF(r);
    }
    if (TAUT_UNLIKELY(op->lp->debug)) {
        PyObject *timeout = PyObject_CallMethod(sock, "gettimeout", NULL);
        PyObject *zero = timeout ? PyLong_FromLong(0) : NULL;
        int same = zero ? PyObject_RichCompareBool(timeout, zero, Py_EQ) : -1;
        Py_XDECREF(timeout);
        Py_XDECREF(zero);
        if (same == 0)
            PyErr_SetString(PyExc_ValueError, "the socket must be non-blocking");
        if (same <= 0)
            return -1;
    }
    return 0;
}

int taut_op_socket_fd(taut_op *op) {
    taut_state *st = op->lp->st;
    PyObject *number = is_plain(op) && st->socket_fileno != NULL
                           ? st->socket_fileno(op->args[0], NULL)
                           : PyObject_CallMethodNoArgs(op->args[0], st->str_fileno);
    if (number == NULL)
        return -2;
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred())
        return -2;
    return (int)fd;
}

static int begin(taut_op *op) {
    if (op->fd == -1 && check_socket(op) < 0)
        return -1;
    op->fd = taut_op_socket_fd(op);
    return op->fd == -2 ? -1 : 0;
}

static int would_block(ssize_t rc) {
    return rc == -EAGAIN || rc == -EINTR;
}

int taut_op_wait_fd(taut_op *op, uint32_t direction) {
    if (taut_fdtable_check_free(op->lp, op->fd, NULL) < 0 || taut_pyloop_check_closed(op->lp) < 0)
        return -1;
    return taut_fdtable_wait(op->lp, op->fd, direction, &op->waiter);
}

static int finished(PyObject *value, PyObject **result) {
    *result = value;
    return value == NULL ? -1 : 1;
}

/* sock.<name>(*args) and, if that would block, a wait. */
static int python_step(taut_op *op, PyObject *name, PyObject **args, size_t nargs,
                       uint32_t direction, PyObject **result) {
    PyObject *value = PyObject_VectorcallMethod(name, args, nargs, NULL);
    if (value != NULL)
        return finished(value, result);
    if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
        !PyErr_ExceptionMatches(PyExc_InterruptedError))
        return -1;
    PyErr_Clear();
    return taut_op_wait_fd(op, direction);
}

/* ---- receiving ------------------------------------------------------------------------------- */

static int recv_bytes(taut_op *op, Py_ssize_t size, PyObject **result) {
    if (!taut_fdtable_try_read(op->lp, op->fd))
        return taut_op_wait_fd(op, TAUT_READ);
    char *scratch = (char *)op->lp->core.scratch;
    PyObject *bytes = NULL;
    if (size > TAUT_SCRATCH_SIZE) {
        bytes = PyBytes_FromStringAndSize(NULL, size);
        if (bytes == NULL)
            return -1;
        scratch = PyBytes_AS_STRING(bytes);
    }
    ssize_t n = size == 0 ? 0 : taut_sock_recv(op->fd, scratch, (size_t)size);
    taut_fdtable_tried_read(op->lp, op->fd, n, (size_t)size);
    if (TAUT_UNLIKELY(n < 0)) {
        Py_XDECREF(bytes);
        if (would_block(n))
            return taut_op_wait_fd(op, TAUT_READ);
        taut_err_raise((int)n);
        return -1;
    }
    if (bytes == NULL)
        return finished(PyBytes_FromStringAndSize(scratch, n), result);
    if (n < size && _PyBytes_Resize(&bytes, n) < 0)
        return -1;
    return finished(bytes, result);
}

static int step_recv(taut_op *op, PyObject **result) {
    if (begin(op) < 0)
        return -1;
    if (is_plain(op) && op->lp->core_ready) {
        Py_ssize_t size = PyNumber_AsSsize_t(op->args[1], PyExc_OverflowError);
        if (size >= 0)
            return recv_bytes(op, size, result);
        PyErr_Clear(); /* the socket's own method knows what is wrong */
    }
    return python_step(op, op->lp->st->str_recv, op->args, 2, TAUT_READ, result);
}

static int step_recv_into(taut_op *op, PyObject **result) {
    if (begin(op) < 0)
        return -1;
    Py_buffer view;
    if (!is_plain(op) || PyObject_GetBuffer(op->args[1], &view, PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        return python_step(op, op->lp->st->str_recv_into, op->args, 2, TAUT_READ, result);
    }
    ssize_t n = view.len == 0 ? 0 : taut_sock_recv(op->fd, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    if (n >= 0)
        return finished(PyLong_FromSsize_t(n), result);
    if (would_block(n))
        return taut_op_wait_fd(op, TAUT_READ);
    taut_err_raise((int)n);
    return -1;
}

static int step_recvfrom(taut_op *op, PyObject **result) {
    if (begin(op) < 0)
        return -1;
    return python_step(op, op->lp->st->str_recvfrom, op->args, 2, TAUT_READ, result);
}

static int step_recvfrom_into(taut_op *op, PyObject **result) {
    if (begin(op) < 0)
        return -1;
    /* nbytes 0, its default, stands for the buffer's length, here and in the method. */
    size_t nargs = op->args[2] != NULL ? 3 : 2;
    return python_step(op, op->lp->st->str_recvfrom_into, op->args, nargs, TAUT_READ, result);
}

static int step_accept(taut_op *op, PyObject **result) {
    if (begin(op) < 0)
        return -1;
    int rc = python_step(op, op->lp->st->str_accept, op->args, 1, TAUT_READ, result);
    if (rc != 1)
        return rc;
    PyObject *conn = PySequence_GetItem(*result, 0);
    PyObject *r =
        conn ? PyObject_CallMethodOneArg(conn, op->lp->st->str_setblocking, Py_False) : NULL;
    Py_XDECREF(conn);
    if (r == NULL) {
        Py_CLEAR(*result);
        return -1;
    }
    Py_DECREF(r);
    return 1;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* For socket-like objects: send() of what is left, as often as it takes. */
static int sendall_python(taut_op *op, PyObject **result) {
    if (op->future == NULL) { /* holds the memoryview; no wait uses it here */
        op->future = PyMemoryView_FromObject(op->args[1]);
        if (op->future == NULL)
            return -1;
    }
    Py_ssize_t total = PyObject_Length(op->future);
    PyObject *rest =
        total < 0 ? NULL : PySequence_GetSlice(op->future, (Py_ssize_t)op->done_size, total);
    if (rest == NULL)
        return -1;
    PyObject *args[2] = {op->args[0], rest};
    int rc = python_step(op, op->lp->st->str_send, args, 2, TAUT_WRITE, result);
    Py_DECREF(rest);
    if (rc != 1)
        return rc;
    Py_ssize_t n = PyLong_AsSsize_t(*result);
    Py_CLEAR(*result);
    if (n < 0)
        return -1;
    op->done_size += (size_t)n;
    if (op->done_size < (size_t)total)
        return taut_op_wait_fd(op, TAUT_WRITE);
    return finished(Py_NewRef(Py_None), result);
}

static int step_sendall(taut_op *op, PyObject **result) {
    if (begin(op) < 0)
        return -1;
    if (!is_plain(op))
        return sendall_python(op, result);
    if (op->view.obj == NULL && PyObject_GetBuffer(op->args[1], &op->view, PyBUF_SIMPLE) < 0)
        return -1;
    taut_loop_touch(&op->lp->core);
    ssize_t n = taut_sock_send(op->fd, (const char *)op->view.buf + op->done_size,
                               (size_t)op->view.len - op->done_size);
    if (n < 0 && !would_block(n)) {
        taut_err_raise((int)n);
        return -1;
    }
    if (n > 0)
        op->done_size += (size_t)n;
    if (op->done_size < (size_t)op->view.len)
        return taut_op_wait_fd(op, TAUT_WRITE);
    return finished(Py_NewRef(Py_None), result);
}

static int step_sendto(taut_op *op, PyObject **result) {
    if (begin(op) < 0)
        return -1;
    return python_step(op, op->lp->st->str_sendto, op->args, 3, TAUT_WRITE, result);
}

/* ---- connecting ------------------------------------------------------------------------------ */

static int connect_outcome(taut_op *op, PyObject **result) {
    int err = taut_sock_error(op->fd);
    if (err == 0)
        return finished(Py_NewRef(Py_None), result);
    PyObject *message = PyUnicode_FromFormat("Connect call failed %S", op->args[1]);
    PyObject *exc = message ? PyObject_CallFunction(PyExc_OSError, "iO", -err, message) : NULL;
    Py_XDECREF(message);
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
    return -1;
}

/* Without an exception object just to say "in progress". 2: not an address for this. */
static int connect_plain(taut_op *op, PyObject **result) {
    struct sockaddr_storage address;
    socklen_t size;
    PyObject *sock = op->args[0];
    if (!is_plain(op) || !taut_addr_parse(op->args[1], taut_sock_family(op->fd), &address, &size))
        return 2;
    if (PySys_Audit("socket.connect", "OO", sock, op->args[1]) < 0)
        return -1;
    taut_loop_touch(&op->lp->core);
    int rc = taut_sock_connect(op->fd, (struct sockaddr *)&address, size);
    if (rc == -EINPROGRESS || would_block(rc))
        return taut_op_wait_fd(op, TAUT_WRITE);
    if (rc == 0)
        return finished(Py_NewRef(Py_None), result);
    taut_err_raise(rc);
    return -1;
}

static int step_connect(taut_op *op, PyObject **result) {
    if (op->done_size > 0)
        return connect_outcome(op, result);
    if (begin(op) < 0)
        return -1;
    op->done_size = 1; /* connect() has been called */
    int rc = connect_plain(op, result);
    if (rc != 2)
        return rc;
    return python_step(op, op->lp->st->str_connect, op->args, 2, TAUT_WRITE, result);
}

/* ---- methods --------------------------------------------------------------------------------- */

#define SOCK_METHOD(name, required, ...)                                                           \
    static PyObject *sock_##name(PyObject *self, PyObject *const *args, Py_ssize_t nargs,          \
                                 PyObject *kwnames) {                                              \
        static const taut_op_kind kind = {"sock_" #name, step_##name, NULL};                       \
        static const char *const names[] = {__VA_ARGS__, NULL};                                    \
        return taut_op_new(self, &kind, names, required, args, nargs, kwnames);                    \
    }
SOCK_METHOD(recv, 2, "sock", "n")
SOCK_METHOD(recv_into, 2, "sock", "buf")
SOCK_METHOD(recvfrom, 2, "sock", "bufsize")
SOCK_METHOD(recvfrom_into, 2, "sock", "buf", "nbytes")
SOCK_METHOD(accept, 1, "sock")
SOCK_METHOD(sendall, 2, "sock", "data")
SOCK_METHOD(sendto, 3, "sock", "data", "address")
SOCK_METHOD(connect, 2, "sock", "address")

#define FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS
PyMethodDef taut_loop_sock_methods[] = {
    {"sock_recv", FAST(sock_recv), "sock_recv(sock, n)\n\nAwaitable: up to n bytes."},
    {"sock_recv_into", FAST(sock_recv_into),
     "sock_recv_into(sock, buf)\n\nAwaitable: how many bytes went into buf."},
    {"sock_recvfrom", FAST(sock_recvfrom),
     "sock_recvfrom(sock, bufsize)\n\nAwaitable: (bytes, address) of a datagram."},
    {"sock_recvfrom_into", FAST(sock_recvfrom_into),
     "sock_recvfrom_into(sock, buf, nbytes=0)\n\nAwaitable: (number of bytes, address)."},
    {"sock_accept", FAST(sock_accept),
     "sock_accept(sock)\n\nAwaitable: (non-blocking socket, address)."},
    {"sock_sendall", FAST(sock_sendall),
     "sock_sendall(sock, data)\n\nAwaitable: None once all data is sent."},
    {"sock_sendto", FAST(sock_sendto),
     "sock_sendto(sock, data, address)\n\nAwaitable: how many bytes were sent."},
    {"_sock_connect", FAST(sock_connect),
     "_sock_connect(sock, address)\n\nAwaitable: connects to an address already resolved."},
    {NULL},
};
