/* What the loop knows of file descriptors: readers and writers that the user asked for, who waits
 * in a sock_* call, which transport has the number; and the open transports and servers, which the
 * loop keeps alive while something can still happen to them. Loop thread with the GIL held. */
#ifndef TAUT_BINDING_FDTABLE_H
#define TAUT_BINDING_FDTABLE_H

#include "binding/pyloop.h"
#include "base/list.h"

struct taut_pipe;

/* An open transport or serving server, embedded in it. */
typedef struct taut_member {
    taut_list link;
    PyObject *object; /* the embedder; owned while `held` */
    int held;
    /* The loop closes: let go of its core. Called once; the member is unlinked and unheld. */
    void (*orphan)(PyObject *object);
} taut_member;

/* A call that waits for an fd to become readable or writable, embedded in its owner. While it is
 * linked, it owns the future and so does the loop: a task that waits may be held by nobody else. */
typedef struct {
    taut_list link;
    PyObject *future; /* gets None on readiness */
} taut_fdwaiter;

typedef struct taut_fdentry {
    taut_watch watch;
    taut_pyloop *lp;
    int used;                   /* `watch` is initialised for this number */
    PyObject *reader, *writer;  /* Handles or NULL; owned */
    PyObject *file;             /* whose they are, when not given as a number; owned */
    taut_list readers, writers; /* of taut_fdwaiter */
    PyObject *transport;        /* borrowed: it clears this when it closes */
    int (*is_closing)(PyObject *transport);
    struct taut_pipe *pipe; /* registered under the number until somebody else asks for it */
    uint64_t drained_turn;  /* the loop's turn in which sock_recv last got less than it asked for */
    unsigned vain, skipped; /* tries to read after that, in the same turn, see fdtable_try_read */
} taut_fdentry;

typedef struct taut_fdtable {
    taut_fdentry **entries; /* by fd; NULL where nothing was ever registered */
    size_t capacity;
    taut_list members;
    taut_list others; /* of taut_fdwaiter: what waits for something else than an fd */
} taut_fdtable;

/* Lists the member, unheld. */
void taut_member_add(taut_pyloop *lp, taut_member *m, PyObject *object,
                     void (*orphan)(PyObject *object));
void taut_member_hold(taut_member *m);    /* idempotent */
void taut_member_release(taut_member *m); /* idempotent; may free the object */
/* Unlists and releases; harmless when not listed. May free the object. */
void taut_member_remove(taut_member *m);

/* The transport takes the number: whatever was registered under it is stale and is forgotten. From
 * when `is_closing` says so on, the user may have the number. 0, or -1 with an exception. */
int taut_fdtable_claim(taut_pyloop *lp, int fd, PyObject *transport,
                       int (*is_closing)(PyObject *transport));
void taut_fdtable_unclaim(taut_pyloop *lp, int fd, PyObject *transport);
/* A pipe transport shares its number with whoever asks, but epoll knows a number only once. Before
 * it takes the number: 1 when it must work on a duplicate, since the number is watched; otherwise
 * 0, and what was registered under it is forgotten. */
int taut_fdtable_is_watched(taut_pyloop *lp, int fd);
/* The pipe is registered under the number; it moves to a duplicate when somebody else asks for it,
 * by taut_pipe_step_aside. 0, or -1 with an exception. */
int taut_fdtable_lend(taut_pyloop *lp, int fd, struct taut_pipe *pipe);
void taut_fdtable_unlend(taut_pyloop *lp, int fd, struct taut_pipe *pipe);
/* sock_recv of a number: whether to try at once. 0: it was drained in this very turn of the loop,
 * and such tries have been in vain all the time (8 in a row; one of 64 is made all the same). Then
 * what every try ended with is told: how much came of how much, -EAGAIN, or another error. */
int taut_fdtable_try_read(taut_pyloop *lp, int fd);
void taut_fdtable_tried_read(taut_pyloop *lp, int fd, ssize_t got, size_t asked);
/* RuntimeError when an open transport has the number; `shown` is what the caller was given, NULL
 * stands for the number. */
int taut_fdtable_check_free(taut_pyloop *lp, int fd, PyObject *shown);
/* Waits for readiness (TAUT_READ or TAUT_WRITE) of a foreign fd. Makes and stores w->future, the
 * caller takes its own reference. 0, or -1 with an exception. */
int taut_fdtable_wait(taut_pyloop *lp, int fd, uint32_t direction, taut_fdwaiter *w);
/* The same for something else, until taut_fdwaiter_done or taut_fdwaiter_cancel. */
int taut_fdtable_wait_other(taut_pyloop *lp, taut_fdwaiter *w);
/* Gives the future its result; harmless when it does not wait. */
void taut_fdwaiter_done(taut_pyloop *lp, taut_fdwaiter *w);
/* Harmless when it does not wait. */
void taut_fdwaiter_cancel(taut_fdwaiter *w);

#endif
