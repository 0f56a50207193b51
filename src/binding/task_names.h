/* The part of the module's state that futures and tasks of ours need; see task.h. */
#ifndef TAUT_BINDING_TASK_NAMES_H
#define TAUT_BINDING_TASK_NAMES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/list.h"

/* X(field, module, attribute), as TAUT_IMPORTS of state.h. */
#define TAUT_TASK_IMPORTS(X)                                                                       \
    X(cancelled_error, "asyncio", "CancelledError")                                                \
    X(enter_task, "_asyncio", "_enter_task")                                                       \
    X(get_loop, "asyncio.futures", "_get_loop")                                                    \
    X(invalid_state_error, "asyncio", "InvalidStateError")                                         \
    X(iscoroutine, "asyncio", "iscoroutine")                                                       \
    X(leave_task, "_asyncio", "_leave_task")                                                       \
    X(register_task, "_asyncio", "_register_task")                                                 \
    TAUT_EAGER_IMPORTS(X)                                                                          \
    TAUT_CURRENT_IMPORTS(X)
#if PY_VERSION_HEX >= 0x030C0000
#define TAUT_EAGER_IMPORTS(X) X(swap_current_task, "_asyncio", "_swap_current_task")
#else
#define TAUT_EAGER_IMPORTS(X)
#endif
#if PY_VERSION_HEX >= 0x030E0000
#define TAUT_CURRENT_IMPORTS(X)
#else
#define TAUT_CURRENT_IMPORTS(X) X(current_tasks, "_asyncio", "_current_tasks")
#endif

#define TAUT_FREELIST_MAX 2048
#define TAUT_FILES_SEEN 64
#define TAUT_SITES_SEEN 256

/* A file's name, as code objects have it, and whose it is (task_site.c). */
typedef struct {
    PyObject *name; /* owned */
    int owner;
} taut_file_seen;

/* See task_notes.h. */
#define TAUT_TASK_NOTES_MAX 256
typedef struct {
    struct taut_task *task; /* borrowed: it drops its note before it goes */
    PyObject *held;         /* the exception that it handles; who has caught it (code); or NULL */
    uint64_t since_ns;      /* the clock of the loop's iteration */
    uint64_t finding;       /* that lasts as long as the note, or 0 */
    int kind, is_told, line, next_free;
} taut_task_note;
typedef struct {
    taut_task_note all[TAUT_TASK_NOTES_MAX];
    uint64_t delay_ns[4]; /* by kind */
    int used, free;       /* free: 1 + the index of the first one, 0: none below `used` */
} taut_task_notes;

typedef struct {
    PyTypeObject *future_type, *task_type; /* NULL: this Python's are not known */
    /* asyncio.Future's methods, unbound. */
    PyObject *set_result, *set_exception, *cancel;
    int enabled;    /* loops may make futures and tasks of ours ... */
    int is_default; /* ... and do, unless they are told otherwise */
    uint64_t count; /* of tasks made, for their names */
#if PY_VERSION_HEX < 0x030E0000
    taut_list live; /* taut_task.link of those that are not done */
#endif
    PyObject *future_freelist[TAUT_FREELIST_MAX], *task_freelist[TAUT_FREELIST_MAX];
    int future_free_count, task_free_count;
    /* Where tasks are made, see task_site.c: directories of code that is passed over (NULL: nobody
     * asks), and the code that runs loops. */
    PyObject *inner_dirs, *library_dirs, *runners;
    /* notice.h: who hears of rare events, and what warn_unawaited() stands before; or NULL. */
    PyObject *notice, *warn_unawaited;
    taut_task_notes notes;
    taut_file_seen files[TAUT_FILES_SEEN];
    const void *sites[TAUT_SITES_SEEN]; /* instructions that were found outside of finalizers */
} taut_task_names;

#endif
