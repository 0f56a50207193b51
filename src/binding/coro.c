#include "binding/coro.h"

#include <string.h>

#include "binding/frames.h"

#define UNIT 2
/* Of a generator's frame, in all versions: suspended, and (from 3.13 on) in an await. */
#define STATE_AWAITS (-1)

static taut_frame_layout layout;
static int known;

static void *pointer_at(const void *base, size_t offset) {
    void *value;
    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

static int state_of(PyObject *gen) {
    return *((const int8_t *)gen + layout.gen_state);
}

static const char *frame_of(PyObject *gen) {
    return (const char *)gen + layout.gen_frame;
}

static PyCodeObject *code_of(const char *frame) {
    uintptr_t bits = (uintptr_t)pointer_at(frame, layout.frame_code);
    return (PyCodeObject *)(bits & ~layout.frame_code_tag);
}

/* A local variable or an entry of the stack. With all bits of the tag set it is a number. */
static PyObject *value_at(const char *locals, size_t i) {
    uintptr_t bits = (uintptr_t)pointer_at(locals, i * sizeof(void *)), tag = layout.frame_code_tag;
    return tag != 0 && (bits & tag) == tag ? NULL : (PyObject *)(bits & ~tag);
}

/* What is on top of the frame's stack, borrowed; NULL: nothing. */
static PyObject *top_of(const char *frame, const PyCodeObject *code) {
    const char *locals = frame + layout.frame_size;
    size_t count;
    if (layout.stack_is_pointer) {
        count =
            (size_t)((const char *)pointer_at(frame, layout.frame_stack) - locals) / sizeof(void *);
    } else {
        int top;
        memcpy(&top, frame + layout.frame_stack, sizeof top);
        count = top < 0 ? 0 : (size_t)top;
    }
    if (count <= (size_t)code->co_nlocalsplus ||
        count > (size_t)code->co_nlocalsplus + (size_t)code->co_stacksize)
        return NULL;
    return value_at(locals, count - 1);
}

static int has_frame(PyObject *object) {
    return PyCoro_CheckExact(object) || PyGen_CheckExact(object) || PyAsyncGen_CheckExact(object);
}

/* What stands between an await and the coroutine or asynchronous generator that it is for: built-in
 * types which have that as their first field. */
static int is_wrapper(PyTypeObject *type) {
    return !(type->tp_flags & Py_TPFLAGS_HEAPTYPE) &&
           (strcmp(type->tp_name, "async_generator_asend") == 0 ||
            strcmp(type->tp_name, "async_generator_athrow") == 0 ||
            strcmp(type->tp_name, "coroutine_wrapper") == 0);
}

PyObject *taut_coro_next(PyObject *gen) {
    if (!has_frame(gen) || state_of(gen) != STATE_AWAITS)
        return NULL;
    const char *frame = frame_of(gen);
    PyObject *next = top_of(frame, code_of(frame));
    if (next != NULL && !has_frame(next) && is_wrapper(Py_TYPE(next)))
        next = pointer_at(next, sizeof(PyObject));
    return next != NULL && has_frame(next) ? next : NULL;
}

int taut_coro_known(void) {
    return known;
}

int taut_coro_frames(PyObject *coro, taut_coro_frame out[TAUT_CORO_FRAMES_MAX]) {
    int count = 0;
    for (PyObject *gen = coro; gen != NULL && has_frame(gen) && count < TAUT_CORO_FRAMES_MAX;) {
        if (state_of(gen) >= 0) /* it runs, or is over */
            break;
        const char *frame = frame_of(gen);
        PyCodeObject *code = code_of(frame);
        const char *start = (const char *)code + offsetof(PyCodeObject, co_code_adaptive);
        const char *at = pointer_at(frame, layout.frame_instr);
        out[count++] = (taut_coro_frame){code, (int)((at - start) / UNIT)};
        gen = taut_coro_next(gen);
    }
    return count;
}

int taut_coro_locals(PyObject *coro, PyObject **out, int max) {
    if (!has_frame(coro) || state_of(coro) >= 0)
        return 0;
    const char *frame = frame_of(coro);
    int count = code_of(frame)->co_nlocalsplus;
    for (int i = 0; i < count && i < max; i++)
        out[i] = value_at(frame + layout.frame_size, (size_t)i);
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

PyDoc_STRVAR(enable_doc, "coroutines_enable(coro, frames, /) -> bool\n\nWhether coroutine_frames() "
                         "finds `frames` for `coro`; only then it may be used.");
static PyObject *coroutines_enable(PyObject *module, PyObject *args) {
    PyObject *coro, *expected;
    if (!PyArg_ParseTuple(args, "OO!:coroutines_enable", &coro, &PyList_Type, &expected))
        return NULL;
    if (taut_frame_layout_get(&layout) < 0)
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
