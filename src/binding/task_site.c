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
#define FINALIZER_CALLS_MAX 8

/* Whose a file is. Inner code, which is asyncio's and taut's, is passed over; the rest of the
 * standard library and what is installed is a library's. */
enum { OWNER_USER, OWNER_INNER, OWNER_LIBRARY };

/* Whether the file is in one of the directories; -1 with an exception. */
static int is_below(PyObject *dirs, PyObject *name) {
    int is = 0;
    for (Py_ssize_t i = 0; is == 0 && i < PyTuple_GET_SIZE(dirs); i++)
        is = (int)PyUnicode_Tailmatch(name, PyTuple_GET_ITEM(dirs, i), 0, PY_SSIZE_T_MAX, -1);
    return is;
}

/* -1 with an exception. */
static int is_installed(PyObject *name) {
    static const char *const packages[] = {"/site-packages/", "/dist-packages/"};
    for (int i = 0; i < 2; i++) {
        PyObject *part = PyUnicode_FromString(packages[i]);
        int is = part == NULL ? -1 : PyUnicode_Contains(name, part);
        Py_XDECREF(part);
        if (is != 0)
            return is;
    }
    return 0;
}

static int find_owner(const taut_task_names *own, PyObject *name) {
    int is = is_below(own->inner_dirs, name);
    if (is != 0)
        return is < 0 ? -1 : OWNER_INNER;
    if ((is = is_below(own->library_dirs, name)) == 0)
        is = is_installed(name);
    return is < 0 ? -1 : is ? OWNER_LIBRARY : OWNER_USER;
}

static int owner_learn(taut_task_names *own, taut_file_seen *seen, PyObject *file) {
    int owner = find_owner(own, file);
    if (owner < 0) {
        PyErr_Clear();
        return OWNER_USER;
    }
    seen->owner = owner;
    Py_XSETREF(seen->name, Py_NewRef(file)); /* owned: no other string gets its address */
    return owner;
}

static inline int owner_of(taut_task_names *own, PyObject *file) {
    uintptr_t bits = (uintptr_t)file >> 4;
    taut_file_seen *seen = &own->files[(bits ^ bits >> 6) % TAUT_FILES_SEEN];
    return TAUT_LIKELY(seen->name == file) ? seen->owner : owner_learn(own, seen, file);
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

/* Whether the frame is within a finalizer that is a few calls away. */
static int is_within_finalizer(const taut_state *st, taut_frame_id f) {
    for (int i = 0; i < FINALIZER_CALLS_MAX && f.frame != NULL; i++) {
        if (unit_of(&f) >= 0 && ((const PyCodeObject *)f.code)->co_name == st->str___del__)
            return 1;
        f = taut_frames_outer(f.frame);
    }
    return 0;
}

/* Lines that have made tasks outside of finalizers are remembered: to look at who has called them
 * costs more than all the rest. */
static inline int is_finalizing(taut_state *st, const taut_frame_id *site) {
    uintptr_t bits = (uintptr_t)site->instr >> 1;
    const void **seen = &st->own.sites[(bits ^ bits >> 8) % TAUT_SITES_SEEN];
    if (TAUT_LIKELY(*seen == site->instr) || site->frame == NULL)
        return 0;
    if (is_within_finalizer(st, *site))
        return 1;
    *seen = site->instr;
    return 0;
}

int taut_task_site_take(taut_state *st, taut_task *t) {
    taut_task_names *own = &st->own;
    taut_frame_id site = {NULL}, f = {NULL};
    Py_ssize_t site_unit = -1;
    if (own->inner_dirs != NULL)
        f = taut_frames_current(PyThreadState_Get());
    for (; f.frame != NULL; f = taut_frames_outer(f.frame)) {
        Py_ssize_t unit = unit_of(&f);
        if (unit < 0)
            continue;
        int inner = owner_of(own, ((const PyCodeObject *)f.code)->co_filename) == OWNER_INNER;
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
    return is_finalizing(st, &site);
}

PyObject *taut_site_new(taut_state *st) {
    taut_task_names *own = &st->own;
    taut_frame_id site = {NULL}, f = {NULL};
    Py_ssize_t site_unit = -1;
    if (own->inner_dirs != NULL)
        f = taut_frames_current(PyThreadState_Get());
    for (; f.frame != NULL; f = taut_frames_outer(f.frame)) {
        Py_ssize_t unit = unit_of(&f);
        if (unit < 0)
            continue;
        int owner = owner_of(own, ((const PyCodeObject *)f.code)->co_filename);
        if (owner == OWNER_INNER && runs_the_loop(own, f.code))
            break;
        if (owner == OWNER_USER || (owner == OWNER_LIBRARY && site.frame == NULL)) {
            site = f;
            site_unit = unit;
        }
        if (owner == OWNER_USER)
            break;
    }
    if (site.frame == NULL)
        return NULL;
    PyObject *made = Py_BuildValue("(On)", (PyObject *)site.code, site_unit);
    if (made == NULL)
        PyErr_Clear();
    return made;
}

PyObject *taut_site_show(PyObject *site) {
    PyCodeObject *code = (PyCodeObject *)PyTuple_GET_ITEM(site, 0);
    int unit = (int)PyLong_AsLong(PyTuple_GET_ITEM(site, 1));
    int line = PyCode_Addr2Line(code, unit * UNIT);
    return Py_BuildValue("(OiO)", code->co_filename, line < 0 ? code->co_firstlineno : line,
                         code->co_qualname);
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

/* 0, or -1 with TypeError. */
static int check_dirs(PyObject *dirs) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(dirs); i++) {
        if (!PyUnicode_Check(PyTuple_GET_ITEM(dirs, i))) {
            PyErr_SetString(PyExc_TypeError, "dirs and libraries must be tuples of str");
            return -1;
        }
    }
    return 0;
}

PyObject *taut_task_sites_enable(PyObject *module, PyObject *args) {
    taut_task_names *own = &taut_state_of(module)->own;
    PyObject *dirs, *libraries, *runners;
    if (!PyArg_ParseTuple(args, "O!O!O!:task_sites_enable", &PyTuple_Type, &dirs, &PyTuple_Type,
                          &libraries, &PyTuple_Type, &runners) ||
        check_dirs(dirs) < 0 || check_dirs(libraries) < 0)
        return NULL;
    if (taut_frames_init() < 0)
        Py_RETURN_FALSE;
    Py_XSETREF(own->runners, Py_NewRef(runners));
    Py_XSETREF(own->library_dirs, Py_NewRef(libraries));
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
