/* What taut._core.ReadPipeTransport and taut._core.WritePipeTransport share: asyncio's pipe
 * transports over io/stream, on a pipe, FIFO, socket or character device that the user brought.
 *
 * The user's pipe object owns the fd; the transport closes the object after connection_lost, or
 * when it is abandoned. Before that the fd gets its blocking mode back (io/loan.h). The loop keeps
 * a transport alive while it reads (a write transport: while it watches for the reader's end), has
 * bytes to send, or closes. GIL held, loop thread. */
#ifndef TAUT_BINDING_PIPE_H
#define TAUT_BINDING_PIPE_H

#include "binding/fdtable.h"
#include "binding/pyloop.h"
#include "io/loan.h"
#include "io/stream.h"

typedef struct taut_pipe {
    PyObject *dict, *weaklist;
    PyObject *self;     /* borrowed: the transport that this is a part of */
    taut_pyloop *lp;    /* owned */
    PyObject *protocol; /* owned; NULL after connection_lost */
    PyObject *pipe;     /* owned; NULL when closed */
    PyObject *context;  /* callbacks run in it */
    PyObject *waiter;   /* future for "connection made" */
    PyObject *made_at;  /* taut_debug_made_at */
    taut_stream stream;
    taut_loan loan;
    taut_member member;
    int fd;           /* the user's number, for repr */
    unsigned dropped; /* writes after closing had begun */
    size_t low_size;  /* the low-water mark that was asked for */
    /* open: connection_lost has not run. orphan: the loop is closed. in_call: within a method that
     * user code called. hung_up: the reader has gone. */
    unsigned writes : 1, open : 1, orphan : 1, starting : 1, paused : 1, in_call : 1,
        release_queued : 1, protocol_paused : 1, hung_up : 1;
} taut_pipe;

/* Behind the slots of asyncio's base classes. */
typedef struct {
    PyObject_HEAD PyObject *extra; /* asyncio.BaseTransport's slot _extra: a dict */
    taut_pipe p;
} taut_read_pipe;
typedef struct {
    PyObject_HEAD PyObject *extra;
    PyObject *unused_slots[4]; /* of _FlowControlMixin; our own fields replace them */
    taut_pipe p;
} taut_write_pipe;

/* pipe.c: for _make_read_pipe_transport and _make_write_pipe_transport, arguments (pipe, protocol,
 * waiter=None, extra=None). `p` is zeroed but for `writes`, a part of `self`; `extra` its slot.
 * Takes the fd, schedules connection_made, then the start of reading, then the waiter. 0, or -1
 * with an exception and the pipe as it was. */
int taut_pipe_open(taut_pipe *p, PyObject *self, PyObject **extra, taut_pyloop *lp, PyObject *args,
                   PyObject *kwargs, const taut_stream_ops *ops);

/* The number is wanted by somebody else: goes on under a duplicate. 0, or a negative error. */
int taut_pipe_step_aside(taut_pipe *p);

/* Calls protocol.<name>(args[1], ...) in the transport's context. args[0] (the protocol's place)
 * and args[-1] are scratch; nargs counts from args[0]. NULL with an exception. */
PyObject *taut_pipe_call(taut_pipe *p, PyObject *name, PyObject **args, size_t nargs);
/* Debug mode logs that the other side has gone, as information. */
void taut_pipe_debug_gone(taut_pipe *p);
/* call_exception_handler with the transport and its protocol, for the exception that is set.
 * KeyboardInterrupt and SystemExit leave run_forever. */
void taut_pipe_report_raised(taut_pipe *p, const char *message);
/* After anything that may change whether the loop must keep the transport alive. */
void taut_pipe_update_hold(taut_pipe *p);
/* 0, or -1 with RuntimeError when the loop is closed. */
int taut_pipe_check(taut_pipe *p);
/* Starts reading unless paused or closing; what fails is reported, and the transport stays open. */
void taut_pipe_read_start(taut_pipe *p);
/* Closing: the queue is sent, or dropped; then connection_lost. 0, or -1 with an exception. */
int taut_pipe_close(taut_pipe *p, int drop);
static inline int taut_pipe_is_closing(const taut_pipe *p) {
    return !p->open || p->stream.closing;
}

/* Each adds its type to the module. 0, or -1 with an exception. */
int taut_read_pipe_type_add(PyObject *module, taut_state *st);
int taut_write_pipe_type_add(PyObject *module, taut_state *st);

/* The core's callbacks that both have. */
void taut_pipe_on_closed(taut_stream *s, int err);
static inline taut_pipe *taut_pipe_of(taut_stream *s) {
    return TAUT_CONTAINER(s, taut_pipe, stream);
}

/* Parts of tp_traverse, tp_finalize and tp_dealloc. */
int taut_pipe_traverse(taut_pipe *p, visitproc visit, void *arg);
void taut_pipe_clear(taut_pipe *p);
void taut_pipe_finalize(taut_pipe *p);
void taut_pipe_release(taut_pipe *p); /* the last references */
/* The attribute _pipe. None: the transport has nothing to close and to warn of any more. */
PyObject *taut_pipe_get_pipe(taut_pipe *p);
int taut_pipe_set_pipe(taut_pipe *p, PyObject *value);
/* "open", "closing" or "closed" and the fd, as every repr here begins; NULL with an exception. */
PyObject *taut_pipe_repr(taut_pipe *p, const char *name);

#endif
