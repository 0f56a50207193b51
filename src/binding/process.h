/* Child processes: taut._core.Child (one process until it is reaped), SubprocessTransport
 * (asyncio's transport of that name) and SubprocessPipe (the protocol on each of its pipes).
 *
 * While the child runs, the loop holds the Child, and that its transport; each pipe's transport
 * holds its SubprocessPipe, and that the SubprocessTransport. The object that get_extra_info(
 * "subprocess") gives is a subprocess.Popen which shares the Child: whoever asks first reaps, and
 * everybody is told the same code. GIL held; loop thread, except where it says otherwise. */
#ifndef TAUT_BINDING_PROCESS_H
#define TAUT_BINDING_PROCESS_H

#include "binding/fdtable.h"
#include "binding/pyloop.h"
#include "io/child.h"

typedef struct {
    PyObject_HEAD taut_child core;
    taut_pyloop *lp; /* owned while watched, as is what follows */
    PyObject *transport;
    taut_member member;
} taut_child_object;

typedef struct {
    PyObject_HEAD PyObject *extra; /* asyncio.BaseTransport's slot _extra: a dict */
    PyObject *dict, *weaklist;
    taut_pyloop *lp; /* owned */
    PyObject *proc;  /* a subprocess.Popen, or what a program has put in its place */
    PyObject *context;
    PyObject *protocol;         /* NULL after connection_lost, as is what follows */
    PyObject *pipes[3];         /* SubprocessPipe, or NULL */
    PyObject *pending;          /* calls before connection_made; NULL afterwards */
    PyObject *exit_waiters;     /* futures of _wait() */
    PyObject *made_at;          /* taut_debug_made_at */
    PyObject *pid, *returncode; /* an int, or NULL while it runs */
    unsigned expected;          /* 1 << fd for each pipe that there is to be */
    unsigned closed : 1, finished : 1, lost : 1;
} taut_process;

typedef struct {
    PyObject_HEAD taut_process *process; /* owned; NULL after connection_lost */
    PyObject *pipe;                      /* the pipe's transport, once made */
    PyObject *weaklist;
    int fd;
    int disconnected;
} taut_process_pipe;

/* Each adds its type to the module. 0, or -1 with an exception. */
int taut_child_type_add(PyObject *module, taut_state *st);
int taut_process_pipe_type_add(PyObject *module, taut_state *st);
int taut_process_transport_type_add(PyObject *module, taut_state *st);
/* process_transport.c: asyncio.<name>, a class without __dict__ whose instances take `size` bytes.
 * NULL with an exception. */
PyTypeObject *taut_process_base(const char *name, size_t size);

/* process_child.c. A new Child without a process, whose `core` the caller initialises. */
PyObject *taut_child_object_new(taut_state *st);
/* Tells `process` when the child ends. 0, or -1 with an exception. */
int taut_child_object_watch(taut_child_object *c, taut_process *process);

/* process_spawn.c: the module function spawn(). */
PyObject *taut_process_m_spawn(PyObject *module, PyObject *options);

/* process_pipe.c: a new SubprocessPipe for the child's fd 0, 1 or 2. */
PyObject *taut_process_pipe_new(taut_process *process, int fd);

/* process_transport.c. protocol.<name>(a, b) as soon as connection_made() has been called, through
 * the ready queue; arguments that are NULL are left out. 0, or -1 with an exception. */
int taut_process_call(taut_process *p, PyObject *name, PyObject *a, PyObject *b);
/* The child has ended; a code of -1 .. is a signal's. 0, or -1 with an exception. */
int taut_process_exited(taut_process *p, int code);
/* A pipe is gone: perhaps that was the last thing to happen. 0, or -1 with an exception. */
int taut_process_try_finish(taut_process *p);

#endif
