/* Tasks grouped by where they were made and where they stand. */
#include <string.h>

#include "binding/exam.h"
#include "binding/watch.h"

#define FILES_SEEN 256

/* ---- whose code it is --------------------------------------------------------------------------
 */

/* By the identity of the file's name, which all functions of a module share. */
static struct {
    PyObject *name; /* owned: no other string gets its address */
    int is_user;
} files[FILES_SEEN];

int taut_exam_is_user(const PyCodeObject *code) {
    PyObject *name = code->co_filename;
    uintptr_t bits = (uintptr_t)name >> 4, i = (bits ^ bits >> 8) % FILES_SEEN;
    if (files[i].name == name)
        return files[i].is_user;
    const char *text = PyUnicode_AsUTF8(name);
    if (text == NULL) {
        PyErr_Clear();
        return 0;
    }
    files[i].is_user = !taut_stall_is_library(text);
    Py_XSETREF(files[i].name, Py_NewRef(name));
    return files[i].is_user;
}

/* ---- one task ---------------------------------------------------------------------------------
 */

static enum taut_exam_waits waits_for(taut_state *st, const taut_task *t) {
    PyObject *waiter = t->aio.waiter;
    if (waiter == NULL)
        return TAUT_EXAM_READY;
    if (PyObject_TypeCheck(waiter, (PyTypeObject *)st->task_type))
        return TAUT_EXAM_TASK;
    if (Py_IS_TYPE(waiter, st->own.future_type)) {
        PyObject *first = ((taut_aio_future *)waiter)->callback0;
        if (first != NULL && Py_IS_TYPE(first, st->executor_call_type))
            return TAUT_EXAM_EXECUTOR;
    }
    return TAUT_EXAM_FUTURE;
}

/* The frames that a group keeps; codes borrowed. */
static void take_frames(taut_exam_group *of, PyObject *coro) {
    taut_coro_frame all[TAUT_CORO_FRAMES_MAX];
    int count = coro != NULL && taut_coro_known() ? taut_coro_frames(coro, all) : 0, user = 0;
    while (user < count && !taut_exam_is_user(all[count - 1 - user].code))
        user++;
    of->user = user < count ? user : -1;
    of->frame_count = count < TAUT_EXAM_FRAMES_MAX ? count : TAUT_EXAM_FRAMES_MAX;
    for (int i = 0; i < of->frame_count; i++)
        of->frames[i] = all[count - 1 - i];
    if (of->user >= TAUT_EXAM_FRAMES_MAX) {
        of->frames[TAUT_EXAM_FRAMES_MAX - 1] = all[count - 1 - of->user];
        of->user = TAUT_EXAM_FRAMES_MAX - 1;
    }
}

static int same_frame(const taut_exam_group *a, const taut_exam_group *b, int i, int j) {
    if (i < 0 || j < 0)
        return i == j;
    return a->frames[i].code == b->frames[j].code && a->frames[i].unit == b->frames[j].unit;
}

static int innermost(const taut_exam_group *g) {
    return g->frame_count > 0 ? 0 : -1;
}

static int same_group(const taut_exam_group *a, const taut_exam_group *b) {
    return a->site_code == b->site_code && a->site_unit == b->site_unit && a->waits == b->waits &&
           same_frame(a, b, a->user, b->user) && same_frame(a, b, innermost(a), innermost(b));
}

static uint64_t mix(uint64_t h, uint64_t value) {
    h = (h ^ value) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 29;
}

static uint64_t hash_of(const taut_exam_group *g) {
    uint64_t h = mix((uint64_t)g->waits, (uintptr_t)g->site_code);
    h = mix(h, (uint64_t)g->site_unit);
    for (int i = 0; i < g->frame_count; i++)
        if (i == 0 || i == g->user)
            h = mix(mix(h, (uintptr_t)g->frames[i].code), (uint64_t)g->frames[i].unit);
    return h;
}

/* ---- the table ----------------------------------------------------------------------------------
 */

