#include "binding/task_name.h"

#include "binding/handle.h"
#include <stdio.h>
#include <string.h>

#define NAME_CHARS_MAX 60
#define WRAPPER_BYTES_MAX 64

/* Something that call_soon is given for a task: an object of this type with the task inside; of a
 * built-in method, it is this one of the task's many. */
typedef struct {
    const PyTypeObject *type;
    const PyMethodDef *method;
    size_t task;
} wrapper;

static struct {
    wrapper wrappers[4]; /* of asyncio's tasks, and of ours */
    const PyTypeObject *task_type, *own_type, *handle_type;
    size_t name; /* in the task; 0: unknown */
} known;

/* Where in `object` the pointer to `wanted` is, 0 when nowhere or in two places. */
static size_t find_pointer(PyObject *object, const PyObject *wanted, size_t size) {
    size_t found = 0;
    for (size_t at = sizeof(PyObject); at + sizeof wanted <= size; at += sizeof wanted) {
        const PyObject *p;
        memcpy(&p, (const char *)object + at, sizeof p);
        if (p == wanted && found > 0)
            return 0;
        if (p == wanted)
            found = at;
    }
    return found;
}

static wrapper wrapper_of(PyObject *object, PyObject *task) {
    size_t size = (size_t)Py_TYPE(object)->tp_basicsize;
    size_t at = find_pointer(object, task, size < WRAPPER_BYTES_MAX ? size : WRAPPER_BYTES_MAX);
    if (at == 0)
        return (wrapper){NULL};
    return (wrapper){
        .type = Py_TYPE(object),
        .method = PyCFunction_CheckExact(object) ? ((PyCFunctionObject *)object)->m_ml : NULL,
        .task = at,
    };
}

void taut_task_name_learn(PyObject *task, PyObject *step, PyObject *wakeup,
                          const PyTypeObject *handle_type) {
    PyObject *name = PyObject_CallMethod(task, "get_name", NULL);
    if (name == NULL) {
        PyErr_Clear();
        return;
    }
    known.name = find_pointer(task, name, (size_t)Py_TYPE(task)->tp_basicsize);
    known.task_type = Py_TYPE(task);
    known.handle_type = handle_type;
    known.wrappers[0] = wrapper_of(step, task);
    known.wrappers[1] = wrapper_of(wakeup, task);
    Py_DECREF(name);
}

void taut_task_name_learn_own(const PyTypeObject *type, const PyMethodDef *step,
                              const PyMethodDef *wakeup) {
    const PyMethodDef *methods[] = {step, wakeup};
    known.own_type = type;
    for (int i = 0; i < 2; i++)
        known.wrappers[2 + i] = (wrapper){
            .type = &PyCFunction_Type,
            .method = methods[i],
            .task = offsetof(PyCFunctionObject, m_self),
        };
}

/* From 3.12 on a task that was given no name keeps a number, until somebody asks. */
static int read_number(taut_peek *p, const void *object, unsigned long *number) {
#if PY_VERSION_HEX >= 0x030C0000
    PyLongObject value;
    if (taut_peek_read(p, &value, object, sizeof value) < 0 || Py_TYPE(&value) != &PyLong_Type ||
        value.long_value.lv_tag >> 3 != 1)
        return -1;
    *number = value.long_value.ob_digit[0];
    return 0;
#else
    return -1;
#endif
}

static int read_pointer(taut_peek *p, const void *object, size_t offset, const void **out) {
    return taut_peek_read(p, out, (const char *)object + offset, sizeof *out);
}

static int read_type(taut_peek *p, const void *object, const void **out) {
    return read_pointer(p, object, offsetof(PyObject, ob_type), out);
}

/* The wrapper that `object` of this type is, NULL when none. */
static const wrapper *wrapper_find(taut_peek *p, const void *object, const void *type) {
    for (size_t i = 0; i < sizeof known.wrappers / sizeof *known.wrappers; i++) {
        const wrapper *w = &known.wrappers[i];
        const void *method;
        if (w->type != NULL && w->type == type &&
            (w->method == NULL ||
             (read_pointer(p, object, offsetof(PyCFunctionObject, m_ml), &method) == 0 &&
              method == w->method)))
            return w;
    }
    return NULL;
}

int taut_task_of(taut_peek *p, const void *current, const void **task) {
    const void *type;
    if (read_type(p, current, &type) < 0)
        return -1;
    if (type == known.handle_type &&
        (read_pointer(p, current, offsetof(taut_handle, callback), &current) < 0 ||
         current == NULL || read_type(p, current, &type) < 0))
        return -1;
    *task = current;
    if (type != known.own_type) {
        const wrapper *w = wrapper_find(p, current, type);
        if (w == NULL || read_pointer(p, current, w->task, task) < 0 || *task == NULL)
            return -1;
    }
    if (read_type(p, *task, &type) < 0)
        return -1;
    return type == known.task_type || type == known.own_type ? 0 : -1;
}

int taut_task_is_own(taut_peek *p, const void *task) {
    const void *type;
    return known.own_type != NULL && read_type(p, task, &type) == 0 && type == known.own_type;
}

int taut_task_name_of(taut_peek *p, const void *task, taut_stack *out, uint32_t *offset) {
    const void *name;
    unsigned long number;
    char text[32];
    if (known.name == 0 || read_pointer(p, task, known.name, &name) < 0)
        return -1;
    if (read_number(p, name, &number) < 0)
        return taut_frames_copy_str(p, name, NAME_CHARS_MAX, out, offset);
    snprintf(text, sizeof text, "Task-%lu", number);
    *offset = taut_frames_put_text(out, text);
    return 0;
}

int taut_task_name_read(const void *current, taut_stack *out, uint32_t *offset) {
    taut_peek p;
    const void *task;
    if (known.name == 0 || current == NULL || taut_peek_begin(&p, TAUT_PEEK_VM) < 0)
        return -1;
    int rc = taut_task_of(&p, current, &task);
    if (rc == 0)
        rc = taut_task_name_of(&p, task, out, offset);
    taut_peek_end(&p);
    return rc;
}
