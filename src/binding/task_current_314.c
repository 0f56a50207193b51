/* asyncio.current_task() and asyncio.all_tasks() for tasks of ours, from 3.14 on: the state of a
 * thread has the loop that runs, the task that it runs, and a list of the thread's tasks, whose
 * nodes are in the tasks. What unlinks tasks of asyncio's unlinks ours. python/taut/_tasks.py
 * proves where these fields are before any task of ours is made. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if PY_VERSION_HEX >= 0x030E0000
#define Py_BUILD_CORE 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wpragmas"
#include "internal/pycore_interp_structs.h"
#include "internal/pycore_tstate.h"
#pragma GCC diagnostic pop
#include "binding/task_current.h"

static _PyThreadStateImpl *thread_now(void) {
    return (_PyThreadStateImpl *)PyThreadState_GetUnchecked();
}

/* ---- the current task ----------------------------------------------------------------------- */

static int may_enter(const _PyThreadStateImpl *ts, taut_pyloop *lp, taut_task *t) {
    /* Without any, as in the child of a fork, asyncio's tasks could not go on; ours can. */
    if (ts->asyncio_running_loop != (PyObject *)lp && ts->asyncio_running_loop != NULL)
        PyErr_Format(PyExc_RuntimeError, "loop %R is not the running loop", lp);
    else if (ts->asyncio_running_task != NULL)
        PyErr_Format(PyExc_RuntimeError,
                     "Cannot enter into task %R while another task %R is being executed.", t,
                     ts->asyncio_running_task);
    else
        return 0;
    return -1;
}

int taut_task_enter(taut_pyloop *lp, taut_task *t) {
    if (lp->current_task == (PyObject *)t)
        return 0;
    _PyThreadStateImpl *ts = thread_now();
    if (lp->current_task == NULL && may_enter(ts, lp, t) < 0)
        return -1;
    lp->current_task = (PyObject *)t;
    PyObject *before = ts->asyncio_running_task;
    ts->asyncio_running_task = Py_NewRef((PyObject *)t);
    Py_XDECREF(before);
    return 0;
}

void taut_task_leave_slow(taut_pyloop *lp) {
    _PyThreadStateImpl *ts = thread_now();
    PyObject *task = lp->current_task;
    lp->current_task = NULL;
    if (ts->asyncio_running_task != task)
        return; /* somebody else has taken it out */
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    ts->asyncio_running_task = NULL;
    Py_DECREF(task);
    if (exc != NULL)
        taut_exception_restore(exc);
}

/* ---- all tasks ------------------------------------------------------------------------------ */

void taut_task_list(taut_state *st, taut_task *t) {
    taut_list *node = (taut_list *)&t->aio.node;
    if (node->next == NULL)
        taut_list_append((taut_list *)&thread_now()->asyncio_tasks_head, node);
}

taut_task_lists taut_task_lists_get(taut_state *st) {
    return (taut_task_lists){
        .head = &PyInterpreterState_Get()->asyncio_tasks_head,
        .of_thread = offsetof(_PyThreadStateImpl, asyncio_tasks_head),
        .node = offsetof(taut_aio_task, node),
    };
}

/* 0, or -1 with an exception. */
static int append_ours(taut_state *st, struct llist_node *head, PyObject *list) {
    for (struct llist_node *n = head->next; n != head; n = n->next) {
        PyObject *task = (PyObject *)TAUT_CONTAINER(n, taut_aio_task, node);
        if (PyObject_TypeCheck(task, st->own.task_type) && PyList_Append(list, task) < 0)
            return -1;
    }
    return 0;
}

taut_task *taut_task_next_listed(taut_state *st, taut_task *t) {
    taut_list *all = (taut_list *)&thread_now()->asyncio_tasks_head;
    taut_list *next = t == NULL ? all->next : t->aio.node.next;
    for (; next != all; next = next->next) {
        PyObject *task = (PyObject *)TAUT_CONTAINER(next, taut_aio_task, node);
        if (PyObject_TypeCheck(task, st->own.task_type))
            return (taut_task *)task;
    }
    return NULL;
}

/* Those of threads that are gone are on the interpreter's list. */
PyObject *taut_live_tasks(PyObject *module, PyObject *unused) {
    taut_state *st = taut_state_of(module);
    PyInterpreterState *interp = PyInterpreterState_Get();
    PyObject *list = PyList_New(0);
    if (list != NULL && st->own.enabled && append_ours(st, &interp->asyncio_tasks_head, list) < 0)
        Py_CLEAR(list);
    PyThreadState *ts = PyInterpreterState_ThreadHead(interp);
    for (; list != NULL && st->own.enabled && ts != NULL; ts = PyThreadState_Next(ts))
        if (append_ours(st, &((_PyThreadStateImpl *)ts)->asyncio_tasks_head, list) < 0)
            Py_CLEAR(list);
    return list;
}

/* ---- who awaits it -------------------------------------------------------------------------- */

/* The first one is kept as itself, several in a set. */
int taut_future_awaited_more(taut_aio_future *f, PyObject *waiter) {
    if (f->awaited_by_is_set)
        return PySet_Add(f->awaited_by, waiter);
    PyObject *set = PySet_New(NULL);
    if (set == NULL || PySet_Add(set, f->awaited_by) < 0 || PySet_Add(set, waiter) < 0) {
        Py_XDECREF(set);
        return -1;
    }
    Py_SETREF(f->awaited_by, set);
    f->awaited_by_is_set = 1;
    return 0;
}

int taut_future_awaited_less(taut_aio_future *f, PyObject *waiter) {
    return f->awaited_by_is_set && PySet_Discard(f->awaited_by, waiter) < 0 ? -1 : 0;
}
/* ---- the proof ------------------------------------------------------------------------------ */

int taut_task_is_listed(const taut_aio_task *t) {
    const struct llist_node *head = &thread_now()->asyncio_tasks_head;
    const void *node = &t->node;
    return t->node.next == (const taut_list *)head && head->prev == node;
}

int taut_task_is_current(const taut_aio_task *t) {
    return thread_now()->asyncio_running_task == (const PyObject *)t &&
           thread_now()->asyncio_running_loop == t->fut.loop;
}
#endif
