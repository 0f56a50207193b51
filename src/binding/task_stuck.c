/* Whether anybody can still wake a task, and whether anybody keeps it: trial deletion, as the
 * cyclic collector does it, over what the task's own frames reach. What is referred to from there
 * alone cannot be come by from anywhere else. Whatever is not followed (modules, types, other
 * tasks, too many objects) counts as somebody else: a doubt is no finding. */
#include "binding/task_stuck.h"

#include "base/mem.h"
#include "binding/notice.h"

#include <string.h>

#define OBJECTS_MAX 4096
#define SLOTS (4 * OBJECTS_MAX)
#define REFERENCES_MAX 8

typedef struct {
    PyObject *object;
    Py_ssize_t outside; /* references that are not explained yet */
    int is_followed, is_reached;
} node;

typedef struct {
    taut_state *st;
    PyObject *task; /* followed, unlike others; NULL: none is */
    node nodes[OBJECTS_MAX];
    uint16_t slots[SLOTS]; /* 1 + the index in nodes */
    uint16_t work[OBJECTS_MAX];
    int count, work_count;
} graph;

static uint16_t *slot_of(graph *g, const PyObject *object) {
    uintptr_t hash = ((uintptr_t)object >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    size_t i = (size_t)(hash >> 40) % SLOTS;
    while (g->slots[i] != 0 && g->nodes[g->slots[i] - 1].object != object)
        i = (i + 1) % SLOTS;
    return &g->slots[i];
}

static int has_weakrefs(PyObject *object) {
    Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
    return offset != 0 && *(PyObject **)((char *)object + offset) != NULL;
}

static int is_followed(const graph *g, PyObject *object) {
    return !PyType_Check(object) && !PyModule_Check(object) &&
           (object == g->task || !PyObject_TypeCheck(object, (PyTypeObject *)g->st->task_type)) &&
           !PyObject_TypeCheck(object, g->st->loop_type) && !PyCode_Check(object);
}

/* What cannot refer to anything is left out: so is what the collector does not know. */
static int node_add(PyObject *object, void *arg) {
    graph *g = arg;
    if (!PyObject_IS_GC(object))
        return 0;
    uint16_t *slot = slot_of(g, object);
    if (*slot != 0 || g->count == OBJECTS_MAX)
        return 0;
    node *n = &g->nodes[g->count];
    *n = (node){.object = object, .outside = Py_REFCNT(object)};
    n->is_followed = is_followed(g, object);
    if (n->is_followed)
        g->work[g->work_count++] = (uint16_t)g->count;
    *slot = (uint16_t)++g->count;
    return 0;
}

/* A function's globals are its module's: they lead everywhere. */
static void visit_of(PyObject *object, visitproc visit, void *arg) {
    if (PyFunction_Check(object)) {
        PyObject *parts[] = {PyFunction_GET_CLOSURE(object), PyFunction_GET_DEFAULTS(object),
                             PyFunction_GET_KW_DEFAULTS(object)};
        for (int i = 0; i < 3; i++)
            if (parts[i] != NULL)
                (void)visit(parts[i], arg);
        return;
    }
    traverseproc traverse = Py_TYPE(object)->tp_traverse;
    if (traverse != NULL)
        (void)traverse(object, visit, arg);
}

static int explain(PyObject *object, void *arg) {
    graph *g = arg;
    uint16_t *slot = PyObject_IS_GC(object) ? slot_of(g, object) : NULL;
    if (slot != NULL && *slot != 0)
        g->nodes[*slot - 1].outside--;
    return 0;
}

static int reach(PyObject *object, void *arg) {
    graph *g = arg;
    uint16_t *slot = PyObject_IS_GC(object) ? slot_of(g, object) : NULL;
    if (slot == NULL || *slot == 0 || g->nodes[*slot - 1].is_reached)
        return 0;
    g->nodes[*slot - 1].is_reached = 1;
    g->work[g->work_count++] = (uint16_t)(*slot - 1);
    return 0;
}

/* What the nodes that were added refer to, and what is known of who refers to them. */
static void grow(graph *g) {
    while (g->work_count > 0)
        visit_of(g->nodes[g->work[--g->work_count]].object, node_add, g);
    for (int i = 0; i < g->count; i++)
        if (g->nodes[i].is_followed)
            visit_of(g->nodes[i].object, explain, g);
}

static void reach_all(graph *g) {
    while (g->work_count > 0)
        visit_of(g->nodes[g->work[--g->work_count]].object, reach, g);
}

static void reach_from_outside(graph *g) {
    for (int i = 0; i < g->count; i++)
        if (g->nodes[i].outside > 0 && g->nodes[i].is_followed)
            (void)reach(g->nodes[i].object, g);
    reach_all(g);
}

/* Through weak references, but for those to the task and its coroutine: who has these, has not got
 * what they wait for. */
static void reach_weakly(graph *g, const PyObject *coro) {
    for (int i = 0; i < g->count; i++) {
        const node *n = &g->nodes[i];
        if (n->is_followed && n->object != coro && n->object != g->task && has_weakrefs(n->object))
            (void)reach(n->object, g);
    }
    reach_all(g);
}

static int is_reached(graph *g, const PyObject *object) {
    uint16_t at = *slot_of(g, object);
    return at == 0 || g->nodes[at - 1].is_reached;
}

static graph *graph_new(taut_state *st) {
    graph *g = taut_malloc(sizeof *g);
    if (g == NULL)
        return NULL;
    memset(g->slots, 0, sizeof g->slots);
    g->st = st;
    g->task = NULL;
    g->count = g->work_count = 0;
    return g;
}

/* NULL when it is not one of ours, or waits for no future. */
static taut_aio_task *waiting_task(taut_state *st, PyObject *task) {
    if (task == NULL || st->own.task_type == NULL || !PyObject_TypeCheck(task, st->own.task_type))
        return NULL;
    taut_aio_task *a = &((taut_task *)task)->aio;
    int waits = a->waiter != NULL && a->coro != NULL &&
                !PyObject_TypeCheck(a->waiter, (PyTypeObject *)st->task_type);
    return waits ? a : NULL;
}

/* All that is known at first of the coroutine and of the future is that the task refers to each of
 * them once. */
PyObject *taut_task_is_lost(PyObject *module, PyObject *task) {
    taut_state *st = taut_state_of(module);
    taut_aio_task *a = waiting_task(st, task);
    graph *g = a == NULL ? NULL : graph_new(st);
    if (g == NULL)
        Py_RETURN_FALSE;
    (void)node_add(a->coro, g);
    (void)node_add(a->waiter, g);
    grow(g);
    (void)explain(a->coro, g);
    (void)explain(a->waiter, g);
    reach_from_outside(g);
    reach_weakly(g, a->coro);
    int reached = is_reached(g, a->waiter);
    taut_free(g);
    return PyBool_FromLong(!reached);
}

static int is_unkept(taut_state *st, PyObject *task) {
    taut_aio_task *a = waiting_task(st, task);
    /* Ours, the future's that wakes it, and what its own frames may have. */
    if (a == NULL || Py_REFCNT(task) > REFERENCES_MAX)
        return 0;
    graph *g = graph_new(st);
    if (g == NULL)
        return 0;
    g->task = task;
    (void)node_add(task, g);
    grow(g);
    (void)explain(task, g); /* ours */
    reach_from_outside(g);
    int unkept = !is_reached(g, task);
    reach_weakly(g, a->coro);
    unkept &= is_reached(g, a->waiter);
    taut_free(g);
    return unkept;
}

PyObject *taut_task_is_unkept(PyObject *module, PyObject *ref) {
    if (!PyWeakref_CheckRef(ref)) {
        PyErr_Format(PyExc_TypeError, "ref must be a weak reference, not %R", ref);
        return NULL;
    }
    PyObject *task = taut_weakref_get(ref);
    int unkept = task != NULL && is_unkept(taut_state_of(module), task);
    Py_XDECREF(task);
    return PyBool_FromLong(unkept);
}

PyObject *taut_tasks_waiting(PyObject *module, PyObject *args) {
    taut_state *st = taut_state_of(module);
    PyObject *loop;
    double seconds;
    if (!PyArg_ParseTuple(args, "O!d:tasks_waiting", st->loop_type, &loop, &seconds))
        return NULL;
    taut_pyloop *lp = (taut_pyloop *)loop;
    uint64_t now_ns = taut_sys_now_ns();
    PyObject *all = taut_live_tasks(module, NULL), *list = PyList_New(0);
    for (Py_ssize_t i = 0; all != NULL && list != NULL && i < PyList_GET_SIZE(all); i++) {
        taut_task *t = (taut_task *)PyList_GET_ITEM(all, i);
        if (t->lp != lp || t->aio.waiter == NULL ||
            (double)(now_ns - t->stepped_ns) < seconds * 1e9)
            continue;
        if (PyList_Append(list, (PyObject *)t) < 0)
            Py_CLEAR(list);
    }
    Py_XDECREF(all);
    return list;
}

/* ---- the examination ----------------------------------------------------------------------------
 */

void taut_stuck_begin(taut_stuck *s, uint64_t now_ns) {
    Py_CLEAR(s->tasks);
    s->until_ns = now_ns > TAUT_STUCK_WAIT_NS ? now_ns - TAUT_STUCK_WAIT_NS : 0;
}

void taut_stuck_see(taut_stuck *s, taut_task *t) {
    if (t->aio.waiter == NULL || t->stepped_ns <= s->after_ns || t->stepped_ns > s->until_ns)
        return;
    if (s->tasks == NULL && (s->tasks = PyList_New(0)) == NULL)
        PyErr_Clear();
    else if (PyList_GET_SIZE(s->tasks) < TAUT_STUCK_MAX &&
             PyList_Append(s->tasks, (PyObject *)t) < 0)
        PyErr_Clear();
}

void taut_stuck_tell(taut_stuck *s, taut_pyloop *lp) {
    PyObject *tasks = s->tasks;
    s->tasks = NULL;
    if (s->until_ns > s->after_ns)
        s->after_ns = s->until_ns;
    if (tasks != NULL)
        s->is_asked = taut_notice(lp->st, lp, "waits_long", "(OO)", lp, tasks) != 0;
    else if (s->is_asked)
        s->is_asked = taut_notice(lp->st, lp, "waits_long", "(O())", lp) != 0;
    Py_XDECREF(tasks);
}
