/* Where a task of ours was made: the code and the instruction of the frame that asked for it, taken
 * from the interpreter's frames as they stand (frames.h), without a frame object or a traceback.
 * The file's name and the line are worked out when somebody asks.
 *
 * Frames of asyncio and of taut in between (asyncio.create_task, TaskGroup, gather, wait_for) are
 * passed over up to the one that runs the loop. Their files are known by the identity of their
 * names, which all functions of a module share. */
#include "binding/frames.h"
#include "binding/task.h"

#define UNIT 2 /* bytes of an instruction's smallest part, in every version */
#define CHAIN_MAX 1000

/* Whether the file is in one of the directories; -1 with an exception. */
static int is_inner_name(PyObject *dirs, PyObject *name) {
    int is = 0;
    for (Py_ssize_t i = 0; is == 0 && i < PyTuple_GET_SIZE(dirs); i++)
        is = (int)PyUnicode_Tailmatch(name, PyTuple_GET_ITEM(dirs, i), 0, PY_SSIZE_T_MAX, -1);
    return is;
}

/* Whether code of this file is asyncio's or taut's. */
static int is_inner(taut_task_names *own, PyObject *file) {
    uintptr_t bits = (uintptr_t)file >> 4;
    taut_file_seen *seen = &own->files[(bits ^ bits >> 6) % TAUT_FILES_SEEN];
    if (TAUT_LIKELY(seen->name == file))
        return seen->is_inner;
    int is = is_inner_name(own->inner_dirs, file);
    if (is < 0) {
        PyErr_Clear();
        return 0;
    }
    seen->is_inner = is;
    Py_XSETREF(seen->name, Py_NewRef(file)); /* owned: no other string gets its address */
    return is;
}

static int runs_the_loop(taut_task_names *own, const void *code) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(own->runners); i++)
        if (PyTuple_GET_ITEM(own->runners, i) == code)
            return 1;
    return 0;
}

/* The index of the frame's instruction, or -1: it is none that Python shows. */
static Py_ssize_t unit_of(const taut_frame_id *f) {
    const PyCodeObject *code = f->code;
    if (code == NULL || !PyCode_Check(code))
        return -1;
    const char *start = (const char *)code + offsetof(PyCodeObject, co_code_adaptive);
    Py_ssize_t unit = ((const char *)f->instr - start) / UNIT;
    return unit < code->_co_firsttraceable || unit >= Py_SIZE(code) ? -1 : unit;
}

void taut_task_site_take(taut_state *st, taut_task *t) {
    taut_task_names *own = &st->own;
    taut_frame_id site = {NULL}, f = {NULL};
    Py_ssize_t site_unit = -1;
    if (own->inner_dirs != NULL)
        f = taut_frames_current(PyThreadState_Get());
    for (; f.frame != NULL; f = taut_frames_outer(f.frame)) {
        Py_ssize_t unit = unit_of(&f);
        if (unit < 0)
            continue;
        int inner = is_inner(own, ((const PyCodeObject *)f.code)->co_filename);
        if (inner && runs_the_loop(own, f.code))
            break;
        if (site.frame == NULL || !inner) {
            site = f;
            site_unit = unit;
        }
        if (!inner)
            break;
    }
    Py_XSETREF(t->site_code, Py_XNewRef((PyObject *)site.code));
    t->site_unit = (int)site_unit;
}

PyObject *taut_task_created_at(PyObject *module, PyObject *task) {
    taut_state *st = taut_state_of(module);
    if (!PyObject_TypeCheck(task, (PyTypeObject *)st->task_type)) {
        PyErr_Format(PyExc_TypeError, "task must be an asyncio.Task, not %R", task);
        return NULL;
    }
    taut_task *t = (taut_task *)task;
    if (st->own.task_type == NULL || !PyObject_TypeCheck(task, st->own.task_type) ||
        t->site_code == NULL)
        Py_RETURN_NONE;
    PyCodeObject *code = (PyCodeObject *)t->site_code;
    int line = PyCode_Addr2Line(code, t->site_unit * UNIT);
    return Py_BuildValue("OiO", code->co_filename, line < 0 ? code->co_firstlineno : line,
                         code->co_qualname);
}

PyObject *taut_task_sites_enable(PyObject *module, PyObject *args) {
    taut_task_names *own = &taut_state_of(module)->own;
    PyObject *dirs, *runners;
    if (!PyArg_ParseTuple(args, "O!O!:task_sites_enable", &PyTuple_Type, &dirs, &PyTuple_Type,
                          &runners))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(dirs); i++) {
        if (!PyUnicode_Check(PyTuple_GET_ITEM(dirs, i))) {
            PyErr_SetString(PyExc_TypeError, "dirs must be a tuple of str");
            return NULL;
        }
    }
    if (taut_frames_init() < 0)
        Py_RETURN_FALSE;
    Py_XSETREF(own->runners, Py_NewRef(runners));
    Py_XSETREF(own->inner_dirs, Py_NewRef(dirs));
    Py_RETURN_TRUE;
}

/* ---- what it waits for -------------------------------------------------------------------------
 */

/* The fields are those of asyncio's own tasks, too. */
PyObject *taut_task_awaits(taut_state *st, PyObject *task) {
    if (st->own.task_type == NULL || !PyObject_TypeCheck(task, (PyTypeObject *)st->task_type))
        return NULL;
    return ((taut_aio_task *)task)->waiter;
}

PyObject *taut_task_awaited(PyObject *module, PyObject *task) {
    taut_state *st = taut_state_of(module);
    PyObject *list = PyList_New(0);
    if (!PyObject_TypeCheck(task, (PyTypeObject *)st->task_type)) {
        PyErr_Format(PyExc_TypeError, "task must be an asyncio.Task, not %R", task);
        Py_CLEAR(list);
    }
    for (PyObject *next = task; list != NULL && PyList_GET_SIZE(list) < CHAIN_MAX;) {
        next = taut_task_awaits(st, next);
        int seen = next == NULL || next == task;
        for (Py_ssize_t i = 0; !seen && i < PyList_GET_SIZE(list); i++)
            seen = PyList_GET_ITEM(list, i) == next; /* tasks may await each other in a ring */
        if (seen)
            break;
        if (PyList_Append(list, next) < 0)
            Py_CLEAR(list);
    }
    return list;
}
