/* Argument helpers for METH_FASTCALL | METH_KEYWORDS methods. */
#include "binding/args.h"

#include <math.h>

int taut_args_context(taut_state *st, const char *func, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames, PyObject **context) {
    *context = NULL;
    if (kwnames == NULL)
        return 0;
    Py_ssize_t count = PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (name != st->str_context && PyUnicode_Compare(name, st->str_context) != 0) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", func,
                             name);
            return -1;
        }
        *context = args[nargs + i] == Py_None ? NULL : args[nargs + i];
    }
    if (*context != NULL && !PyContext_CheckExact(*context)) {
        PyErr_Format(PyExc_TypeError, "%s(): context must be a contextvars.Context or None, not %R",
                     func, *context);
        return -1;
    }
    return 0;
}

int taut_args_at_least(const char *func, Py_ssize_t nargs, Py_ssize_t min, const char *first) {
    if (nargs >= min)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() missing required positional argument: '%s'", func, first);
    return -1;
}

PyObject *taut_args_tuple(PyObject *const *args, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    if (tuple == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    return tuple;
}

int taut_args_fd(PyObject *obj) {
    if (!PyLong_Check(obj)) {
        PyObject *number = PyObject_CallMethod(obj, "fileno", NULL);
        if (number == NULL) {
            if (PyErr_ExceptionMatches(PyExc_AttributeError))
                PyErr_Format(PyExc_ValueError, "Invalid file object: %R", obj);
            return -1;
        }
        if (!PyLong_Check(number)) {
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", obj);
            Py_DECREF(number);
            return -1;
        }
        int fd = taut_args_fd(number);
        Py_DECREF(number);
        return fd;
    }
    int overflow = 0;
    long value = PyLong_AsLongAndOverflow(obj, &overflow);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (overflow || value < 0 || value > INT_MAX) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %R", obj);
        return -1;
    }
    return (int)value;
}

/* A mark as asyncio takes it: any real number, beyond the address space as good as infinite.
 * *value below zero for a negative one. 0, or -1 with an exception. */
static int limit_from(PyObject *obj, double *value) {
    *value = PyFloat_AsDouble(obj);
    if (*value == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
        *value = (double)PY_SSIZE_T_MAX;
    }
    return 0;
}

static size_t limit_size(double value) {
    return value >= (double)PY_SSIZE_T_MAX ? PY_SSIZE_T_MAX : (size_t)value;
}

int taut_args_marks(PyObject *high_obj, PyObject *low_obj, size_t fallback, size_t *high_out,
                    size_t *low_out) {
    double high = (double)fallback, low = 0;
    if (low_obj != Py_None && limit_from(low_obj, &low) < 0)
        return -1;
    if (high_obj != Py_None) {
        if (limit_from(high_obj, &high) < 0)
            return -1;
    } else if (low_obj != Py_None) {
        high = 4 * low;
    }
    if (low_obj == Py_None)
        low = floor(high / 4);
    if (!(high >= low && low >= 0)) {
        PyObject *h = high_obj != Py_None ? Py_NewRef(high_obj) : PyLong_FromDouble(high);
        PyObject *l = low_obj != Py_None ? Py_NewRef(low_obj) : PyLong_FromDouble(low);
        if (h != NULL && l != NULL)
            PyErr_Format(PyExc_ValueError, "high (%R) must be >= low (%R) must be >= 0", h, l);
        Py_XDECREF(h);
        Py_XDECREF(l);
        return -1;
    }
    *high_out = limit_size(high);
    *low_out = limit_size(low);
    return 0;
}
