/* The name of the task whose step a loop runs, read without the GIL as frames.h reads frames: by
 * offsets that were found in, and proven on, a task of this very interpreter. */
#ifndef TAUT_BINDING_TASK_NAME_H
#define TAUT_BINDING_TASK_NAME_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "binding/frames.h"

/* With the GIL, before the first watch: `task`, an asyncio.Task with a name that no other object
 * has, what it passed to call_soon, and the type of our handles, which debug mode puts around that.
 * Where they do not fit together no name is ever told. */
void taut_task_name_learn(PyObject *task, PyObject *step, PyObject *wakeup,
                          const PyTypeObject *handle_type);
/* The same of tasks of ours, whose names are where asyncio's are: they are queued themselves, and
 * in debug mode called through these methods. */
void taut_task_name_learn_own(const PyTypeObject *type, const PyMethodDef *step,
                              const PyMethodDef *wakeup);
/* Without the GIL: appends to out->text the name of the task that `current`, what the loop calls
 * now, belongs to. 0 with *offset, or -1 when that is no task's or cannot be read. */
int taut_task_name_read(const void *current, taut_stack *out, uint32_t *offset);
/* The parts of that: the task that `current` belongs to; its name; and whether it is one of ours.
 * Without the GIL. */
int taut_task_of(taut_peek *p, const void *current, const void **task);
int taut_task_name_of(taut_peek *p, const void *task, taut_stack *out, uint32_t *offset);
int taut_task_is_own(taut_peek *p, const void *task);

#endif
