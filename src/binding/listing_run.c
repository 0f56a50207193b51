/* Which tasks and threads there are: found in memory, or taken with the GIL. */
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "binding/listing_private.h"

#define TASKS_MAX 100000 /* of a listing */
#define TIME_MAX_NS TAUT_NS_PER_S

int taut_listing_enabled(void) {
    return taut_listing_now.st != NULL;
}

/* ---- threads ------------------------------------------------------------------------------------
 */

/* What stands behind this address is a thread of our interpreter. */
static int is_thread(taut_listing *l, const void *tstate) {
    const void *interp;
    return tstate != NULL &&
           taut_listing_pointer(l, tstate, offsetof(PyThreadState, interp), &interp) == 0 &&
           interp == taut_listing_now.interp;
}

size_t taut_listing_threads(taut_listing *l, taut_listing_thread out[TAUT_LISTING_THREADS_MAX]) {
    const void *ts = taut_listing_now.tstate, *before;
    size_t count = 0;
    if (!is_thread(l, ts))
        return 0;
    for (int i = 0; i < TAUT_LISTING_THREADS_MAX; i++) { /* new ones come first */
        if (taut_listing_pointer(l, ts, offsetof(PyThreadState, prev), &before) < 0 ||
            !is_thread(l, before))
            break;
        ts = before;
    }
    while (count < TAUT_LISTING_THREADS_MAX && is_thread(l, ts)) {
        unsigned long id;
        if (taut_peek_read(&l->peek, &id, (const char *)ts + taut_frames_layout()->tstate_native_id,
                           sizeof id) == 0)
            out[count++] = (taut_listing_thread){ts, (pid_t)id};
        if (taut_listing_pointer(l, ts, offsetof(PyThreadState, next), &ts) < 0)
            break;
    }
    return count;
}

static void put_frames(const taut_stack *s, taut_json_out *w) {
    taut_json_out_open(w, '[');
    for (uint32_t i = s->count; i-- > 0;) {
        taut_json_out_open(w, '{');
        taut_json_out_key(w, "file");
        taut_json_out_text(w, s->text + s->frames[i].file);
        taut_json_out_key(w, "line");
        taut_json_out_i64(w, s->frames[i].line);
        taut_json_out_key(w, "function");
        taut_json_out_text(w, s->text + s->frames[i].name);
        taut_json_out_close(w, '}');
    }
    taut_json_out_close(w, ']');
}

void taut_listing_stacks(taut_listing *l, taut_json_out *w) {
    taut_listing_thread threads[TAUT_LISTING_THREADS_MAX];
    size_t count = taut_listing_threads(l, threads);
    taut_json_out_open(w, '[');
    for (size_t i = 0; i < count; i++) {
        if (taut_frames_walk(threads[i].tstate, threads[i].native_id, (taut_frame_id){NULL},
                             &l->stack) < 0)
            continue;
        taut_json_out_open(w, '{');
        taut_json_out_key(w, "id");
        taut_json_out_i64(w, threads[i].native_id);
        taut_json_out_key(w, "exact");
        taut_json_out_bool(w, l->stack.how == TAUT_STACK_STABLE);
        taut_json_out_key(w, "omitted");
        taut_json_out_u64(w, l->stack.omitted);
        taut_json_out_key(w, "frames");
        put_frames(&l->stack, w);
        taut_json_out_close(w, '}');
    }
    taut_json_out_close(w, ']');
}

/* ---- tasks in memory ----------------------------------------------------------------------------
 */

typedef struct {
    uint64_t until_ns;
    size_t left;
} limits;

/* 1, or 0: the list changed under the reader, or a limit was reached. */
static int list_from(taut_listing *l, taut_json_out *w, const void *head, limits *most) {
    const taut_task_lists *lists = &taut_listing_now.lists;
    taut_list node;
    const void *at = head, *next;
    if (taut_peek_read(&l->peek, &node, head, sizeof node) < 0)
        return 0;
    for (next = node.next; next != head; next = node.next) {
        if (most->left-- == 0 || taut_clock_now_ns() > most->until_ns ||
            taut_peek_read(&l->peek, &node, next, sizeof node) < 0 || (const void *)node.prev != at)
            return 0;
        at = next;
        (void)taut_listing_task(l, w, (const char *)at - lists->node);
    }
    return 1;
}

