/* The flight recorder's Python side: what is recorded of a callable, and what things are called in
 * a dump. Names are read as memory, without the GIL: what the loop has done with them meanwhile
 * shows as a wrong type, and then they have none. */
#include "binding/trace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "binding/err.h"
#include "binding/listing_private.h"

/* ---- recording ---------------------------------------------------------------------------------
 */

/* The task whose step or wake-up asyncio gave to call_soon, or NULL. */
static PyObject *task_of(const taut_state *st, PyObject *callable) {
    PyTypeObject *type = Py_TYPE(callable);
    if (type == &PyCFunction_Type && st->task_wakeup_def != NULL &&
        ((PyCFunctionObject *)callable)->m_ml == st->task_wakeup_def)
        return ((PyCFunctionObject *)callable)->m_self;
    if (type == st->task_step_type || type == st->task_wakeup_type)
        return *(PyObject **)(void *)((char *)callable + sizeof(PyObject));
    return NULL;
}

void taut_trace_call(taut_pyloop *lp, PyObject *callable) {
    taut_recorder *r = &lp->core.recorder;
    if (callable == NULL) /* it was cancelled */
        return;
    if (Py_IS_TYPE(callable, &PyMethod_Type))
        callable = PyMethod_GET_FUNCTION(callable);
    if (Py_IS_TYPE(callable, &PyFunction_Type)) {
        taut_recorder_add(r, TAUT_EVENT_CALL, taut_recorder_id(PyFunction_GET_CODE(callable)), 0);
        return;
    }
    const PyObject *task = task_of(lp->st, callable);
    if (task != NULL) {
        taut_recorder_add(r, TAUT_EVENT_STEP, taut_recorder_id(task), 0);
        return;
    }
    const char *name = Py_IS_TYPE(callable, &PyCFunction_Type)
                           ? ((PyCFunctionObject *)callable)->m_ml->ml_name
                           : NULL;
    taut_recorder_add(r, TAUT_EVENT_CALL, taut_recorder_id(Py_TYPE(callable)),
                      (uint64_t)(uintptr_t)name);
}

void taut_trace_ended(const taut_task *t, PyObject *coro) {
    const taut_frame_layout *l = taut_frames_layout();
    const void *named = Py_TYPE(coro);
    if (t->lp == NULL)
        return;
    if (l != NULL && (PyCoro_CheckExact(coro) || PyGen_CheckExact(coro))) {
        uintptr_t code;
        memcpy(&code, (const char *)coro + l->gen_frame + l->frame_code, sizeof code);
        named = (const void *)(code & ~l->frame_code_tag);
    }
    taut_recorder_add(&t->lp->core.recorder, TAUT_EVENT_ENDED, taut_recorder_id(t),
                      (uint64_t)(uintptr_t)named);
}

/* ---- names --------------------------------------------------------------------------------------
 */

/* Of one piece of a trace. */
typedef struct {
    taut_listing *listing;
    int open; /* may be read with it */
} names;

static taut_listing *listing_of(names *n) {
    if (!n->open && n->listing != NULL && taut_listing_enabled())
        n->open = taut_listing_begin(n->listing, 0) == 0;
    return n->open ? n->listing : NULL;
}

static size_t name_task(void *ctx, const taut_recorder *of, const void *task, uint64_t before_ns,
                        uint64_t *place, char *to, size_t room) {
    taut_listing *l = listing_of(ctx);
    taut_task t;
    if (l == NULL)
        return 0;
    taut_peek_pages *pages = l->peek.pages;
    l->peek.pages = NULL; /* as it is now, not as it was when its page was read */
    int pending = taut_listing_read_task(l, task, &t);
    l->peek.pages = pages;
    if (!pending)
        return 0;
    if (t.lp != NULL && (&t.lp->core.recorder != of || t.born_ns > before_ns))
        return 0; /* another one, which has its memory now */
    if (*place == 0 && t.site_code != NULL)
        *place = taut_trace_place(t.site_code, t.site_unit);
    return taut_listing_title(l, &t, to, room);
}

/* A C string, byte by byte: nothing beyond its end may be touched. */
static size_t read_text(taut_listing *l, const char *text, char *to, size_t room) {
    for (size_t size = 0; size < room; size++)
        if (taut_peek_read(&l->peek, to + size, text + size, 1) < 0 || to[size] == '\0')
            return size;
    return room;
}

static size_t name_object(void *ctx, uint64_t value, uint64_t more, char *to, size_t room) {
    taut_listing *l = listing_of(ctx);
    const void *object = (const void *)(uintptr_t)(value != 0 ? value : more);
    if (value == 0 && more == 0)
        return (size_t)snprintf(to, room, "%s", "taut");
    if (l == NULL)
        return 0;
    if (more != 0 && value != 0)
        return read_text(l, (const char *)(uintptr_t)more, to, room);
    return taut_listing_object_name(l, object, to, room);
}

static size_t name_place(void *ctx, uint64_t more, char *to, size_t room) {
    taut_listing *l = listing_of(ctx);
    if (l == NULL)
        return 0;
    return taut_listing_place_name(l, (const void *)(uintptr_t)(more >> 16), (int)(uint16_t)more,
                                   to, room);
}

static void names_free(void *ctx) {
    names *n = ctx;
    if (n == NULL)
        return;
    if (n->open)
        taut_listing_end(n->listing);
    taut_listing_free(n->listing);
    taut_free(n);
}

taut_trace *taut_trace_begin(void) {
    static const taut_trace_names ops = {
        .task = name_task, .object = name_object, .place = name_place, .free = names_free};
    names *n = taut_calloc(1, sizeof *n);
    if (n == NULL)
        return NULL;
    n->listing = taut_listing_new(); /* without it nothing has a name */
    return taut_trace_new(&ops, n);
}

/* ---- the module's function ----------------------------------------------------------------------
 */

PyDoc_STRVAR(trace_doc, "trace() -> bytes\n\nWhat the flight recorders of all loops have, as a "
                        "trace in Chrome's JSON format.");
static PyObject *trace(PyObject *module, PyObject *unused) {
    taut_buf text, piece;
    int rc = -ENOMEM;
    taut_buf_init(&text);
    taut_buf_init(&piece);
    Py_BEGIN_ALLOW_THREADS taut_trace *t = taut_trace_begin();
    if (t != NULL) {
        do {
            rc = taut_trace_more(t, &piece);
            if (taut_buf_append(&text, taut_buf_bytes(&piece), taut_buf_size(&piece)) < 0)
                rc = -ENOMEM;
            taut_buf_clear(&piece);
        } while (rc > 0);
    }
    taut_trace_free(t);
    Py_END_ALLOW_THREADS PyObject *bytes =
        rc < 0 ? taut_err_raise(rc)
               : PyBytes_FromStringAndSize((const char *)taut_buf_bytes(&text),
                                           (Py_ssize_t)taut_buf_size(&text));
    taut_buf_free(&text);
    taut_buf_free(&piece);
    return bytes;
}

static PyMethodDef methods[] = {
    {"trace", trace, METH_NOARGS, trace_doc},
    {NULL},
};

int taut_trace_functions_add(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
