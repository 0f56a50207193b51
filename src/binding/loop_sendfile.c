/* sendfile(2) for transports and for sockets. What it cannot do raises SendfileNotAvailableError:
 * python/taut/_sendfile.py then reads and writes. */
#include "binding/compat.h"
#include "binding/err.h"
#include "binding/op.h"
#include "binding/tls_transport.h"
#include "base/mem.h"
#include "io/sock.h"
#include "io/stream_sendfile.h"
#include <errno.h>

enum { ARG_TARGET, ARG_FILE, ARG_OFFSET, ARG_COUNT }; /* of an operation */

typedef struct {
    taut_sendfile file;
    taut_op *op;
    int started; /* reading was paused, the transport knows of the operation */
    int resume;  /* reading goes on afterwards */
    int err;     /* how it ended */
    int ended;   /* `done` was called */
    int seeks;   /* the file's position follows, though nothing may be sent: from 3.14 on */
    enum { WARM, COLD, WARMING } state; /* what comes next is in memory, is not, is being read */
} sendfile_job;

/* ---- arguments --------------------------------------------------------------------------------
 */

static int refuse(PyObject *type, const char *format, PyObject *value) {
    PyErr_Format(type, format, value);
    return -1;
}

/* In the words of asyncio; `least`: the smallest value allowed. */
static int check_number(PyObject *value, long least, const char *format) {
    if (!PyLong_Check(value))
        return refuse(PyExc_TypeError, format, value);
    PyObject *bound = PyLong_FromLong(least);
    int low = bound == NULL ? -1 : PyObject_RichCompareBool(value, bound, Py_LT);
    Py_XDECREF(bound);
    if (low > 0)
        return refuse(PyExc_ValueError, format, value);
    return low;
}

