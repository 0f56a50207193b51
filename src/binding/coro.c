#include "binding/coro.h"

#include "binding/await.h"

#define UNIT 2

static int known;

/* NULL: it has none, or runs. */
static const taut_await *frame_of(PyObject *object, taut_await *a) {
    taut_peek p;
    taut_peek_begin_direct(&p);
    enum taut_await_state state = taut_await_read(&p, object, Py_TYPE(object), a);
    return state == TAUT_AWAIT_CREATED || state == TAUT_AWAIT_SUSPENDED ? a : NULL;
}

/* Borrowed; NULL: nothing. */
static PyObject *awaited(const taut_await *a) {
    const PyObject *next = a->awaits;
    while (next != NULL && taut_await_is_wrapper(Py_TYPE(next)))
        next = *(const PyObject *const *)(next + 1);
    return (PyObject *)next;
}

PyObject *taut_coro_next(PyObject *coro) {
    taut_await a;
    return frame_of(coro, &a) != NULL ? awaited(&a) : NULL;
}

int taut_coro_known(void) {
    return known;
}

int taut_coro_frames(PyObject *coro, taut_coro_frame out[TAUT_CORO_FRAMES_MAX]) {
    int count = 0;
    taut_await a;
    while (coro != NULL && count < TAUT_CORO_FRAMES_MAX && frame_of(coro, &a) != NULL) {
        const char *start = (const char *)a.code + offsetof(PyCodeObject, co_code_adaptive);
        int unit = (int)(((const char *)a.instr - start) / UNIT);
        out[count++] = (taut_coro_frame){(PyCodeObject *)a.code, unit};
        coro = awaited(&a);
    }
    return count;
}

int taut_coro_locals(PyObject *coro, PyObject **out, int max) {
    taut_await a;
    if (frame_of(coro, &a) == NULL)
        return 0;
    int count = ((const PyCodeObject *)a.code)->co_nlocalsplus;
    for (int i = 0; i < count && i < max; i++)
        out[i] = (PyObject *)taut_await_local(&a, (size_t)i);
    return count < max ? count : max;
}

int taut_coro_line(PyCodeObject *code, int unit) {
    int line = unit < 0 ? -1 : PyCode_Addr2Line(code, unit * UNIT);
    return line < 0 ? code->co_firstlineno : line;
}

static PyObject *frames_list(PyObject *coro) {
    taut_coro_frame frames[TAUT_CORO_FRAMES_MAX];
    int count = taut_coro_frames(coro, frames);
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < count; i++) {
        PyObject *item =
            Py_BuildValue("(Oi)", frames[i].code, taut_coro_line(frames[i].code, frames[i].unit));
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

PyDoc_STRVAR(frames_doc, "coroutine_frames(coro, /) -> list\n\nWhere a suspended coroutine stands: "
                         "(code, line) of it, of what it awaits, and so on. Empty where that is "
                         "not known, and before coroutines_enable().");
static PyObject *coroutine_frames(PyObject *module, PyObject *coro) {
    return known ? frames_list(coro) : PyList_New(0);
}

PyDoc_STRVAR(enable_doc,
             "coroutines_enable(wrappers, coro, frames, /) -> bool\n\nWhether coroutine_frames() "
             "finds `frames` for `coro`; only then it may be used. `wrappers`: as of "
             "listing_enable().");
static PyObject *coroutines_enable(PyObject *module, PyObject *args) {
    PyObject *wrappers, *coro, *expected;
    if (!PyArg_ParseTuple(args, "O!OO!:coroutines_enable", &PyTuple_Type, &wrappers, &coro,
                          &PyList_Type, &expected))
        return NULL;
    if (taut_coro_init(wrappers) < 0)
        Py_RETURN_FALSE;
    PyObject *found = frames_list(coro);
    known = found == NULL ? -1 : PyObject_RichCompareBool(found, expected, Py_EQ);
    Py_XDECREF(found);
    if (known < 0) {
        known = 0;
        return NULL;
    }
    return PyBool_FromLong(known);
}

int taut_coro_init(PyObject *wrappers) {
    PyTupleObject *types = (PyTupleObject *)wrappers;
    return taut_await_init((const void *const *)types->ob_item, (size_t)PyTuple_GET_SIZE(wrappers));
}

PyDoc_STRVAR(line_doc,
             "code_line(code, unit, /) -> int\n\nThe line of an instruction, by its number; "
             "the function's first when it is not known.");
static PyObject *code_line(PyObject *module, PyObject *args) {
    PyObject *code;
    int unit;
    if (!PyArg_ParseTuple(args, "O!i:code_line", &PyCode_Type, &code, &unit))
        return NULL;
    return PyLong_FromLong(taut_coro_line((PyCodeObject *)code, unit));
}

static PyMethodDef methods[] = {
    {"code_line", code_line, METH_VARARGS, line_doc},
    {"coroutine_frames", coroutine_frames, METH_O, frames_doc},
    {"coroutines_enable", coroutines_enable, METH_VARARGS, enable_doc},
    {NULL},
};

int taut_coro_functions_add(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
