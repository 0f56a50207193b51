/* Contexts of queued calls: sharing, entering, undoing. */
#include "binding/context.h"

/* The snapshot serves as long as it still has the contents that it was made with and the current
 * context has the same ones: contents are immutable maps, so one pointer says it all. */
PyObject *taut_context_for_call(taut_pyloop *lp, PyObject **vars) {
    PyObject *current = PyThreadState_Get()->context;
    *vars = NULL;
    if (current == NULL)
        return PyContext_CopyCurrent();
    PyObject *now = *taut_context_vars(current);
    /* The second test: a callback that runs in the snapshot may be changing it right now. */
    if (lp->snapshot_vars != now || *taut_context_vars(lp->snapshot) != now) {
        PyObject *copy = PyContext_CopyCurrent();
        if (copy == NULL)
            return NULL;
        Py_XSETREF(lp->snapshot, copy);
        Py_XSETREF(lp->snapshot_vars, Py_NewRef(now));
    }
    *vars = Py_NewRef(now);
    return Py_NewRef(lp->snapshot);
}

void taut_context_forget(taut_pyloop *lp) {
    Py_CLEAR(lp->snapshot_vars);
    Py_CLEAR(lp->snapshot);
}

int taut_context_switch_slow(taut_pyloop *lp, PyObject *context) {
    if (lp->entered_context != NULL) {
        PyObject *old = lp->entered_context;
        lp->entered_context = NULL;
        int rc = PyContext_Exit(old);
        Py_DECREF(old);
        if (rc < 0)
            return -1;
    }
    if (context != NULL) {
        if (PyContext_Enter(context) < 0)
            return -1;
        lp->entered_context = Py_NewRef(context);
    }
    return 0;
}

void taut_context_leave(taut_pyloop *lp) {
    if (lp->entered_context != NULL && taut_context_switch_slow(lp, NULL) < 0)
        taut_pyloop_unhandled(lp, "a callback left its context entered", NULL, NULL);
}

void taut_context_undo_slow(taut_pyloop *lp, PyObject *context, PyObject *vars) {
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    /* Left first: variables cache what they last read, until the context is entered anew. */
    taut_context_leave(lp);
    PyObject **contents = taut_context_vars(context);
    PyObject *changed = *contents;
    *contents = vars;
    Py_DECREF(changed); /* may run finalizers: last */
    if (exc != NULL)
        taut_exception_restore(exc);
}