static int check_binary(PyObject *file) {
    PyObject *mode = PyObject_GetAttrString(file, "mode");
    if (mode == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    PyObject *letter = PyUnicode_FromString("b");
    int binary = letter == NULL ? -1 : PySequence_Contains(mode, letter);
    Py_XDECREF(letter);
    Py_DECREF(mode);
    if (binary == 0)
        PyErr_SetString(PyExc_ValueError, "file should be opened in binary mode");
    return binary > 0 ? 0 : -1;
}

static int check_numbers(PyObject *offset, PyObject *count) {
    if (count != Py_None && check_number(count, 1, "count must be a positive integer (got %R)") < 0)
        return -1;
    return check_number(offset, 0, "offset must be a non-negative integer (got %R)");
}

static PyObject *check_params(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 4)
        return PyErr_Format(PyExc_TypeError, "_check_sendfile_params() takes 4 arguments, not %zd",
                            nargs);
    if (check_binary(args[1]) < 0)
        return NULL;
    PyObject *type = PyObject_GetAttrString(args[0], "type");
    PyObject *wanted = type ? PyLong_FromLong(SOCK_STREAM) : NULL;
    int stream = wanted ? PyObject_RichCompareBool(type, wanted, Py_EQ) : -1;
    Py_XDECREF(wanted);
    Py_XDECREF(type);
    if (stream == 0)
        PyErr_SetString(PyExc_ValueError, "only SOCK_STREAM type sockets are supported");
    if (stream <= 0 || check_numbers(args[2], args[3]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int unavailable(taut_op *op, const char *message) {
    PyErr_SetString(op->lp->st->sendfile_unavailable, message);
    return -1;
}

/* The fd of a file object; -1 with an exception. */
static int file_number(taut_op *op) {
    taut_state *st = op->lp->st;
    PyObject *number = PyObject_CallMethodNoArgs(op->args[ARG_FILE], st->str_fileno);
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
            PyErr_ExceptionMatches(st->io_unsupported))
            return unavailable(op, "not a regular file");
        return -1;
    }
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    return fd < 0 || fd > INT_MAX ? unavailable(op, "not a regular file") : (int)fd;
}

/* What to send, from the operation's arguments. 1: go on; 0: nothing; -1 with an exception. */
static int file_from(taut_op *op, taut_sendfile *f) {
    int fd = file_number(op);
    if (fd < 0)
        return -1;
    int64_t size = taut_sock_file_size(fd);
    if (size < 0)
        return unavailable(op, "not a regular file");
    long long offset = PyLong_AsLongLong(op->args[ARG_OFFSET]);
    if (offset == -1 && PyErr_Occurred())
        return -1;
    int counted = PyObject_IsTrue(op->args[ARG_COUNT]), huge = 0;
    long long count = counted > 0 ? PyLong_AsLongLongAndOverflow(op->args[ARG_COUNT], &huge) : 0;
    if (counted < 0 || (count == -1 && PyErr_Occurred()))
        return -1;
    if (huge > 0) /* more than any file has */
        count = INT64_MAX;
    *f = (taut_sendfile){.fd = fd,
                         .offset = (uint64_t)offset,
                         .left = counted ? (uint64_t)count : UINT64_MAX,
                         .size = (uint64_t)size};
    return counted || size > 0;
}

/* ---- the operation ----------------------------------------------------------------------------
 */

static int finished(uint64_t sent, PyObject **result) {
    *result = PyLong_FromUnsignedLongLong(sent);
    return *result == NULL ? -1 : 1;
}

/* Raises `err` of sendfile(2). Before anything was sent, mostly the file is not of the right kind.
 */
static int failed(taut_op *op, int err, uint64_t sent) {
    PyObject *cause = taut_err_exception(err);
    if (cause == NULL)
        return -1;
    if (sent > 0) {
        PyErr_SetObject((PyObject *)Py_TYPE(cause), cause);
        Py_DECREF(cause);
        return -1;
    }
    (void)unavailable(op, "os.sendfile call failed");
    PyObject *exc = taut_exception_take();
    PyException_SetCause(exc, cause); /* takes the reference */
    taut_exception_restore(exc);
    return -1;
}

static void cleanup_file(sendfile_job *job) {
    if (job->file.sent > 0 || job->seeks)
        (void)taut_sock_file_seek(job->file.fd, job->file.offset);
    taut_free(job);
}

/* On the first step. As file_from. */
static int begin(taut_op *op) {
    sendfile_job *job = taut_calloc(1, sizeof *job);
    if (job == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    op->job = job;
    job->op = op;
    int rc = file_from(op, &job->file);
    job->seeks = rc > 0 && PY_VERSION_HEX >= 0x030E0000;
    return rc;
}

/* Reads what comes next in the executor, into the page cache: the 0 of a step. */
static int read_ahead(taut_op *op, const taut_sendfile *f) {
    size_t size = f->left < TAUT_SENDFILE_CHUNK_SIZE ? (size_t)f->left : TAUT_SENDFILE_CHUNK_SIZE;
    op->future = PyObject_CallMethod((PyObject *)op->lp, "run_in_executor", "OOinK", Py_None,
                                     op->lp->st->os_pread, f->fd, (Py_ssize_t)size,
                                     (unsigned long long)f->offset);
    return op->future == NULL ? -1 : 0;
}

/* ---- over a transport -------------------------------------------------------------------------
 */

/* The step goes on. While the executor reads the future is that of its work. */
static void wake(sendfile_job *job) {
    if (job->op->future == NULL || job->state == WARMING)
        return;
    PyObject *op = Py_NewRef((PyObject *)job->op), *future = Py_NewRef(job->op->future);
    taut_pyloop_future_result(job->op->lp, future, Py_None);
    Py_DECREF(future);
    Py_DECREF(op);
}

static void on_done(taut_sendfile *f, int err) {
    sendfile_job *job = TAUT_CONTAINER(f, sendfile_job, file);
    job->ended = 1;
    job->err = err;
    wake(job);
}

static void on_cold(taut_sendfile *f) {
    sendfile_job *job = TAUT_CONTAINER(f, sendfile_job, file);
    wake(job);
    job->state = COLD;
}

static void transport_cleanup(taut_op *op) {
    sendfile_job *job = op->job;
    if (job == NULL)
        return;
    taut_transport *t = (taut_transport *)op->args[ARG_TARGET];
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    op->job = NULL;
    if (job->started) {
        if (t->stream.file == &job->file)
            taut_stream_sendfile_cancel(&t->stream);
        if (t->sendfile == (PyObject *)op)
            Py_CLEAR(t->sendfile);
        PyObject *r = job->resume ? taut_transport_m_resume_reading((PyObject *)t, NULL) : NULL;
        Py_XDECREF(r);
        taut_transport_update_hold(t);
    }
    cleanup_file(job);
    PyErr_Restore(type, value, traceback);
}

static int transport_failed(taut_op *op, sendfile_job *job) {
    taut_transport *t = (taut_transport *)op->args[ARG_TARGET];
    if (job->err == TAUT_E_CLOSING) {
        PyErr_SetString(PyExc_ConnectionError, "the transport was closed during sendfile");
        return -1;
    }
    if (t->stream.lost && job->err > TAUT_ERR_BASE) {
        taut_err_raise(job->err);
        return -1;
    }
    return failed(op, job->err == TAUT_E_EOF_WRITTEN ? -EPIPE : job->err, job->file.sent);
}

/* Takes the transport over; reading pauses, so that the protocol is told of nothing meanwhile. */
static int transport_start(taut_op *op, taut_transport *t) {
    sendfile_job *job = op->job;
    job->file.done = on_done;
    job->file.cold = on_cold;
    job->started = 1;
    job->resume = t->open && !t->stream.closing && !t->paused;
    t->sendfile = Py_NewRef((PyObject *)op);
    PyObject *r = taut_transport_m_pause_reading((PyObject *)t, NULL);
    if (r == NULL)
        return -1;
    Py_DECREF(r);
    int rc = taut_stream_sendfile(&t->stream, &job->file);
    taut_transport_update_hold(t);
    if (rc != 0) {
        job->ended = 1;
        job->err = rc < 0 ? rc : 0;
    }
    return 0;
}

/* 1: send; 0: there is nothing; -1 with an exception. */
static int transport_check(taut_op *op, taut_transport *t) {
    if (!PyObject_TypeCheck((PyObject *)t, op->lp->st->transport_type))
        return unavailable(op, "sendfile is not available for this transport");
    if (t->sendfile != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "unable to sendfile; sendfile is in progress");
        return -1;
    }
    if (taut_transport_check(t) < 0 || check_binary(op->args[ARG_FILE]) < 0 ||
        check_numbers(op->args[ARG_OFFSET], op->args[ARG_COUNT]) < 0)
        return -1;
    return begin(op);
}

static int step_transport(taut_op *op, PyObject **result) {
    taut_transport *t = (taut_transport *)op->args[ARG_TARGET];
    if (op->job == NULL) {
        int rc = transport_check(op, t);
        if (rc <= 0)
            return rc < 0 ? -1 : finished(0, result);
        if (transport_start(op, t) < 0)
            return -1;
    }
    sendfile_job *job = op->job;
    Py_CLEAR(op->future);
    if (job->state == WARMING) {
        job->state = WARM;
        taut_stream_sendfile_go_on(&t->stream);
    }
    if (job->ended)
        return job->err < 0 ? transport_failed(op, job) : finished(job->file.sent, result);
    if (job->state == COLD) {
        job->state = WARMING;
        return read_ahead(op, &job->file);
    }
    op->future = taut_pyloop_new_future(op->lp);
    return op->future == NULL ? -1 : 0;
}

/* ---- over a socket ----------------------------------------------------------------------------
 */

static void sock_cleanup(taut_op *op) {
    sendfile_job *job = op->job;
    op->job = NULL;
    if (job != NULL)
        cleanup_file(job);
}

/* The connection was closed on the way, in the words of asyncio. */
static int not_connected(void) {
    PyObject *exc =
        PyObject_CallFunction(PyExc_ConnectionError, "si", "socket is not connected", ENOTCONN);
    PyObject *cause = exc ? taut_err_exception(-ENOTCONN) : NULL;
    if (cause != NULL) {
        PyException_SetCause(exc, cause);
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    }
    Py_XDECREF(exc);
    return -1;
}

static int step_sock(taut_op *op, PyObject **result) {
    if (op->job == NULL) {
        int begun = begin(op);
        if (begun <= 0)
            return begun < 0 ? -1 : finished(0, result);
    }
    op->fd = taut_op_socket_fd(op);
    if (op->fd == -2)
        return -1;
    taut_sendfile *f = &((sendfile_job *)op->job)->file;
    f->warmed = op->future != NULL;
    Py_CLEAR(op->future);
    int rc = 2;
    for (int i = 0; rc == 2 && i < TAUT_SENDFILE_CHUNKS_PER_EVENT_MAX; i++)
        rc = taut_sendfile_chunk(f, op->fd);
    if (rc == 1)
        return finished(f->sent, result);
    if (rc == TAUT_E_COLD)
        return read_ahead(op, f);
    if (rc >= 0)
        return taut_op_wait_fd(op, TAUT_WRITE);
    return rc == -ENOTCONN && f->sent > 0 ? not_connected() : failed(op, rc, f->sent);
}

/* ---- methods ----------------------------------------------------------------------------------
 */

static PyObject *sendfile_native(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    static const taut_op_kind kind = {"_sendfile_native", step_transport, transport_cleanup};
    static const char *const names[] = {"transp", "file", "offset", "count", NULL};
    return taut_op_new(self, &kind, names, 4, args, nargs, kwnames);
}

static PyObject *sock_sendfile_native(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                      PyObject *kwnames) {
    static const taut_op_kind kind = {"_sock_sendfile_native", step_sock, sock_cleanup};
    static const char *const names[] = {"sock", "file", "offset", "count", NULL};
    return taut_op_new(self, &kind, names, 4, args, nargs, kwnames);
}

#define FAST(f) (PyCFunction)(void (*)(void)) f
PyMethodDef taut_loop_sendfile_methods[] = {
    {"_check_sendfile_params", FAST(check_params), METH_FASTCALL,
     "_check_sendfile_params(sock, file, offset, count) -> None\n\nTypeError or ValueError."},
    {"_sendfile_native", FAST(sendfile_native), METH_FASTCALL | METH_KEYWORDS,
     "_sendfile_native(transp, file, offset, count)\n\n"
     "Awaitable: the number of bytes sent by sendfile(2)."},
    {"_sock_sendfile_native", FAST(sock_sendfile_native), METH_FASTCALL | METH_KEYWORDS,
     "_sock_sendfile_native(sock, file, offset, count)\n\n"
     "Awaitable: the number of bytes sent by sendfile(2)."},
    {"_tls_send_file", FAST(taut_tls_m_send_file), METH_FASTCALL | METH_KEYWORDS,
     "_tls_send_file(transp, fd, offset, count, note)\n\n"
     "Awaitable: sends what the page cache has of a file, over TLS. True when all `count` bytes "
     "are "
     "sent, or the file's end is reached. Calls note(bytes sent) in any case."},
    {NULL},
};
