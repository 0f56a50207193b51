/* What asyncio is told of tasks of ours: which one runs, which there are, who awaits whom. In
 * task_current.c up to Python 3.13, in task_current_314.c from then on. */
#ifndef TAUT_BINDING_TASK_CURRENT_H
#define TAUT_BINDING_TASK_CURRENT_H

#include "binding/task.h"

/* Makes `t` what asyncio.current_task() returns, until something that is not a task's step runs. 0,
 * or -1 with RuntimeError when another task is in the middle of a step. */
int taut_task_enter(taut_pyloop *lp, taut_task *t);
void taut_task_leave_slow(taut_pyloop *lp);
static inline void taut_task_leave(taut_pyloop *lp) {
    if (lp->current_task != NULL)
        taut_task_leave_slow(lp);
}

/* Puts a task that is not done into asyncio.all_tasks(), once; from 3.14 on as one of this
 * thread's. */
void taut_task_list(taut_state *st, taut_task *t);
/* Takes it out, if it is there. */
static inline void taut_task_unlist(taut_task *t) {
#if PY_VERSION_HEX >= 0x030E0000
    if (t->aio.node.next != NULL) {
        taut_list_unlink(&t->aio.node);
        t->aio.node = (taut_list){NULL, NULL};
    }
#else
    taut_list_unlink(&t->link);
#endif
}

static inline int taut_task_is_listed_now(const taut_task *t) {
#if PY_VERSION_HEX >= 0x030E0000
    return t->aio.node.next != NULL;
#else
    return t->link.next != &t->link;
#endif
}
/* The task of ours, borrowed, that was listed after `t` (NULL: the first one), in the order in
 * which they were made; from 3.14 on of this thread's. NULL: there is none. */
taut_task *taut_task_next_listed(taut_state *st, taut_task *t);

/* Where the tasks are that are not done, for readers without the GIL. */
typedef struct {
    const void *head; /* of a list, ... */
    size_t of_thread; /* ... and of further ones, at this offset in each thread's state; 0: none */
    size_t node;      /* of either list, in a task */
} taut_task_lists;
taut_task_lists taut_task_lists_get(taut_state *st);

/* From 3.14 on a future knows who awaits it (asyncio.capture_call_graph(), `asyncio ps`). `waiter`
 * begins to await, and has awaited. 0, or -1 with an exception. */
#if PY_VERSION_HEX >= 0x030E0000
int taut_future_awaited_more(taut_aio_future *f, PyObject *waiter);
int taut_future_awaited_less(taut_aio_future *f, PyObject *waiter);
static inline int taut_future_awaited(taut_aio_future *f, PyObject *waiter) {
    if (TAUT_UNLIKELY(f->awaited_by != NULL))
        return taut_future_awaited_more(f, waiter);
    f->awaited_by = Py_NewRef(waiter);
    return 0;
}
static inline int taut_future_unawaited(taut_aio_future *f, PyObject *waiter) {
    if (TAUT_UNLIKELY(f->awaited_by != waiter))
        return taut_future_awaited_less(f, waiter);
    f->awaited_by = NULL;
    Py_DECREF(waiter);
    return 0;
}
/* The proof that a task of asyncio's is the last on the thread's list, that it is current. */
int taut_task_is_listed(const taut_aio_task *t);
int taut_task_is_current(const taut_aio_task *t);
#else
static inline int taut_future_awaited(taut_aio_future *f, PyObject *waiter) {
    return 0;
}
static inline int taut_future_unawaited(taut_aio_future *f, PyObject *waiter) {
    return 0;
}
#endif

#endif
