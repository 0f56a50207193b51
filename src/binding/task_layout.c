/* The proof that this Python's futures and tasks have the fields that task.h declares. */
#include "binding/task_current.h"
#include "binding/task_name.h"

#include <string.h>

typedef struct {
    const char *name;
    int of_task;
    size_t offset;                  /* of a pointer; of anything else it is 0 ... */
    long (*read)(PyObject *object); /* ... and this gives its number */
} field;

#define FUTURE(o) ((taut_aio_future *)(o))
#define TASK(o) ((taut_aio_task *)(o))

static long read_state(PyObject *o) {
    return FUTURE(o)->state;
}
static long read_log_tb(PyObject *o) {
    return FUTURE(o)->log_tb;
}
static long read_blocking(PyObject *o) {
    return FUTURE(o)->blocking;
}
static long read_must_cancel(PyObject *o) {
    return TAUT_TASK_FLAG(TASK(o), must_cancel);
}
static long read_log_destroy_pending(PyObject *o) {
    return TAUT_TASK_FLAG(TASK(o), log_destroy_pending);
}
static long read_cancel_requested(PyObject *o) {
    return TASK(o)->cancel_requested;
}
/* A list that only the future has: what counts is its length. */
static long read_callbacks(PyObject *o) {
    PyObject *list = FUTURE(o)->callbacks;
    return list == NULL ? 0 : PyList_CheckExact(list) ? (long)PyList_GET_SIZE(list) : -1;
}

#if PY_VERSION_HEX >= 0x030E0000
static long read_is_task(PyObject *o) {
    return FUTURE(o)->is_task;
}
static long read_awaited_by_is_set(PyObject *o) {
    return FUTURE(o)->awaited_by_is_set;
}
static long read_listed(PyObject *o) {
    return taut_task_is_listed(TASK(o));
}
static long read_current(PyObject *o) {
    return taut_task_is_current(TASK(o));
}
#endif

#define IN_FUTURE(f)                                                                               \
    { #f, 0, offsetof(taut_aio_future, f), NULL }
#define IN_TASK(f)                                                                                 \
    { #f, 1, offsetof(taut_aio_task, f), NULL }
static const field fields[] = {
    IN_FUTURE(loop),
    IN_FUTURE(callback0),
    IN_FUTURE(context0),
    IN_FUTURE(exception),
    IN_FUTURE(exception_tb),
    IN_FUTURE(result),
    IN_FUTURE(source_tb),
    IN_FUTURE(cancel_msg),
    IN_FUTURE(cancelled_exc),
    {"callbacks", 0, 0, read_callbacks},
    {"state", 0, 0, read_state},
    {"log_tb", 0, 0, read_log_tb},
    {"blocking", 0, 0, read_blocking},
    IN_TASK(waiter),
    IN_TASK(coro),
    IN_TASK(name),
    IN_TASK(context),
    {"must_cancel", 1, 0, read_must_cancel},
    {"log_destroy_pending", 1, 0, read_log_destroy_pending},
    {"cancel_requested", 1, 0, read_cancel_requested},
#if PY_VERSION_HEX >= 0x030E0000
    IN_FUTURE(awaited_by),
    {"is_task", 0, 0, read_is_task},
    {"awaited_by_is_set", 0, 0, read_awaited_by_is_set},
    {"listed", 1, 0, read_listed},
    {"current", 1, 0, read_current},
#endif
};

/* 1 or 0, or -1 with an exception: no such field. */
static int check(PyObject *object, int is_task, const char *name, PyObject *value) {
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const field *f = &fields[i];
        if (strcmp(f->name, name) != 0 || f->of_task > is_task)
            continue;
        if (f->read != NULL) {
            long wanted = PyLong_AsLong(value);
            return wanted == -1 && PyErr_Occurred() ? -1 : f->read(object) == wanted;
        }
        PyObject *found = *(PyObject **)((char *)object + f->offset);
        return found == (value == Py_None ? NULL : value);
    }
    PyErr_Format(PyExc_ValueError, "name: %R has no field %s", object, name);
    return -1;
}

PyObject *taut_task_field_is(PyObject *module, PyObject *args) {
    taut_state *st = taut_state_of(module);
    PyObject *object, *value;
    const char *name;
    if (!PyArg_ParseTuple(args, "OsO:task_field_is", &object, &name, &value))
        return NULL;
    int is_task = PyObject_TypeCheck(object, (PyTypeObject *)st->task_type);
    if (!is_task && !PyObject_TypeCheck(object, (PyTypeObject *)st->future_type)) {
        PyErr_Format(PyExc_TypeError, "object is neither a future nor a task: %R", object);
        return NULL;
    }
    int rc = check(object, is_task, name, value);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

PyObject *taut_tasks_known(PyObject *module, PyObject *unused) {
    taut_state *st = taut_state_of(module);
    return PyBool_FromLong(st->own.future_type != NULL && st->own.task_type != NULL);
}

PyObject *taut_tasks_enable(PyObject *module, PyObject *by_default) {
    taut_state *st = taut_state_of(module);
    int is_default = PyObject_IsTrue(by_default);
    if (is_default < 0)
        return NULL;
    st->own.enabled = st->own.future_type != NULL && st->own.task_type != NULL;
    st->own.is_default = st->own.enabled && is_default;
    if (st->own.enabled)
        taut_task_name_learn_own(st->own.task_type, &taut_task_step_def, &taut_task_wakeup_def);
    Py_RETURN_NONE;
}
