/* What is remembered of the few tasks that may turn out to be a finding: one that has failed (will
 * anybody ask for its exception?), one that was cancelled and goes on (does it clean up, or has it
 * swallowed the CancelledError?). A bounded table; a task knows its place in it. Tasks of taut's
 * loops only; their loop's thread, with the GIL. */
#ifndef TAUT_BINDING_TASK_NOTES_H
#define TAUT_BINDING_TASK_NOTES_H

#include "binding/task.h"

/* The step of `t` is over; `thrown` was thrown in (NULL: nothing) and `others` references to it are
 * held in C; `waits`: the coroutine has yielded. An exception that is set stays set. */
void taut_task_note_step(taut_state *st, taut_task *t, PyObject *thrown, Py_ssize_t others,
                         int waits);
/* Whether somebody waits for the end of `t`, which is not done: asyncio.wait() may ask for the
 * exceptions long after. A callback that only takes it out of a set, a list or a dictionary, as
 * asyncio advises, does not count. */
int taut_task_note_is_attended(const taut_task *t);
/* It has failed, unattended. */
void taut_task_note_failed(taut_state *st, taut_task *t);
/* It is about to go, or to be used again. */
void taut_task_note_drop(taut_task *t);
static inline void taut_task_note_forget(taut_task *t) {
    if (TAUT_UNLIKELY(t->note != 0))
        taut_task_note_drop(t);
}
/* tp_traverse of what the note of `t` holds. */
int taut_task_note_visit(taut_task *t, visitproc visit, void *arg);

/* The module's task_note_delays(kept, swallowed, slow): seconds until what each note stands for is
 * told. */
int taut_task_note_functions_add(PyObject *module, taut_state *st);

#endif
