/* The module's functions about listings and the console. */
#include "binding/coro.h"
#include "binding/listing_private.h"
#include "io/console.h"

PyDoc_STRVAR(enable_doc,
             "listing_enable(wrappers, partial, others, frames, /) -> None\n\nMakes listings of "
             "tasks possible. `wrappers`: types of objects whose first field is the awaitable that "
             "they stand for; `others`: gives a list of asyncio's own tasks; `frames`: whether "
             "those of coroutines are listed.");
static PyObject *listing_enable(PyObject *module, PyObject *args) {
    taut_listing_known *now = &taut_listing_now;
    PyObject *wrappers, *partial, *others;
    int frames;
    if (!PyArg_ParseTuple(args, "O!O!Op:listing_enable", &PyTuple_Type, &wrappers, &PyType_Type,
                          &partial, &others, &frames))
        return NULL;
    (void)taut_frames_init(); /* without it, no frames */
    now->partial = partial;
    Py_XSETREF(now->others, Py_NewRef(others));
    now->interp = PyInterpreterState_Get();
    now->tstate = PyThreadState_Get();
    now->st = taut_state_of(module);
    now->lists = taut_task_lists_get(now->st);
    now->frames = taut_coro_init(wrappers) == 0 && frames && taut_frames_layout() != NULL;
    Py_RETURN_NONE;
}

static PyObject *raise_not_enabled(void) {
    PyErr_SetString(PyExc_RuntimeError, "listing_enable() has not been called");
    return NULL;
}

/* The text, which is freed; NULL with an exception. */
static PyObject *finish(taut_json_out *w, taut_listing *l) {
    PyObject *text = NULL;
    if (taut_json_out_end(w) < 0)
        PyErr_NoMemory();
    else
        text = PyUnicode_DecodeUTF8((const char *)taut_buf_bytes(w->to),
                                    (Py_ssize_t)taut_buf_size(w->to), "replace");
    taut_buf_free(w->to);
    taut_listing_free(l);
    return text;
}

PyDoc_STRVAR(frames_doc, "listing_frames(coroutine, /) -> str\n\nThe frames of a coroutine and of "
                         "what it awaits as a JSON array, read from memory, outermost first.");
static PyObject *listing_frames(PyObject *module, PyObject *coroutine) {
    taut_buf text;
    taut_json_out w;
    taut_listing *l = taut_listing_new();
    if (l == NULL)
        return PyErr_NoMemory();
    taut_buf_init(&text);
    taut_json_out_init(&w, &text);
    if (taut_listing_begin(l, 0) == 0)
        taut_listing_frames(l, &w, coroutine);
    taut_listing_end(l);
    return finish(&w, l);
}

PyDoc_STRVAR(tasks_doc,
             "listing_tasks(direct=True, /) -> str\n\nAll pending tasks as a JSON array. "
             "direct: with the GIL held; else as the console's thread reads them.");
static PyObject *listing_tasks(PyObject *module, PyObject *args) {
    int direct = 1;
    taut_buf text;
    taut_json_out w;
    taut_listing_snapshot s;
    if (!PyArg_ParseTuple(args, "|p:listing_tasks", &direct))
        return NULL;
    if (!taut_listing_enabled())
        return raise_not_enabled();
    taut_listing *l = taut_listing_new();
    if (l == NULL || (direct && taut_listing_take(&s) < 0)) {
        taut_listing_free(l);
        return PyErr_NoMemory();
    }
    taut_buf_init(&text);
    taut_json_out_init(&w, &text);
    taut_json_out_open(&w, '[');
    if (taut_listing_begin(l, direct) == 0) {
        if (direct)
            (void)taut_listing_slice(l, &w, &s, TAUT_NEVER_NS);
        else
            (void)taut_listing_tasks(l, &w);
        taut_listing_end(l);
    }
    if (direct)
        taut_listing_drop(&s);
    taut_json_out_close(&w, ']');
    return finish(&w, l);
}

static PyObject *console_thread_id(PyObject *module, PyObject *unused) {
    return PyLong_FromLong(taut_console_thread_id());
}

static PyObject *console_leave(PyObject *module, PyObject *unused) {
    taut_console_leave();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"listing_enable", listing_enable, METH_VARARGS, enable_doc},
    {"listing_frames", listing_frames, METH_O, frames_doc},
    {"listing_tasks", listing_tasks, METH_VARARGS, tasks_doc},
    {"console_thread_id", console_thread_id, METH_NOARGS,
     "console_thread_id() -> int\n\nThe kernel's id of the console's thread, 0 when there is "
     "none."},
    {"console_leave", console_leave, METH_NOARGS,
     "console_leave() -> None\n\nRemoves the console's socket: the process ends."},
    {NULL},
};

int taut_listing_functions_add(PyObject *module, taut_state *st) {
    return PyModule_AddFunctions(module, methods);
}
