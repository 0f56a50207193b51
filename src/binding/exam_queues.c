/* Queues that tasks have at hand: among the local variables of their coroutines, and one step on
 * from there, since many are kept in a field of `self`. */
#include "binding/exam.h"

#define LOCALS_MAX 32
#define VISITS_MAX 64 /* of what one object refers to */

typedef struct {
    taut_exam_groups *groups;
    PyTypeObject *type;
    taut_coro_frame frame;
    int visits, deeper; /* deeper: a dictionary of fields may be looked into */
} search;

static void found(search *s, PyObject *queue) {
    taut_exam_groups *g = s->groups;
    for (int i = 0; i < g->queue_count; i++)
        if (g->queues[i].queue == queue && g->queues[i].frame.code == s->frame.code)
            return;
    if (g->queue_count == TAUT_EXAM_QUEUES_MAX)
        return;
    Py_INCREF((PyObject *)s->frame.code);
    g->queues[g->queue_count++] = (taut_exam_queue){Py_NewRef(queue), s->frame};
}

static int visit(PyObject *object, void *arg) {
    search *s = arg;
    if (object == NULL || s->visits++ > VISITS_MAX)
        return s->visits > VISITS_MAX;
    if (PyObject_TypeCheck(object, s->type)) {
        found(s, object);
    } else if (s->deeper && PyDict_CheckExact(object)) {
        PyObject *key, *value;
        Py_ssize_t at = 0;
        while (PyDict_Next(object, &at, &key, &value) && s->visits++ <= VISITS_MAX)
            if (PyObject_TypeCheck(value, s->type))
                found(s, value);
    }
    return 0;
}

/* An instance of a class of Python's, whose fields its type shows to the collector: that makes no
 * dictionary where there is none. */
static int has_fields(const PyObject *object) {
    const PyTypeObject *type = Py_TYPE(object);
    return (type->tp_flags & Py_TPFLAGS_HEAPTYPE) && (type->tp_flags & Py_TPFLAGS_HAVE_GC) &&
           type->tp_traverse != NULL && !PyType_Check(object);
}

static void look_at(search *s, PyObject *object) {
    if (object != NULL && PyCell_Check(object))
        object = PyCell_GET(object);
    if (object == NULL)
        return;
    s->visits = s->deeper = 0;
    if (PyObject_TypeCheck(object, s->type)) {
        found(s, object);
    } else if (has_fields(object)) {
        s->deeper = 1;
        (void)Py_TYPE(object)->tp_traverse(object, visit, s);
    }
}

void taut_exam_queues_find(taut_exam_groups *g, taut_state *st, PyObject *coro) {
    taut_coro_frame frames[TAUT_CORO_FRAMES_MAX];
    PyObject *locals[LOCALS_MAX];
    search s = {.groups = g, .type = (PyTypeObject *)st->queue_type};
    int count = taut_coro_frames(coro, frames);
    for (int i = 0; i < count && coro != NULL; i++, coro = taut_coro_next(coro)) {
        if (!taut_exam_is_user(frames[i].code))
            continue;
        s.frame = frames[i];
        int variables = taut_coro_locals(coro, locals, LOCALS_MAX);
        for (int v = 0; v < variables; v++)
            look_at(&s, locals[v]);
    }
}

void taut_exam_queues_clear(taut_exam_groups *g) {
    while (g->queue_count > 0) {
        taut_exam_queue last = g->queues[--g->queue_count];
        Py_DECREF((PyObject *)last.frame.code);
        Py_DECREF(last.queue);
    }
}

PyObject *taut_exam_queues_list(const taut_exam_groups *g) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < g->queue_count; i++) {
        const taut_exam_queue *q = &g->queues[i];
        PyObject *item = Py_BuildValue("(OOi)", q->queue, q->frame.code, q->frame.unit);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}