int taut_listing_tasks(taut_listing *l, taut_json_out *w) {
    const taut_task_lists *lists = &taut_listing_now.lists;
    limits most = {.until_ns = taut_clock_now_ns() + TIME_MAX_NS, .left = TASKS_MAX};
    int whole = list_from(l, w, lists->head, &most);
    if (lists->of_thread > 0) {
        taut_listing_thread threads[TAUT_LISTING_THREADS_MAX];
        size_t count = taut_listing_threads(l, threads);
        for (size_t i = 0; i < count; i++)
            whole &= list_from(l, w, (const char *)threads[i].tstate + lists->of_thread, &most);
    }
    return whole;
}

/* ---- tasks with the GIL -------------------------------------------------------------------------
 */

/* Room for one more: 0, or -1. */
static int grow(taut_listing_snapshot *s) {
    if ((s->count & (s->count - 1)) != 0 || (s->count > 0 && s->count < 64))
        return 0; /* a power of two, from 64 on, is full */
    PyObject **more =
        taut_realloc_array(s->tasks, s->count == 0 ? 64 : 2 * s->count, sizeof *s->tasks);
    if (more == NULL)
        return -1;
    s->tasks = more;
    return 0;
}

static int add(taut_listing_snapshot *s, PyObject *task) {
    if (s->count >= TASKS_MAX) {
        s->complete = 0;
        return 0;
    }
    if (grow(s) < 0)
        return -1;
    s->tasks[s->count++] = Py_NewRef(task);
    return 0;
}

static int add_list(taut_listing_snapshot *s, const taut_list *head) {
    size_t node = taut_listing_now.lists.node;
    for (const taut_list *n = head->next; n != head && s->complete; n = n->next)
        if (add(s, (PyObject *)(uintptr_t)((const char *)n - node)) < 0)
            return -1;
    return 0;
}

/* Asyncio's own, which Python knows; without them where that fails. */
static int add_others(taut_listing_snapshot *s) {
    PyObject *type, *value, *traceback;
    int rc = 0;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *list = PyObject_CallNoArgs(taut_listing_now.others);
    for (Py_ssize_t i = 0; rc == 0 && list != NULL && PyList_CheckExact(list); i++) {
        if (i >= PyList_GET_SIZE(list))
            break;
        PyObject *task = PyList_GET_ITEM(list, i);
        if (PyObject_TypeCheck(task, (PyTypeObject *)taut_listing_now.st->task_type))
            rc = add(s, task);
    }
    s->complete &= list != NULL;
    Py_XDECREF(list);
    PyErr_Restore(type, value, traceback);
    return rc;
}

int taut_listing_take(taut_listing_snapshot *s) {
    const taut_task_lists *lists = &taut_listing_now.lists;
    *s = (taut_listing_snapshot){.complete = 1};
    int rc = add_list(s, lists->head);
    if (lists->of_thread > 0) {
        PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
        for (; rc == 0 && ts != NULL; ts = PyThreadState_Next(ts))
            rc = add_list(s, (const taut_list *)(const void *)((char *)ts + lists->of_thread));
    }
    if (rc == 0)
        rc = add_others(s);
    if (rc < 0)
        taut_listing_drop(s);
    return rc;
}

int taut_listing_slice(taut_listing *l, taut_json_out *w, taut_listing_snapshot *s,
                       uint64_t until_ns) {
    while (s->next < s->count) {
        PyObject *task = s->tasks[s->next++];
        (void)taut_listing_task(l, w, task);
        Py_DECREF(task);
        if ((s->next & 7) == 0 && taut_clock_now_ns() > until_ns)
            break;
    }
    return s->next < s->count;
}

void taut_listing_drop(taut_listing_snapshot *s) {
    taut_listing_snapshot taken = *s;
    *s = (taut_listing_snapshot){.count = 0};
    for (size_t i = taken.next; i < taken.count; i++)
        Py_DECREF(taken.tasks[i]);
    taut_free(taken.tasks);
}

PyObject *taut_listing_find(const void *address, const char *name) {
    taut_listing_snapshot s;
    PyObject *found = NULL;
    if (taut_listing_take(&s) < 0)
        return NULL;
    for (size_t i = 0; i < s.count && found == NULL; i++)
        if (s.tasks[i] == address)
            found = Py_NewRef(s.tasks[i]);
    taut_listing_drop(&s);
    if (found == NULL || name == NULL)
        return found;
    PyObject *has = PyObject_CallMethod(found, "get_name", NULL);
    const char *text = has != NULL && PyUnicode_Check(has) ? PyUnicode_AsUTF8(has) : NULL;
    if (text == NULL || strcmp(text, name) != 0)
        Py_CLEAR(found);
    Py_XDECREF(has);
    PyErr_Clear();
    return found;
}
