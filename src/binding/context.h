/* Contexts of queued calls. call_soon() without context= runs its callback in a copy of the
 * caller's context. Copies of equal contents share one context object (the snapshot), which makes
 * the copy free and lets consecutive callbacks stay in it; a callback that sets a variable has its
 * change taken back when it returns, so that none ever sees another's. Loop thread or any thread
 * with the GIL held. */
#ifndef TAUT_BINDING_CONTEXT_H
#define TAUT_BINDING_CONTEXT_H

#include "binding/compat.h"
#include "binding/pyloop.h"

/* A context equal to the current one, as a new reference; NULL with an exception. *vars: its
 * contents (a new reference) for taut_context_undo, or NULL when the context is not shared. */
PyObject *taut_context_for_call(taut_pyloop *lp, PyObject **vars);

/* Gives the snapshot up: before a wait, so that an idle loop keeps nobody's values alive. */
void taut_context_forget(taut_pyloop *lp);

/* Makes `context` (NULL: none) the one that is entered. Consecutive entries of one context share
 * one enter and exit. 0, or -1 with an exception. */
int taut_context_switch_slow(taut_pyloop *lp, PyObject *context);
static inline int taut_context_switch(taut_pyloop *lp, PyObject *context) {
    return lp->entered_context == context ? 0 : taut_context_switch_slow(lp, context);
}
/* Leaves the entered context, if any; problems are reported through taut_pyloop_unhandled. */
void taut_context_leave(taut_pyloop *lp);

/* After a callback ran in a shared context: takes back what it changed. Keeps an exception that is
 * set. Consumes `vars` (NULL allowed: the context is the caller's own). */
void taut_context_undo_slow(taut_pyloop *lp, PyObject *context, PyObject *vars);
static inline void taut_context_undo(taut_pyloop *lp, PyObject *context, PyObject *vars) {
    if (vars == NULL)
        return;
    if (TAUT_LIKELY(*taut_context_vars(context) == vars))
        Py_DECREF(vars);
    else
        taut_context_undo_slow(lp, context, vars);
}

#endif
