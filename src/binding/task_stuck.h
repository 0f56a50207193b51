/* Tasks that wait and may never be woken. With the GIL held, on the thread of the tasks' loop. */
#ifndef TAUT_BINDING_TASK_STUCK_H
#define TAUT_BINDING_TASK_STUCK_H

#include "binding/task.h"

/* Those whose wait has become long (TAUT_STUCK_WAIT_NS) since the examination before; each wait is
 * told once. Zeroed memory is an empty one. */
#define TAUT_STUCK_WAIT_NS (2 * TAUT_NS_PER_S)
#define TAUT_STUCK_MAX 1024 /* of one examination; more of them are left out */
typedef struct {
    PyObject *tasks; /* a list, or NULL */
    uint64_t after_ns, until_ns;
    int is_asked; /* the rules want to be called again, even if there is nothing new */
} taut_stuck;
/* An examination begins, looks at a task (no Python code is run), and is over: then the rules in
 * taut.doctor._deadlock are called. */
void taut_stuck_begin(taut_stuck *s, uint64_t now_ns);
void taut_stuck_see(taut_stuck *s, taut_task *t);
void taut_stuck_tell(taut_stuck *s, taut_pyloop *lp);

/* The module's task_is_lost(task) -> bool: whether nobody but the task itself refers, in whatever
 * roundabout way, to the future that it waits for. Looks at 4096 objects at most, makes none. */
PyObject *taut_task_is_lost(PyObject *module, PyObject *task);
/* task_is_unkept(ref) -> bool: whether the collector may take the task of this weak reference any
 * time, although somebody might still wake it: only weak references lead to what it waits for. Who
 * asks may have no reference to the task. As much work as the former, for few tasks. */
PyObject *taut_task_is_unkept(PyObject *module, PyObject *ref);
/* tasks_waiting(loop, seconds) -> list: tasks of ours, of this loop, that have waited so long. */
PyObject *taut_tasks_waiting(PyObject *module, PyObject *args);

#endif
