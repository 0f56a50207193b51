/* What differs between the CPython versions that taut supports (3.11 to 3.14) and is not a frame
 * layout (frames_3xx.c). Everything else in src/binding is written against the common API. */
#ifndef TAUT_BINDING_COMPAT_H
#define TAUT_BINDING_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if PY_VERSION_HEX < 0x030B0000
#error "taut needs CPython 3.11 or newer"
#endif

/* The raised exception as one object (3.12 gave the API this form), with its traceback attached. */
static inline PyObject *taut_exception_take(void) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(traceback);
    Py_DECREF(type);
    return value;
#endif
}

/* Raises `exc`; steals the reference. */
static inline void taut_exception_restore(PyObject *exc) {
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exc);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exc)), exc, PyException_GetTraceback(exc));
#endif
}

/* Where a contextvars.Context keeps its contents (an immutable map), the same in 3.11 to 3.14.
 * taut_context_check() proves it once, at module start. */
typedef struct {
    PyObject_HEAD PyObject *previous;
    PyObject *vars;
} taut_context_layout;
static inline PyObject **taut_context_vars(PyObject *context) {
    return &((taut_context_layout *)context)->vars;
}
/* 0, or -1 with ImportError: a fresh context and its copy share their contents, as one pointer. */
static inline int taut_context_check(void) {
    PyObject *one = PyContext_New(), *two = one == NULL ? NULL : PyContext_Copy(one);
    int ok = two != NULL && *taut_context_vars(one) != NULL &&
             *taut_context_vars(one) == *taut_context_vars(two) &&
             strcmp(Py_TYPE(*taut_context_vars(one))->tp_name, "hamt") == 0;
    Py_XDECREF(one);
    Py_XDECREF(two);
    if (!ok && !PyErr_Occurred())
        PyErr_SetString(PyExc_ImportError, "taut does not know this Python's contexts");
    return ok ? 0 : -1;
}

/* A class with __weakref__ in its __slots__ keeps the list inside the object up to 3.11 and in the
 * object's pre-header from 3.12 on; either way the type's tp_weaklistoffset finds it. */
#if PY_VERSION_HEX >= 0x030C0000
#define TAUT_WEAKLIST_FIELD
#define TAUT_WEAKLIST_CLEAR(obj) ((void)0)
#else
#define TAUT_WEAKLIST_FIELD PyObject *weaklist;
#define TAUT_WEAKLIST_CLEAR(obj) ((obj)->weaklist = NULL)
#endif
static inline void taut_weakrefs_clear(PyObject *self) {
    if (*(PyObject **)((char *)self + Py_TYPE(self)->tp_weaklistoffset) != NULL)
        PyObject_ClearWeakRefs(self);
}

/* What a weak reference refers to, as a new reference; NULL: it is gone. */
static inline PyObject *taut_weakref_get(PyObject *ref) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *target = NULL;
    (void)PyWeakref_GetRef(ref, &target);
    return target;
#else
    PyObject *target = PyWeakref_GET_OBJECT(ref);
    return target == Py_None ? NULL : Py_NewRef(target);
#endif
}

#if PY_VERSION_HEX < 0x030C0000
#define Py_T_INT T_INT
#define Py_T_DOUBLE T_DOUBLE
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_T_OBJECT_EX T_OBJECT_EX
#define Py_READONLY READONLY
#include <structmember.h>
#endif

#endif
