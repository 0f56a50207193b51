/* taut._core.Loop: the Python face of io/loop. `taut.loop.Loop` (Python) derives from it and from
 * asyncio.AbstractEventLoop, and adds the coroutine methods. Everything here: loop thread with the
 * GIL held, unless it says otherwise. */
#ifndef TAUT_BINDING_PYLOOP_H
#define TAUT_BINDING_PYLOOP_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "binding/doctor.h"
#include "binding/state.h"
#include "io/loop.h"
#include "io/routes.h"
#include "io/sigpipe.h"
#include "io/sys.h"

/* Kinds of entries in core.ready; each owns what it names. */
enum {
    TAUT_READY_HANDLE = TAUT_ENTRY_USER, /* a: Handle, b: contents of its shared context or NULL */
    TAUT_READY_CALL,                     /* a: callable, b: its argument or NULL, c: context */
    TAUT_READY_STEP,                     /* a: Task of ours, b: exception to throw in or NULL */
    TAUT_READY_WAKEUP,                   /* a: Task of ours, b: the future that is done */
};

/* What the TLS connections of a loop share: see tls_transport.h. */
typedef struct {
    taut_buf spare;     /* lent to the connection that encrypts */
    taut_list waiting;  /* handshakes that must wait for their turn */
    uint64_t iteration; /* of the loop, whose handshakes have taken ... */
    uint64_t spent_ns;
    int scheduled; /* the queue's turn is in the ready queue */
} taut_tls_shared;

struct taut_fdtable;  /* loop_fd.c: readers and writers by fd */
struct taut_resolver; /* io/resolver.h */

typedef struct taut_pyloop {
    PyObject_HEAD taut_loop core;
    taut_state *st;
    taut_sigpipe sigpipe;
    struct taut_fdtable *fds;
    taut_tls_shared tls;
    struct taut_resolver *resolver; /* NULL until the first lookup */
    PyObject *task_factory;         /* NULL when none */
    PyObject *current_task;         /* what asyncio's register has for this loop (borrowed) */
    PyObject *entered_context;      /* the context that is entered now, or NULL */
    PyObject *snapshot;             /* see context.h */
    PyObject *snapshot_vars;
    PyObject *kw_loop;             /* {"loop": self}, for Task() and Future(); NULL when closed */
    PyThreadState *thread_state;   /* while the GIL is given up */
    PyObject *raised;              /* a BaseException on its way out of run_forever */
    PyObject *current_handle;      /* the Handle being run, for slow-callback reports (borrowed) */
    unsigned long thread_ident;    /* of run_forever's thread, 0 when not running */
    double slow_callback_duration; /* seconds; debug mode */
    uint64_t stall_threshold_ns;   /* 0: off */
    taut_doctor_watch *watch;      /* of the run under way */
    taut_timer look;               /* at the notes of its tasks: task_notes.h */
    struct taut_exam *exam;        /* exam.h; NULL: none */
    taut_list executor_calls;      /* loop_executor.c: those under way */
    taut_route_loop requests;      /* that are worked on: request.c */
    int own_tasks;                 /* futures and tasks are ours: task.h */
    int core_ready, look_armed;    /* core and sigpipe are initialised; the timer is in the heap */
    int closed, debug, waiting;
    int timing;      /* debug mode: a call is being timed */
    int in_callback; /* user code runs in entered_context, which must stay entered meanwhile */
} taut_pyloop;

/* 0, or -1 with RuntimeError("Event loop is closed"). */
int taut_pyloop_check_closed(taut_pyloop *lp);
/* 0, or -1 with RuntimeError: a fork has left the thread behind that runs this loop, so that nobody
 * will ever run what is queued here. */
int taut_pyloop_check_forked(taut_pyloop *lp);
/* Debug mode only: 0, or -1 with asyncio's RuntimeError about the wrong thread. */
int taut_pyloop_check_thread(taut_pyloop *lp);

/* Queue a call without a Handle: callable() or callable(arg) in `context` (NULL: a copy of the
 * current one is taken). Takes its own references. 0, or -1 with an exception set. */
int taut_ready_call0(taut_pyloop *lp, PyObject *callable, PyObject *context);
int taut_ready_call1(taut_pyloop *lp, PyObject *callable, PyObject *arg, PyObject *context);
/* Queue any entry; its references are given away. 0, or -1 with an exception set. */
int taut_ready_push(taut_pyloop *lp, const taut_entry *e);
/* Queue a Handle (not cancelled); takes its own reference, and consumes `vars`: what
 * taut_context_for_call said of the handle's context, NULL when the handle brought its own. Under
 * the GIL from any thread. */
int taut_ready_handle(taut_pyloop *lp, PyObject *handle, PyObject *vars);
/* call_soon(*args) without its checks: args[0](*args[1:]) in `context`, or in a shared copy of the
 * current one (NULL). Returns the new Handle, NULL with an exception. */
