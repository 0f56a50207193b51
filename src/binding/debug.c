/* Debug mode: log lines, slow calls of protocols, where forgotten objects were made. */
#include "binding/debug.h"
#include "base/clock.h"
#include "binding/compat.h"
#include "binding/frames.h"
#include "binding/notice.h"

#define WRITER_CALLS                                                                               \
    2 /* from close() of a transport to that of its StreamWriter, and who calls it */

void taut_debug_log(taut_pyloop *lp, const char *format, PyObject *about, const char *detail,
                    PyObject *exc) {
    if (TAUT_LIKELY(!lp->debug))
        return;
    PyObject *debug = PyObject_GetAttrString(lp->st->logger, "debug");
    PyObject *args = detail != NULL ? Py_BuildValue("(sOs)", format, about, detail)
                                    : Py_BuildValue("(sO)", format, about);
    PyObject *kwargs = exc != NULL ? Py_BuildValue("{sO}", "exc_info", exc) : NULL;
    PyObject *r = NULL;
    if (debug != NULL && args != NULL && (exc == NULL || kwargs != NULL))
        r = PyObject_Call(debug, args, kwargs);
    if (r == NULL)
        PyErr_WriteUnraisable(about);
    Py_XDECREF(r);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(debug);
}

uint64_t taut_debug_time_slow(taut_pyloop *lp) {
    if (lp->timing)
        return 0;
    lp->timing = 1;
    return taut_clock_now_ns();
}

void taut_debug_timed_slow(taut_pyloop *lp, uint64_t began_ns, PyObject *owner, PyObject *name,
                           PyObject *transport) {
    lp->timing = 0;
    double seconds = (double)(taut_clock_now_ns() - began_ns) * 1e-9;
    if (seconds < lp->slow_callback_duration)
        return;
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    PyObject *r =
        PyObject_CallMethod((PyObject *)lp, "_call_slow", "OOOd", owner, name, transport, seconds);
    if (r == NULL)
        PyErr_WriteUnraisable(transport);
    Py_XDECREF(r);
    if (exc != NULL)
        taut_exception_restore(exc);
}

PyObject *taut_debug_stack_slow(taut_pyloop *lp) {
    PyObject *stack = PyObject_CallNoArgs(lp->st->extract_stack);
    if (stack == NULL)
        PyErr_Clear(); /* the object is worth more than where it came from */
    return stack;
}

/* `message` (taken), `heading` and the stack below it; the message alone when that fails. */
static PyObject *with_stack(PyObject *message, const char *heading, PyObject *stack) {
    PyObject *format = message && stack ? PyObject_GetAttrString(stack, "format") : NULL;
    PyObject *lines = format ? PyObject_CallNoArgs(format) : NULL;
    PyObject *empty = lines ? PyUnicode_FromString("") : NULL;
    PyObject *text = empty ? PyUnicode_Join(empty, lines) : NULL;
    if (text != NULL)
        Py_SETREF(text, PyObject_CallMethod(text, "rstrip", NULL));
    PyObject *whole =
        text ? PyUnicode_FromFormat("%U%s (most recent call last):\n%U", message, heading, text)
             : NULL;
    if (whole != NULL)
        Py_SETREF(message, whole);
    else if (message != NULL)
        PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(empty);
    Py_XDECREF(lines);
    Py_XDECREF(format);
    return message;
}

/* (file, line, function), or a stack, of what taut_debug_made_at gave; None: not known. */
static PyObject *made_at_show(PyObject *made_at) {
    PyObject *shown = made_at == NULL               ? Py_NewRef(Py_None)
                      : PyTuple_CheckExact(made_at) ? taut_site_show(made_at)
                                                    : Py_NewRef(made_at);
    if (shown == NULL)
        PyErr_Clear();
    return shown == NULL ? Py_NewRef(Py_None) : shown;
}

/* The doctor of `self`; nothing when its module is going. */
static void tell(const char *event, PyObject *self, const char *what, PyObject *made_at) {
    taut_state *st = taut_state_of_type(Py_TYPE(self));
    PyObject *shown = made_at_show(made_at);
    if (st == NULL)
        PyErr_Clear();
    else
        (void)taut_notice(st, NULL, event, "(OsO)", self, what, shown);
    Py_DECREF(shown);
}

void taut_debug_unclosed(PyObject *self, const char *kind, PyObject *made_at) {
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    PyObject *stack = made_at != NULL && PyTuple_CheckExact(made_at) ? NULL : made_at;
    PyObject *message =
        with_stack(PyUnicode_FromFormat("unclosed %s %R", kind, self), ", created at", stack);
    if (message == NULL || PyErr_ResourceWarning(self, 1, "%U", message) < 0)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(message);
    tell("unclosed", self, kind, made_at);
    if (exc != NULL)
        taut_exception_restore(exc);
}

void taut_debug_left(PyObject *self, PyObject *made_at) {
    tell("left_open", self, "connection", made_at);
}

/* Whether asyncio's StreamWriter closes its transport because the program has dropped both. */
static int writer_is_dropped(taut_state *st) {
    taut_frame_id f = taut_frames_current(PyThreadState_Get());
    for (int i = 0; i < WRITER_CALLS && f.frame != NULL; i++, f = taut_frames_outer(f.frame)) {
        const PyCodeObject *code = f.code;
        if (code != NULL && PyCode_Check(code) && code->co_name == st->str___del__)
            return PyUnicode_CompareWithASCIIString(code->co_qualname, "StreamWriter.__del__") == 0;
    }
    return 0;
}

void taut_debug_closing(taut_state *st, PyObject *self, const char *kind, PyObject *made_at) {
    if (TAUT_LIKELY(!writer_is_dropped(st)))
        return;
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    tell("unclosed", self, kind, made_at);
    if (exc != NULL)
        taut_exception_restore(exc);
}

void taut_debug_unawaited(PyObject *self, const char *name, PyObject *stack) {
    PyObject *exc = PyErr_Occurred() ? taut_exception_take() : NULL;
    PyObject *message = with_stack(PyUnicode_FromFormat("coroutine '%s' was never awaited", name),
                                   "\nCoroutine created at", stack);
    if (message == NULL || PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "%U", message) < 0)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(message);
    tell("unawaited", self, name, stack);
    if (exc != NULL)
        taut_exception_restore(exc);
}
