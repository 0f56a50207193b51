/* asyncio.current_task() and asyncio.all_tasks() for tasks of ours, up to 3.13.
 *
 * The first is a dictionary {loop: task}. It is written when a task's step begins and another
 * task's, or nothing, was there; and cleared only before something runs that is no step. */
#include "binding/task_current.h"

#if PY_VERSION_HEX < 0x030E0000

int taut_task_enter(taut_pyloop *lp, taut_task *t) {
    if (lp->current_task == (PyObject *)t)
        return 0;
    PyObject *tasks = lp->st->current_tasks;
    if (lp->current_task == NULL) {
        PyObject *other = PyDict_GetItemWithError(tasks, (PyObject *)lp);
        if (other != NULL)
            PyErr_Format(PyExc_RuntimeError,
                         "Cannot enter into task %R while another task %R is being executed.", t,
                         other);
        if (PyErr_Occurred())
            return -1;
    }
    if (PyDict_SetItem(tasks, (PyObject *)lp, (PyObject *)t) < 0)
        return -1;
    lp->current_task = (PyObject *)t;
    return 0;
}

void taut_task_leave_slow(taut_pyloop *lp) {
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    lp->current_task = NULL;
    if (PyDict_DelItem(lp->st->current_tasks, (PyObject *)lp) < 0)
        PyErr_Clear(); /* somebody else has taken it out */
    if (exc != NULL)
        taut_exception_restore(exc);
}

void taut_task_list(taut_state *st, taut_task *t) {
    taut_list_unlink(&t->link);
    taut_list_append(&st->own.live, &t->link);
}

taut_task *taut_task_next_listed(taut_state *st, taut_task *t) {
    taut_list *next = t == NULL ? st->own.live.next : t->link.next;
    return next == &st->own.live ? NULL : TAUT_CONTAINER(next, taut_task, link);
}

taut_task_lists taut_task_lists_get(taut_state *st) {
    return (taut_task_lists){.head = &st->own.live, .node = offsetof(taut_task, link)};
}

PyObject *taut_live_tasks(PyObject *module, PyObject *unused) {
    taut_list *all = &taut_state_of(module)->own.live;
    PyObject *list = PyList_New(0);
    for (taut_list *n = all->next; list != NULL && n != all; n = n->next)
        if (PyList_Append(list, (PyObject *)TAUT_CONTAINER(n, taut_task, link)) < 0)
            Py_CLEAR(list);
    return list;
}
#endif
