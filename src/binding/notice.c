/* How Python's part of the doctor hears of rare events. */
#include "binding/notice.h"

#include "binding/compat.h"

#include <stdarg.h>

static PyObject *call_notice(PyObject *notice, const char *kind, const char *format,
                             va_list values) {
    PyObject *head = Py_BuildValue("(s)", kind);
    PyObject *tail = head == NULL ? NULL : Py_VaBuildValue(format, values);
    PyObject *args = tail == NULL ? NULL : PySequence_Concat(head, tail);
    PyObject *result = args == NULL ? NULL : PyObject_CallObject(notice, args);
    Py_XDECREF(head);
    Py_XDECREF(tail);
    Py_XDECREF(args);
    return result;
}

/* Nobody waits for an exception here: those that end a program leave the loop's run. */
static void dispose(taut_pyloop *lp, PyObject *notice) {
    if (lp == NULL || lp->thread_ident == 0 || !taut_pyloop_take_exit(lp))
        PyErr_WriteUnraisable(notice);
}

uint64_t taut_notice(taut_state *st, taut_pyloop *lp, const char *kind, const char *format, ...) {
    if (st == NULL || st->own.notice == NULL)
        return 0;
    uint64_t number = 0;
    PyObject *before = PyErr_Occurred() ? taut_exception_take() : NULL;
    PyObject *notice = Py_NewRef(st->own.notice);
    va_list values;
    va_start(values, format);
    PyObject *result = call_notice(notice, kind, format, values);
    va_end(values);
    if (result != NULL && PyLong_Check(result))
        number = PyLong_AsUnsignedLongLong(result);
    if (PyErr_Occurred()) {
        number = 0;
        dispose(lp, notice);
    }
    Py_XDECREF(result);
    Py_DECREF(notice);
    if (before != NULL)
        taut_exception_restore(before);
    return number;
}

/* In the place of warnings._warn_unawaited_coroutine, which it calls. Being no Python function it
 * is no frame either: the warning names the same line as without it. */
PyDoc_STRVAR(unawaited_doc, "warn_unawaited(coro, /) -> None\n\nWarns as the function does that "
                            "notices_enable() was given, and tells the doctor.");
static PyObject *warn_unawaited(PyObject *module, PyObject *coro) {
    taut_state *st = taut_state_of(module);
    PyObject *warn = Py_XNewRef(st->own.warn_unawaited);
    PyObject *done = warn == NULL ? Py_NewRef(Py_None) : PyObject_CallOneArg(warn, coro);
    Py_XDECREF(warn);
    (void)taut_notice(st, NULL, "unawaited", "(OOO)", coro, Py_None, Py_None);
    return done;
}

PyDoc_STRVAR(enable_doc,
             "notices_enable(notice, warn_unawaited, /) -> None\n\nFrom now on notice(kind, *args) "
             "hears of rare events; `warn_unawaited` is what warn_unawaited() calls first.");
static PyObject *notices_enable(PyObject *module, PyObject *args) {
    taut_state *st = taut_state_of(module);
    PyObject *notice, *warn;
    if (!PyArg_ParseTuple(args, "OO:notices_enable", &notice, &warn))
        return NULL;
    if (!PyCallable_Check(notice) || !PyCallable_Check(warn)) {
        PyErr_SetString(PyExc_TypeError, "notices_enable() takes two callables");
        return NULL;
    }
    Py_XSETREF(st->own.notice, Py_NewRef(notice));
    Py_XSETREF(st->own.warn_unawaited, Py_NewRef(warn));
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"notices_enable", notices_enable, METH_VARARGS, enable_doc},
    {"warn_unawaited", warn_unawaited, METH_O, unawaited_doc},
    {NULL},
};

int taut_notice_functions_add(PyObject *module, taut_state *st) {
    return PyModule_AddFunctions(module, methods);
}
