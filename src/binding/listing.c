/* One task, read as memory. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "binding/await.h"
#include "binding/listing_private.h"
#include "binding/request.h"

#define DEPTH_MAX 200 /* coroutines that await each other; a ring ends here, too */
#define NAME_CHARS_MAX 200
#define TYPE_NAME_MAX 120
#define WAKES_MAX 8
#define CALLBACKS_MAX 4
#define CELLS_MAX 16
#define BASES_MAX 8
#define UNIT 2 /* bytes of an instruction's smallest part, in every version */

taut_listing_known taut_listing_now;

taut_listing *taut_listing_new(void) {
    taut_listing *l = taut_malloc(sizeof *l);
    if (l != NULL) {
        l->peek = (taut_peek){.fds = {-1, -1}};
        l->pages = NULL;
    }
    return l;
}

void taut_listing_free(taut_listing *l) {
    taut_free(l);
}

static void forget(taut_listing *l) {
    memset(l->cache, 0, sizeof l->cache);
    memset(&l->arena, 0, offsetof(taut_stack, frames));
    l->arena.text[0] = '\0';
    l->arena.text_size = 1; /* offset 0 is the empty text */
}

int taut_listing_begin(taut_listing *l, int direct) {
    forget(l); /* what had these addresses may have gone */
    if (direct) {
        taut_peek_begin_direct(&l->peek);
        return 0;
    }
    int rc = taut_peek_begin(&l->peek, TAUT_PEEK_VM);
    if (rc == 0)
        l->peek.pages = l->pages = taut_calloc(1, sizeof *l->pages);
    return rc;
}

void taut_listing_end(taut_listing *l) {
    taut_peek_end(&l->peek);
    taut_free(l->pages);
    l->pages = NULL;
}

/* ---- places and types ---------------------------------------------------------------------------
 */

static taut_listing_entry *slot(taut_listing *l, const void *of, const void *at) {
    uintptr_t bits = (uintptr_t)of >> 4 ^ (uintptr_t)at >> 1;
    return &l->cache[(bits ^ bits >> 10) % TAUT_LISTING_CACHE];
}

/* Valid until the next call; NULL: it cannot be read, or is nothing that Python shows. */
static const taut_listing_entry *place(taut_listing *l, const void *code, const void *instr) {
    taut_listing_entry *e = slot(l, code, instr);
    if (e->of == code && e->at == instr)
        return e;
    const char *start = (const char *)code + offsetof(PyCodeObject, co_code_adaptive);
    Py_ssize_t unit = ((const char *)instr - start) / UNIT;
    if (unit < -1 || unit > INT_MAX)
        return NULL;
    for (int tries = 0; tries < 2; tries++) {
        taut_frame f;
        uint32_t size = l->arena.text_size;
        if (taut_frames_place(&l->peek, code, unit < 0 ? 0 : (int)unit, &l->arena, &f) == 0) {
            *e = (taut_listing_entry){code, instr, f.file, f.name, f.line};
            return e;
        }
        l->arena.text_size = size;
        if (size < sizeof l->arena.text / 2)
            break;
        forget(l); /* there was no room, maybe */
    }
    return NULL;
}

static const char *type_name(taut_listing *l, const void *type) {
    char text[TYPE_NAME_MAX + 8];
    const void *name;
    taut_listing_entry *e = slot(l, type, NULL);
    if (e->of == type && e->at == NULL)
        return l->arena.text + e->name;
    if (taut_listing_pointer(l, type, offsetof(PyTypeObject, tp_name), &name) < 0)
        return "?";
    /* Aligned pieces: it may end where the mapping does, which no such piece goes beyond. */
    int by_bytes = l->peek.mode == TAUT_PEEK_DIRECT;
    for (size_t size = 0, part; size < TYPE_NAME_MAX; size += part) {
        part = by_bytes ? 1 : 8 - ((uintptr_t)name + size) % 8;
        if (taut_peek_read(&l->peek, text + size, (const char *)name + size, part) < 0)
            return "?";
        if (memchr(text + size, '\0', part) != NULL)
            break;
    }
    text[TYPE_NAME_MAX] = '\0';
    if (l->arena.text_size + sizeof text > sizeof l->arena.text)
        forget(l);
    *e = (taut_listing_entry){.of = type, .name = taut_frames_put_text(&l->arena, text)};
    return l->arena.text + e->name;
}

