/* Pipe transports: what reading and writing ends share. Creation, closing, lifetime. */
#include "binding/pipe.h"
#include <errno.h>
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/err.h"

/* ---- lifetime ---------------------------------------------------------------------------- */

static int wants_hold(const taut_pipe *p) {
    return p->open && !p->orphan &&
           (p->starting || p->stream.reading || p->stream.pending_size > 0 || p->stream.closing);
}

static void release_hold(void *arg) {
    taut_pipe *p = arg;
    p->release_queued = 0;
    if (!wants_hold(p))
        taut_member_release(&p->member);
}

void taut_pipe_update_hold(taut_pipe *p) {
    if (wants_hold(p)) {
        taut_member_hold(&p->member);
    } else if (p->member.held && p->open && !p->release_queued) {
        /* Later: a callback of the stream may be running, and the stream is part of us. */
        p->release_queued = taut_loop_call_soon(&p->lp->core, release_hold, p) == 0;
    }
}

int taut_pipe_check(taut_pipe *p) {
    return TAUT_UNLIKELY(p->orphan) ? taut_pyloop_check_closed(p->lp) : 0;
}

/* The number that epoll knows us by is another file's, or nobody's: nothing is to be taken out of
 * epoll under it. */
static int forget_stolen_fd(taut_pipe *p) {
    if (taut_loan_is_intact(&p->loan))
        return 0;
    if (p->lp->core.poller != NULL)
        taut_poller_remove(p->lp->core.poller, &p->stream.watch, 0);
    return 1;
}

int taut_pipe_step_aside(taut_pipe *p) {
    if (forget_stolen_fd(p))
        return 0;
    int rc = taut_loan_duplicate(&p->loan);
    return rc < 0 ? rc : taut_stream_move(&p->stream, taut_loan_fd(&p->loan));
}

static void give_back(taut_pipe *p) {
    taut_fdtable_unlend(p->lp, p->fd, p);
    taut_loan_return(&p->loan);
}

/* Leaves `p` without its fd: after connection_lost, or abandoned. */
static void release_fd(taut_pipe *p) {
    PyObject *pipe = p->pipe;
    p->open = 0;
    p->pipe = NULL;
    give_back(p);
    PyObject *r = pipe == NULL ? NULL : PyObject_CallMethodNoArgs(pipe, p->lp->st->str_close);
    if (pipe != NULL && r == NULL)
        taut_pyloop_unhandled(p->lp, "pipe.close() failed", "transport", p->self);
    Py_XDECREF(r);
    Py_XDECREF(pipe);
    Py_CLEAR(p->protocol);
}

/* A read that fails is reported, but for the one that tells of a terminal's end; a write that
 * fails is how one learns of the reader's end. */
static void tell_broken(taut_pipe *p, PyObject *exc, int err) {
    const char *message =
        p->writes ? "Fatal write error on pipe transport" : "Fatal read error on pipe transport";
    if (p->hung_up)
        return;
    if (p->writes ? PyErr_GivenExceptionMatches(exc, PyExc_OSError) : err == -EIO) {
        taut_debug_log(p->lp, "%r: %s", p->self, message, exc);
        return;
    }
    taut_exception_restore(Py_NewRef(exc));
    taut_pipe_report_raised(p, message);
}

void taut_pipe_on_closed(taut_stream *s, int err) {
    taut_pipe *p = taut_pipe_of(s);
    PyObject *self = Py_NewRef(p->self);
    PyObject *exc = err == 0 ? Py_NewRef(Py_None) : taut_err_exception(err);
    if (err != 0 && exc != NULL)
        tell_broken(p, exc, err);
    PyObject *args[3] = {NULL, NULL, exc};
    PyObject *r =
        exc == NULL ? NULL : taut_pipe_call(p, p->lp->st->str_connection_lost, args + 1, 2);
    if (r == NULL)
        taut_pyloop_unhandled(p->lp, "Exception in callback protocol.connection_lost()",
                              "transport", self);
    Py_XDECREF(r);
    Py_XDECREF(exc);
    release_fd(p);
    taut_member_remove(&p->member);
    Py_DECREF(self);
}

/* The loop closes under an open transport: the pipe is closed when that is dropped, but blocks
 * again from now on. */
static void on_orphan(PyObject *self) {
    int reads = Py_TYPE(self)->tp_basicsize == sizeof(taut_read_pipe);
    taut_pipe *p = reads ? &((taut_read_pipe *)self)->p : &((taut_write_pipe *)self)->p;
    p->orphan = 1;
    p->stream.reading = 0;
    taut_loop_undefer(&p->stream.flush);
    if (!forget_stolen_fd(p) && p->lp->core.poller != NULL)
        taut_poller_remove(p->lp->core.poller, &p->stream.watch, 1);
    give_back(p);
    p->stream.watch.fd = -1;
}

/* ---- creation ---------------------------------------------------------------------------- */