/* The group like `wanted`, made when there is none; NULL when there is no room. */
static taut_exam_group *find(taut_exam_groups *g, const taut_exam_group *wanted, int *is_new) {
    const size_t size = sizeof g->slots;
    for (size_t i = hash_of(wanted) % size;; i = (i + 1) % size) {
        if (g->slots[i] != 0) {
            taut_exam_group *found = &g->group[g->slots[i] - 1];
            if (same_group(found, wanted))
                return found;
            continue;
        }
        if (g->count == TAUT_EXAM_GROUPS_MAX)
            return NULL;
        taut_exam_group *made = &g->group[g->count++];
        g->slots[i] = (uint8_t)g->count;
        *made = *wanted;
        made->oldest_born_ns = made->oldest_stepped_ns = UINT64_MAX;
        Py_XINCREF(made->site_code);
        for (int f = 0; f < made->frame_count; f++)
            Py_INCREF((PyObject *)made->frames[f].code);
        *is_new = 1;
        return made;
    }
}

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

void taut_exam_groups_add(taut_exam_groups *g, taut_state *st, taut_task *t) {
    taut_exam_group like = {.site_code = t->site_code, .site_unit = t->site_unit};
    like.waits = waits_for(st, t);
    take_frames(&like, t->aio.coro);
    if (g->tasks++ == 0)
        g->oldest_stepped_ns = UINT64_MAX;
    if (like.waits != TAUT_EXAM_READY) {
        g->waiting++;
        g->oldest_stepped_ns = min_u64(g->oldest_stepped_ns, t->stepped_ns);
    }
    int is_new = 0;
    taut_exam_group *of = find(g, &like, &is_new);
    if (of == NULL) {
        g->others++;
        return;
    }
    if (is_new && like.frame_count > 0) /* one of a kind will do */
        taut_exam_queues_find(g, st, t->aio.coro);
    of->tasks++;
    of->oldest_born_ns = min_u64(of->oldest_born_ns, t->born_ns);
    of->oldest_stepped_ns = min_u64(of->oldest_stepped_ns, t->stepped_ns);
    /* Tasks are listed in the order in which they were made. */
    of->run = of->run_born_ns == t->born_ns ? of->run + 1 : 1;
    of->run_born_ns = t->born_ns;
    if (of->run > of->together)
        of->together = of->run;
}

void taut_exam_groups_clear(taut_exam_groups *g) {
    for (int i = 0; i < g->count; i++) {
        Py_XDECREF(g->group[i].site_code);
        for (int f = 0; f < g->group[i].frame_count; f++)
            Py_DECREF((PyObject *)g->group[i].frames[f].code);
    }
    taut_exam_queues_clear(g);
    g->count = 0;
    g->tasks = g->waiting = g->others = 0;
    memset(g->slots, 0, sizeof g->slots);
}

/* ---- for the rules ------------------------------------------------------------------------------
 */

static PyObject *frames_tuple(const taut_exam_group *of) {
    PyObject *tuple = PyTuple_New(of->frame_count);
    for (int i = 0; tuple != NULL && i < of->frame_count; i++) {
        PyObject *item = Py_BuildValue("(Oi)", of->frames[i].code, of->frames[i].unit);
        if (item == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

static double seconds_since(uint64_t then_ns, uint64_t now_ns) {
    return then_ns < now_ns ? (double)(now_ns - then_ns) / 1e9 : 0.0;
}

static PyObject *group_tuple(const taut_exam_group *of, uint64_t now_ns) {
    PyObject *frames = frames_tuple(of);
    if (frames == NULL)
        return NULL;
    int known = of->site_code != NULL;
    return Py_BuildValue(
        "(KiddKOiiN)", (unsigned long long)of->tasks, (int)of->waits,
        of->waits == TAUT_EXAM_READY ? 0.0 : seconds_since(of->oldest_stepped_ns, now_ns),
        seconds_since(of->oldest_born_ns, now_ns), (unsigned long long)of->together,
        known ? of->site_code : Py_None, known ? of->site_unit : -1, of->user, frames);
}

PyObject *taut_exam_groups_list(const taut_exam_groups *g, uint64_t now_ns) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < g->count; i++) {
        PyObject *item = group_tuple(&g->group[i], now_ns);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}