PyObject *taut_pyloop_queue(taut_pyloop *lp, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *context);
/* After queueing from a thread that may not be the loop's: wakes the loop if it waits. */
void taut_pyloop_wake_if_waiting(taut_pyloop *lp);

/* Leaves the context that the last callback left entered for the next one, so that exception
 * handlers and finalizers in between do not run in it. Nothing while a callback runs. */
void taut_pyloop_context_release(taut_pyloop *lp);

/* Around a direct call into user code from an I/O callback (data_received and friends):
 * enters `context`, publishes `current` to the watchdog. begin: 0, or -1 with an exception set.
 * end: leaves the context; keeps any exception as it is. */
int taut_pyloop_call_begin(taut_pyloop *lp, PyObject *context, PyObject *current);
void taut_pyloop_call_end(taut_pyloop *lp, PyObject *context);
/* An exception is set and there is nobody to raise it to: KeyboardInterrupt and SystemExit leave
 * run_forever; anything else goes to call_exception_handler with `message` and, when not NULL,
 * `key`: `value` in the context. Always clears the exception. */
void taut_pyloop_unhandled(taut_pyloop *lp, const char *message, const char *key, PyObject *value);
/* If the current exception is KeyboardInterrupt or SystemExit, takes it to leave run_forever and
 * returns 1 (cleared); else 0 and the exception stays set. */
int taut_pyloop_take_exit(taut_pyloop *lp);
/* Whether `loop` is a taut_pyloop whose call_soon() is what it was made with. */
int taut_pyloop_has_own_call_soon(taut_state *st, PyObject *loop);
int taut_pyloop_has_own_threadsafe(taut_pyloop *lp); /* loop.call_soon_threadsafe() is, too */
PyObject *taut_pyloop_new_future(taut_pyloop *lp);   /* as loop.create_future() */
/* Set a future's outcome unless it is done already; swallow-proof: problems are reported through
 * taut_pyloop_unhandled. `exc` is a borrowed exception object. */
void taut_pyloop_future_result(taut_pyloop *lp, PyObject *future, PyObject *result);
void taut_pyloop_future_exception(taut_pyloop *lp, PyObject *future, PyObject *exc);

int taut_fdtable_new(taut_pyloop *lp);    /* loop_fd.c */
void taut_fdtable_clear(taut_pyloop *lp); /* drops every handle and registration */
int taut_fdtable_traverse(taut_pyloop *lp, visitproc visit, void *arg);
/* loop_resolve.c: completes lookups that have come back, after a wake-up; lets go of all. */
void taut_pyloop_resolver_drain(taut_pyloop *lp);
void taut_pyloop_resolver_close(taut_pyloop *lp);

/* For gc.callbacks: tells the watchdog when a collection runs on a loop's thread. */
PyObject *taut_pyloop_gc_event(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
/* close()'s work: drops queue, timers and registrations, closes the core's fds. Idempotent. */
void taut_pyloop_shutdown(taut_pyloop *lp);

/* Method tables, one per file, each ended by {NULL}; loop.c joins them. */
extern PyMethodDef taut_loop_run_methods[];  /* loop_run.c: run_forever's core, stop, close, ... */
extern PyMethodDef taut_loop_call_methods[]; /* loop_call.c: call_*, create_task, time, ... */
extern PyMethodDef taut_loop_fd_methods[];   /* loop_fd.c: add_reader ... */
extern PyMethodDef taut_loop_sock_methods[]; /* loop_sock.c: sock_* */
extern PyMethodDef taut_loop_executor_methods[];   /* loop_executor.c: run_in_executor */
extern PyMethodDef taut_loop_resolve_methods[];    /* loop_resolve.c: getaddrinfo, getnameinfo */
extern PyMethodDef taut_loop_transport_methods[];  /* transport.c: _make_socket_transport */
extern PyMethodDef taut_loop_dgram_methods[];      /* dgram_transport.c: _make_datagram_transport */
extern PyMethodDef taut_loop_read_pipe_methods[];  /* pipe_read.c: _make_read_pipe_transport */
extern PyMethodDef taut_loop_write_pipe_methods[]; /* pipe_write.c: _make_write_pipe_transport */
extern PyMethodDef taut_loop_sendfile_methods[];   /* loop_sendfile.c: _sendfile_native ... */

extern const taut_loop_ops taut_pyloop_ops; /* loop_run.c: the core's operations */
/* ready.c, parts of taut_pyloop_ops: runs `count` entries; leaves the last task and context. */
int taut_ready_run(void *ctx, size_t count);
void taut_ready_done(void *ctx);
void taut_ready_clear(taut_pyloop *lp);
int taut_ready_traverse(taut_pyloop *lp, visitproc visit, void *arg);

#endif
