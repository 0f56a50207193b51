/* taut._core.Operation: what sock_* and the resolver return. It is a coroutine as far as anybody
 * can tell (collections.abc.Coroutine, good for await, create_task and gather), does nothing until
 * first awaited, and makes a future only when it has to wait. Loop thread with the GIL held. */
#ifndef TAUT_BINDING_OP_H
#define TAUT_BINDING_OP_H

#include "binding/fdtable.h"
#include "binding/pyloop.h"

#define TAUT_OP_ARGS_MAX 6

typedef struct taut_op taut_op;

typedef struct {
    const char *name; /* "sock_recv" */
    /* Does the work, or a part of it. 1: done, *result is a new reference; 0: step again once
     * op->waiter.future or op->future (whichever is set) is done; 2: step again once
     * everybody else had a turn (the task yields, as with sleep(0)); -1 with an exception set.
     * Cancelling ends the operation between steps, so that what a step took is never lost. */
    int (*step)(taut_op *op, PyObject **result);
    void (*cleanup)(taut_op *op); /* may be NULL; runs once, if a step ran */
} taut_op_kind;

struct taut_op {
    PyObject_HEAD taut_pyloop *lp; /* owned */
    const taut_op_kind *kind;
    PyObject *args[TAUT_OP_ARGS_MAX]; /* owned; NULL where not given */
    PyObject *awaited;                /* what is awaited now: a future of ours, or an iterator */
    PyObject *future;                 /* of the operation's own making; owned */
    taut_fdwaiter waiter;
    Py_buffer view;    /* sock_sendall's data; view.obj NULL: none */
    PyObject *made_at; /* debug mode, until it starts: the stack of its creation */
    void *job;         /* the resolver's, or sendfile's */
    size_t done_size;
    int fd;            /* -1 until known */
    int is_own, begun; /* `awaited` is a future of ours; it has been yielded */
    enum { TAUT_OP_FRESH, TAUT_OP_STARTED, TAUT_OP_DONE } state;
};

/* A new operation; the arguments come from a METH_FASTCALL | METH_KEYWORDS call. `names` (ended by
 * NULL) are the parameters, the first `required` of them without a default. */
PyObject *taut_op_new(PyObject *loop, const taut_op_kind *kind, const char *const *names,
                      Py_ssize_t required, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames);

/* ---- loop_sock.c: for operations on a socket object, args[0] ---- */
/* The fd, asked for before every try: the user may have closed the socket since. -1 is what a
 * closed socket has, and makes the call fail as it should; -2: an exception. */
int taut_op_socket_fd(taut_op *op);
/* Waits for op->fd to become ready (TAUT_READ, TAUT_WRITE): what a step then returns. */
int taut_op_wait_fd(taut_op *op, uint32_t direction);

#endif
