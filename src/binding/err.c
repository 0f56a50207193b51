/* Core errors as Python exceptions. */
#include "binding/err.h"
#include <errno.h>

PyObject *taut_err_exception(int err) {
    if (err == -ENOMEM)
        return PyObject_CallNoArgs(PyExc_MemoryError);
    if (err < 0 && err > TAUT_ERR_BASE) /* OSError(errno, text) picks the subclass */
        return PyObject_CallFunction(PyExc_OSError, "is", -err, taut_err_message(err));
    return PyObject_CallFunction(PyExc_RuntimeError, "s", taut_err_message(err));
}

PyObject *taut_err_raise(int err) {
    PyObject *exc = taut_err_exception(err);
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
    return NULL;
}