void taut_pipe_read_start(taut_pipe *p) {
    if (p->paused || taut_pipe_is_closing(p))
        return;
    int rc = taut_stream_read_start(&p->stream);
    if (rc < 0) { /* a device that epoll does not take, say */
        taut_err_raise(rc);
        taut_pyloop_unhandled(p->lp, "Exception in callback transport.resume_reading()",
                              "transport", p->self);
    }
    taut_pipe_update_hold(p);
}

static void on_start(void *arg) {
    taut_pipe *p = arg;
    p->starting = 0;
    if (!p->writes || p->loan.kind != TAUT_LOAN_CHARACTER)
        taut_pipe_read_start(p);
    PyObject *waiter = p->waiter;
    p->waiter = NULL;
    if (waiter != NULL)
        taut_pyloop_future_result(p->lp, waiter, Py_None);
    Py_XDECREF(waiter);
    taut_pipe_update_hold(p);
}

/* pipe.fileno() and what it is. 0, or -1 with an exception. */
static int inspect(taut_pipe *p, PyObject *pipe) {
    PyObject *number = PyObject_CallMethodNoArgs(pipe, p->lp->st->str_fileno);
    if (number == NULL)
        return -1;
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    int rc = taut_loan_inspect(&p->loan, fd < 0 || fd > INT_MAX ? -1 : (int)fd);
    if (rc < 0) {
        taut_err_raise(rc);
        return -1;
    }
    p->fd = (int)fd;
    if (rc != TAUT_LOAN_OTHER)
        return 0;
    PyErr_SetString(PyExc_ValueError,
                    p->writes ? "Pipe transport is only for pipes, sockets and character devices"
                              : "Pipe transport is for pipes/sockets only.");
    return -1;
}

static int schedule_start(taut_pipe *p) {
    taut_pyloop *lp = p->lp;
    PyObject *made = PyObject_GetAttr(p->protocol, lp->st->str_connection_made);
    if (made == NULL)
        return -1;
    int rc = taut_ready_call1(lp, made, p->self, p->context);
    Py_DECREF(made);
    if (rc < 0)
        return -1;
    rc = taut_loop_call_soon(&lp->core, on_start, p);
    if (rc < 0) {
        taut_err_raise(rc);
        return -1;
    }
    p->starting = p->open = 1;
    taut_pipe_update_hold(p);
    return 0;
}

static PyObject *make_extra(PyObject *given, PyObject *pipe) {
    PyObject *extra = given == Py_None ? PyDict_New() : PyDict_Copy(given);
    if (extra != NULL && PyDict_SetItemString(extra, "pipe", pipe) < 0)
        Py_CLEAR(extra);
    return extra;
}

int taut_pipe_open(taut_pipe *p, PyObject *self, PyObject **extra, taut_pyloop *lp, PyObject *args,
                   PyObject *kwargs, const taut_stream_ops *ops) {
    static char *names[] = {"pipe", "protocol", "waiter", "extra", NULL};
    PyObject *pipe, *protocol, *waiter = Py_None, *given = Py_None;
    p->self = self;
    p->lp = (taut_pyloop *)Py_NewRef((PyObject *)lp);
    taut_list_init(&p->member.link);
    taut_list_init(&p->loan.link);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs,
                                     p->writes ? "OO|OO:_make_write_pipe_transport"
                                               : "OO|OO:_make_read_pipe_transport",
                                     names, &pipe, &protocol, &waiter, &given) ||
        taut_pyloop_check_closed(lp) < 0 || inspect(p, pipe) < 0 ||
        (*extra = make_extra(given, pipe)) == NULL ||
        (p->context = PyContext_CopyCurrent()) == NULL)
        return -1;
    int rc = taut_loan_take(&p->loan, taut_fdtable_is_watched(lp, p->fd));
    if (rc < 0) {
        taut_err_raise(rc);
        return -1;
    }
    if (p->loan.own_fd < 0 && taut_fdtable_lend(lp, p->fd, p) < 0) {
        taut_loan_return(&p->loan);
        return -1;
    }
    taut_stream_open(&p->stream, &lp->core, taut_loan_fd(&p->loan), ops);
    p->stream.foreign_fd = p->stream.eager = 1;
    p->stream.plain = p->loan.kind != TAUT_LOAN_SOCKET;
    p->stream.hangup = p->writes;
    p->protocol = Py_NewRef(protocol);
    p->waiter = waiter != Py_None ? Py_NewRef(waiter) : NULL;
    p->pipe = Py_NewRef(pipe);
    p->made_at = taut_debug_made_at(lp);
    taut_member_add(lp, &p->member, self, on_orphan);
    if (schedule_start(p) == 0)
        return 0;
    give_back(p);
    taut_member_remove(&p->member);
    return -1;
}

/* ---- callbacks into the protocol, errors ------------------------------------------------- */