static int type_of(taut_listing *l, const void *object, const void **type) {
    return taut_listing_pointer(l, object, offsetof(PyObject, ob_type), type);
}

static int is_subtype(taut_listing *l, const void *type, const void *wanted) {
    for (int i = 0; i < BASES_MAX && type != NULL && wanted != NULL; i++) {
        if (type == wanted)
            return 1;
        if (taut_listing_pointer(l, type, offsetof(PyTypeObject, tp_base), &type) < 0)
            return 0;
    }
    return 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static void put_id(taut_json_out *w, const void *object) {
    char text[24];
    snprintf(text, sizeof text, "0x%llx", (unsigned long long)(uintptr_t)object);
    taut_json_out_text(w, text);
}

static void put_place(taut_json_out *w, const char *file, int line, const char *function) {
    taut_json_out_open(w, '{');
    taut_json_out_key(w, "file");
    taut_json_out_text(w, file);
    taut_json_out_key(w, "line");
    taut_json_out_i64(w, line);
    taut_json_out_key(w, "function");
    taut_json_out_text(w, function);
    taut_json_out_close(w, '}');
}

static void put_object(taut_listing *l, taut_json_out *w, const void *object, const void *type) {
    taut_json_out_open(w, '{');
    taut_json_out_key(w, "type");
    taut_json_out_text(w, type_name(l, type));
    taut_json_out_key(w, "id");
    put_id(w, object);
    taut_json_out_close(w, '}');
}

/* ---- the chain of coroutines ------------------------------------------------------------------
 */

/* The frames of the running coroutine whose outermost frame this is, from its thread's stack. 0:
 * they are on no stack. */
static int put_running(taut_listing *l, taut_json_out *w, const void *frame) {
    taut_listing_thread threads[TAUT_LISTING_THREADS_MAX];
    taut_stack *s = &l->stack;
    size_t count = taut_listing_threads(l, threads);
    for (size_t i = 0; i < count; i++) {
        if (taut_frames_walk(threads[i].tstate, threads[i].native_id,
                             (taut_frame_id){.frame = frame}, s) < 0 ||
            !s->wanted_seen || s->wanted_at >= s->count)
            continue;
        for (uint32_t n = s->wanted_at + 1; n-- > 0;)
            put_place(w, s->text + s->frames[n].file, s->frames[n].line,
                      s->text + s->frames[n].name);
        return 1;
    }
    return 0;
}

/* What the walk along a chain has come by. */
typedef struct {
    enum taut_await_state outermost;
    const void *lock; /* whose method the innermost frame runs, if that is one of asyncio's */
} chain;

/* Queues, locks, events and groups of asyncio are objects with methods that wait. */
static int is_asyncios(const taut_listing *l, const taut_listing_entry *e) {
    return strstr(l->arena.text + e->file, "/asyncio/") != NULL &&
           strchr(l->arena.text + e->name, '.') != NULL &&
           strstr(l->arena.text + e->name, "<locals>") == NULL;
}

static void put_chain(taut_listing *l, taut_json_out *w, const void *object, chain *c) {
    taut_await a;
    const void *type;
    *c = (chain){.outermost = TAUT_AWAIT_NONE};
    if (!taut_listing_now.frames)
        return;
    for (int depth = 0; depth < DEPTH_MAX && object != NULL; depth++) {
        if (type_of(l, object, &type) < 0)
            return;
        if (taut_await_is_wrapper(type)) {
            if (taut_listing_pointer(l, object, sizeof(PyObject), &object) < 0)
                return;
            continue;
        }
        enum taut_await_state state = taut_await_read(&l->peek, object, type, &a);
        if (depth == 0)
            c->outermost = state;
        if (state == TAUT_AWAIT_NONE || state == TAUT_AWAIT_OVER)
            return;
        if (state == TAUT_AWAIT_RUNNING && put_running(l, w, a.frame))
            return;
        const taut_listing_entry *e = place(l, a.code, a.instr);
        if (e != NULL) {
            put_place(w, l->arena.text + e->file, e->line, l->arena.text + e->name);
            c->lock = is_asyncios(l, e) ? a.first : NULL;
        }
        object = a.awaits;
    }
}

void taut_listing_frames(taut_listing *l, taut_json_out *w, const void *coroutine) {
    chain c;
    taut_json_out_open(w, '[');
    put_chain(l, w, coroutine, &c);
    taut_json_out_close(w, ']');
}

/* ---- whom its end wakes -------------------------------------------------------------------------
 */

typedef struct {
    const void *at[WAKES_MAX];
    size_t count;
} wakes;

static void wakes_add(taut_listing *l, wakes *k, const void *object) {
    const void *type;
    if (object == NULL || k->count == WAKES_MAX || type_of(l, object, &type) < 0 ||
        type == &PyLong_Type || type == &PyList_Type || type == &PyBool_Type ||
        type == &PyFunction_Type || type == Py_TYPE(Py_None) || type == &PySet_Type ||
        is_subtype(l, type, taut_listing_now.st->loop_type))
        return;
    k->at[k->count++] = object;
}

/* Items of a tuple or, with `cells`, what the cells in it hold. */
static void wakes_add_tuple(taut_listing *l, wakes *k, const void *tuple, int cells) {
    PyVarObject head;
    if (tuple == NULL || taut_peek_read(&l->peek, &head, tuple, sizeof head) < 0 ||
        Py_TYPE(&head) != &PyTuple_Type)
        return;
    for (Py_ssize_t i = 0; i < Py_SIZE(&head) && i < CELLS_MAX; i++) {
        const void *item;
        size_t at = offsetof(PyTupleObject, ob_item) + (size_t)i * sizeof item;
        if (taut_listing_pointer(l, tuple, at, &item) < 0 ||
            (cells && taut_listing_pointer(l, item, offsetof(PyCellObject, ob_ref), &item) < 0))
            return;
        wakes_add(l, k, item);
    }
}

/* A callback stands for the task itself, for the object whose method it is, or for what a function
 * has closed over: the future of a gather() or a wait(). */
static void wakes_add_callback(taut_listing *l, wakes *k, const void *callback) {
    const taut_listing_known *now = &taut_listing_now;
    const void *type, *inner;
    size_t at = 0;
    int cells = 0;
    if (callback == NULL || type_of(l, callback, &type) < 0)
        return;
    if (type == &PyMethod_Type)
        at = offsetof(PyMethodObject, im_self);
    else if (type == &PyCFunction_Type)
        at = offsetof(PyCFunctionObject, m_self);
    else if (type == now->st->task_wakeup_type)
        at = sizeof(PyObject);
    else if ((cells = type == &PyFunction_Type))
        at = offsetof(PyFunctionObject, func_closure);
    else if (type == now->partial)
        at = sizeof(PyObject) + sizeof(PyObject *); /* behind the function: the arguments */
    else {
        wakes_add(l, k, callback);
        return;
    }
    if (taut_listing_pointer(l, callback, at, &inner) < 0)
        return;
    if (cells || type == now->partial)
        wakes_add_tuple(l, k, inner, cells);
    else
        wakes_add(l, k, inner);
}

static void put_wakes(taut_listing *l, taut_json_out *w, const taut_aio_future *f) {
    wakes k = {.count = 0};
    PyListObject list;
    wakes_add_callback(l, &k, f->callback0);
    if (f->callbacks != NULL && taut_peek_read(&l->peek, &list, f->callbacks, sizeof list) == 0 &&
        Py_TYPE(&list) == &PyList_Type) {
        for (Py_ssize_t i = 0; i < Py_SIZE(&list) && i < CALLBACKS_MAX; i++) {
            const void *pair, *callback;
            if (taut_listing_pointer(l, list.ob_item, (size_t)i * sizeof pair, &pair) == 0 &&
                taut_listing_pointer(l, pair, offsetof(PyTupleObject, ob_item), &callback) == 0)
                wakes_add_callback(l, &k, callback);
        }
    }
    taut_json_out_open(w, '[');
    for (size_t i = 0; i < k.count; i++)
        put_id(w, k.at[i]);
    taut_json_out_close(w, ']');
}

/* ---- the task ---------------------------------------------------------------------------------
 */

/* From 3.12 on a task that was given no name keeps a number, until somebody asks. */
static int read_number(taut_listing *l, const void *object, unsigned long *number) {
#if PY_VERSION_HEX >= 0x030C0000
    PyLongObject value;
    if (taut_peek_read(&l->peek, &value, object, sizeof value) < 0 ||
        Py_TYPE(&value) != &PyLong_Type || value.long_value.lv_tag >> 3 != 1)
        return 0;
    *number = value.long_value.ob_digit[0];
    return 1;
#else
    return 0;
#endif
}

/* A task's name, or NULL; valid until anything else is read. */
static const char *name_text(taut_listing *l, const void *name, char number_text[32]) {
    unsigned long number;
    uint32_t size = l->arena.text_size, at;
    if (sizeof l->arena.text - size < 4 * NAME_CHARS_MAX + 1) {
        forget(l);
        size = l->arena.text_size;
    }
    if (name != NULL && read_number(l, name, &number)) {
        snprintf(number_text, 32, "Task-%lu", number);
        return number_text;
    }
    if (name == NULL || taut_frames_copy_str(&l->peek, name, NAME_CHARS_MAX, &l->arena, &at) < 0)
        return NULL;
    l->arena.text_size = size; /* names are not kept */
    return l->arena.text + at;
}

static void put_name(taut_listing *l, taut_json_out *w, const void *name) {
    char number[32];
    const char *text = name_text(l, name, number);
    if (text != NULL)
        taut_json_out_text(w, text);
    else
        taut_json_out_null(w);
}

static void put_created(taut_listing *l, taut_json_out *w, const taut_task *t) {
    const char *start = (const char *)t->site_code + offsetof(PyCodeObject, co_code_adaptive);
    const taut_listing_entry *e =
        t->site_code != NULL ? place(l, t->site_code, start + UNIT * (Py_ssize_t)t->site_unit)
                             : NULL;
    taut_json_out_key(w, "created");
    if (e != NULL)
        put_place(w, l->arena.text + e->file, e->line, l->arena.text + e->name);
    else
        taut_json_out_null(w);
}

static const char *state_of(const taut_aio_task *a, enum taut_await_state outermost) {
    return outermost == TAUT_AWAIT_RUNNING   ? "running"
           : a->waiter != NULL               ? "waiting"
           : outermost == TAUT_AWAIT_CREATED ? "new"
                                             : "ready";
}

static void put_waits(taut_listing *l, taut_json_out *w, const taut_aio_task *a, const chain *c) {
    const void *type;
    taut_json_out_key(w, "awaits");
    if (a->waiter != NULL && type_of(l, a->waiter, &type) == 0)
        put_object(l, w, a->waiter, type);
    else
        taut_json_out_null(w);
    taut_json_out_key(w, "on");
    if (c->lock != NULL && type_of(l, c->lock, &type) == 0 && type != &PyCell_Type)
        put_object(l, w, c->lock, type);
    else
        taut_json_out_null(w);
}

/* How long it has existed, and been where it is; not known of asyncio's own. */
static void put_times(taut_json_out *w, const taut_task *t) {
    uint64_t now = taut_clock_now_ns();
    if (t->born_ns == 0 || t->born_ns > now || t->stepped_ns > now)
        return;
    taut_json_out_key(w, "age");
    taut_json_out_seconds(w, now - t->born_ns);
    taut_json_out_key(w, "since");
    taut_json_out_seconds(w, now - (t->stepped_ns != 0 ? t->stepped_ns : t->born_ns));
}

/* Only of tasks that work for one. */
static void put_request(taut_listing *l, taut_json_out *w, const taut_task *t) {
    taut_request r;
    char text[TAUT_REQUEST_TEXT_MAX];
    if (taut_request_read(&l->peek, taut_listing_now.st, t->request, &r) < 0)
        return;
    if (sizeof l->arena.text - l->arena.text_size < 8 * TAUT_REQUEST_TEXT_MAX)
        forget(l);
    if (taut_request_say(&l->peek, &r, &l->arena, text, sizeof text) < 0)
        return;
    taut_json_out_key(w, "request");
    taut_json_out_text(w, text);
}

static void put_task(taut_listing *l, taut_json_out *w, const void *task, const taut_task *t) {
    chain c;
    const taut_aio_task *a = &t->aio;
    taut_json_out_open(w, '{');
    taut_json_out_key(w, "id");
    put_id(w, task);
    taut_json_out_key(w, "name");
    put_name(l, w, a->name);
    taut_json_out_key(w, "loop");
    put_id(w, a->fut.loop);
    taut_json_out_key(w, "frames");
    taut_json_out_open(w, '[');
    put_chain(l, w, a->coro, &c);
    taut_json_out_close(w, ']');
    taut_json_out_key(w, "state");
    taut_json_out_text(w, state_of(a, c.outermost));
    put_request(l, w, t);
    put_times(w, t);
    put_created(l, w, t);
    put_waits(l, w, a, &c);
    taut_json_out_key(w, "wakes");
    put_wakes(l, w, &a->fut);
    taut_json_out_key(w, "cancelling");
    taut_json_out_i64(w, a->cancel_requested);
    taut_json_out_close(w, '}');
}

int taut_listing_read_task(taut_listing *l, const void *task, taut_task *out) {
    const taut_state *st = taut_listing_now.st;
    memset(out, 0, sizeof *out);
    if (taut_peek_read(&l->peek, &out->aio, task, sizeof out->aio) < 0)
        return 0;
    const void *type = Py_TYPE((PyObject *)out);
    int own = is_subtype(l, type, st->own.task_type);
    return (own || is_subtype(l, type, st->task_type)) &&
           (!own || taut_peek_read(&l->peek, out, task, sizeof *out) == 0) &&
           out->aio.fut.state == TAUT_FUTURE_PENDING;
}

int taut_listing_task(taut_listing *l, taut_json_out *w, const void *task) {
    taut_task t;
    if (!taut_listing_read_task(l, task, &t))
        return 0;
    put_task(l, w, task, &t);
    return 1;
}

/* ---- names alone, for a trace -------------------------------------------------------------------
 */

static size_t say(char *to, size_t room, const char *text) {
    size_t size = strnlen(text, room);
    memcpy(to, text, size);
    return size;
}

size_t taut_listing_title(taut_listing *l, const taut_task *t, char *to, size_t room) {
    char number[32];
    taut_await a;
    const void *type;
    const char *name = name_text(l, t->aio.name, number);
    size_t size = say(to, room, name != NULL ? name : "task");
    if (type_of(l, t->aio.coro, &type) < 0)
        return size;
    enum taut_await_state state = taut_await_read(&l->peek, t->aio.coro, type, &a);
    if (state == TAUT_AWAIT_NONE || state == TAUT_AWAIT_OVER || size == room)
        return size;
    to[size++] = ' ';
    return size + taut_listing_object_name(l, a.code, to + size, room - size);
}

size_t taut_listing_object_name(taut_listing *l, const void *object, char *to, size_t room) {
    const void *type;
    if (object == NULL || type_of(l, object, &type) < 0)
        return 0;
    if (type == &PyCode_Type) {
        const char *start = (const char *)object + offsetof(PyCodeObject, co_code_adaptive);
        const taut_listing_entry *e = place(l, object, start);
        return e != NULL ? say(to, room, l->arena.text + e->name) : 0;
    }
    return type == &PyType_Type ? say(to, room, type_name(l, object)) : 0;
}

size_t taut_listing_place_name(taut_listing *l, const void *code, int unit, char *to, size_t room) {
    const void *type;
    if (code == NULL || type_of(l, code, &type) < 0 || type != &PyCode_Type)
        return 0;
    const char *start = (const char *)code + offsetof(PyCodeObject, co_code_adaptive);
    const taut_listing_entry *e = place(l, code, start + UNIT * (Py_ssize_t)unit);
    int size = e == NULL ? 0
                         : snprintf(to, room, "%s:%d in %s", l->arena.text + e->file, e->line,
                                    l->arena.text + e->name);
    return size <= 0 ? 0 : (size_t)size < room ? (size_t)size : room - 1;
}