PyObject *taut_pipe_call(taut_pipe *p, PyObject *name, PyObject **args, size_t nargs) {
    PyObject *protocol = Py_XNewRef(p->protocol);
    if (protocol == NULL)
        Py_RETURN_NONE;
    args[0] = protocol;
    PyObject *r = NULL;
    if (p->in_call) { /* user code called us: its context is the right one */
        r = PyObject_VectorcallMethod(name, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    } else if (taut_pyloop_call_begin(p->lp, p->context, p->self) == 0) {
        uint64_t began_ns = taut_debug_time(p->lp);
        r = PyObject_VectorcallMethod(name, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        taut_debug_timed(p->lp, began_ns, protocol, name, p->self);
        taut_pyloop_call_end(p->lp, p->context);
    }
    Py_DECREF(protocol);
    return r;
}

void taut_pipe_debug_gone(taut_pipe *p) {
    if (TAUT_LIKELY(!p->lp->debug))
        return;
    PyObject *r =
        PyObject_CallMethod(p->lp->st->logger, "info", "sO", "%r was closed by peer", p->self);
    if (r == NULL)
        PyErr_WriteUnraisable(p->self);
    Py_XDECREF(r);
}

void taut_pipe_report_raised(taut_pipe *p, const char *message) {
    if (taut_pyloop_take_exit(p->lp))
        return;
    PyObject *exc = taut_exception_take();
    PyObject *context =
        Py_BuildValue("{sssOsOsO}", "message", message, "exception", exc, "transport", p->self,
                      "protocol", p->protocol != NULL ? p->protocol : Py_None);
    PyObject *r = context == NULL
                      ? NULL
                      : PyObject_CallMethodOneArg((PyObject *)p->lp,
                                                  p->lp->st->str_call_exception_handler, context);
    if (r == NULL)
        taut_pyloop_unhandled(p->lp, message, "transport", p->self);
    Py_XDECREF(r);
    Py_XDECREF(context);
    Py_DECREF(exc);
}

int taut_pipe_close(taut_pipe *p, int drop) {
    taut_stream *s = &p->stream;
    if (!p->open || (drop ? s->lost : s->closing))
        return 0;
    int at_once = drop || s->pending_size == 0;
    if (at_once && taut_pyloop_check_thread(p->lp) < 0)
        return -1;
    if (p->orphan) { /* as asyncio: told once, unless it would close when flushed */
        s->closing = 1;
        s->lost = at_once;
        return at_once ? taut_pipe_check(p) : 0;
    }
    if (forget_stolen_fd(p))
        taut_stream_abort(s, at_once ? 0 : -EBADF);
    else if (drop)
        taut_stream_abort(s, 0);
    else
        taut_stream_close(s);
    taut_pipe_update_hold(p);
    return 0;
}

/* ---- parts of the types --------------------------------------------------------------------- */

int taut_pipe_traverse(taut_pipe *p, visitproc visit, void *arg) {
    Py_VISIT(p->dict);
    Py_VISIT((PyObject *)p->lp);
    Py_VISIT(p->protocol);
    Py_VISIT(p->pipe);
    Py_VISIT(p->context);
    Py_VISIT(p->waiter);
    Py_VISIT(p->made_at);
    return 0;
}

void taut_pipe_clear(taut_pipe *p) {
    Py_CLEAR(p->dict);
    Py_CLEAR(p->protocol);
    Py_CLEAR(p->context);
    Py_CLEAR(p->waiter);
    Py_CLEAR(p->made_at);
}

void taut_pipe_finalize(taut_pipe *p) {
    if (!p->open || (p->stream.closed_scheduled && !p->lp->closed)) /* see transport_finalize */
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (p->pipe != NULL)
        taut_debug_unclosed(p->self, "transport", p->made_at);
    (void)forget_stolen_fd(p);
    taut_stream_discard(&p->stream);
    release_fd(p);
    taut_member_remove(&p->member);
    PyErr_Restore(type, value, traceback);
}

PyObject *taut_pipe_get_pipe(taut_pipe *p) {
    return Py_NewRef(p->pipe != NULL ? p->pipe : Py_None);
}

int taut_pipe_set_pipe(taut_pipe *p, PyObject *value) {
    int none = value == NULL || value == Py_None;
    Py_XSETREF(p->pipe, none ? NULL : Py_NewRef(value));
    return 0;
}

void taut_pipe_release(taut_pipe *p) {
    taut_pipe_clear(p);
    Py_CLEAR(p->pipe);
    Py_CLEAR(p->lp);
}

PyObject *taut_pipe_repr(taut_pipe *p, const char *name) {
    const char *state = !p->open ? " closed" : p->stream.closing ? " closing" : "";
    return PyUnicode_FromFormat("<%s%s fd=%d", name, state, p->fd);
}

int taut_pipe_types_add(PyObject *module, taut_state *st) {
    return taut_read_pipe_type_add(module, st) < 0 ? -1 : taut_write_pipe_type_add(module, st);
}
