/* taut._core.Handle and TimerHandle. */
#include "binding/handle.h"
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/context.h"
#include "binding/err.h"
#include <math.h>
#include <stddef.h>

#define FOR_EACH_SLOT(X, h)                                                                        \
    X((h)->args)                                                                                   \
    X((h)->callback)                                                                               \
    X((h)->cancelled) X((h)->context) X((h)->loop) X((h)->repr) X((h)->source_traceback)

/* ---- allocation ------------------------------------------------------------------------- */

static PyObject *handle_alloc(PyTypeObject *type, PyObject **freelist, int *count) {
    if (*count > 0) {
        PyObject *self = freelist[--*count];
        return PyObject_Init(self, type); /* takes a new reference to the type */
    }
    return (PyObject *)PyObject_GC_New(PyObject, type);
}

static int handle_fill(taut_handle *h, taut_pyloop *lp, PyObject *callback, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *context) {
    h->callback = Py_NewRef(callback);
    h->cancelled = Py_NewRef(Py_False);
    h->loop = Py_NewRef((PyObject *)lp);
    h->repr = Py_NewRef(Py_None);
    h->source_traceback = NULL;
    TAUT_WEAKLIST_CLEAR(h);
    h->context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    h->args = taut_args_tuple(args, nargs);
    if (h->context == NULL || h->args == NULL)
        return -1;
    if (TAUT_UNLIKELY(lp->debug))
        h->source_traceback = PyObject_CallNoArgs(lp->st->extract_stack);
    else
        h->source_traceback = Py_NewRef(Py_None);
    return h->source_traceback == NULL ? -1 : 0;
}

PyObject *taut_handle_new(taut_pyloop *lp, PyObject *callback, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *context) {
    taut_state *st = lp->st;
    taut_handle *h =
        (taut_handle *)handle_alloc(st->handle_type, st->handle_freelist, &st->handle_free_count);
    if (h == NULL)
        return NULL;
    int rc = handle_fill(h, lp, callback, args, nargs, context);
    PyObject_GC_Track((PyObject *)h);
    if (rc < 0)
        Py_CLEAR(h);
    return (PyObject *)h;
}

/* ---- timers ------------------------------------------------------------------------------ */

uint64_t taut_deadline_from_seconds(double when) {
    if (!(when > 0)) /* also NaN */
        return 0;
    double ns = when * 1e9;
    if (ns >= 1.8e19)
        return TAUT_NEVER_NS - 1;
    uint64_t deadline_ns = (uint64_t)ns;
    while (taut_seconds_from_ns(deadline_ns) < when)
        deadline_ns++;
    return deadline_ns;
}

static taut_timer_handle *timer_owner(taut_timer *t) {
    return (taut_timer_handle *)((char *)t - offsetof(taut_timer_handle, timer));
}

static void timer_dropped(taut_timer *t) {
    Py_DECREF((PyObject *)timer_owner(t));
}

static void timer_due(taut_timer *t) {
    taut_timer_handle *th = timer_owner(t);
    taut_pyloop *lp = (taut_pyloop *)th->h.loop;
    taut_entry e = {.a = th, .b = th->vars, .kind = TAUT_READY_HANDLE};
    taut_pulse_bump(&lp->core.pulse); /* thousands may be due at once: that is no stall */
    Py_SETREF(th->scheduled, Py_NewRef(Py_False));
    if (taut_ring_push(&lp->core.ready, e) == 0) {
        th->vars = NULL; /* it went to the ring, and so did the heap's reference */
        return;
    }
    /* Out of memory: it has just left the heap, so going back needs none. */
    if (taut_timer_start(&lp->core.timers, t, lp->core.now_ns + TAUT_NS_PER_MS) < 0)
        Py_DECREF((PyObject *)th);
}

int taut_timer_is_handle(const taut_timer *t) {
    return t->due == timer_due;
}

PyObject *taut_timer_handle_new(taut_pyloop *lp, double when, PyObject *shown, PyObject *callback,
                                PyObject *const *args, Py_ssize_t nargs, PyObject *context) {
    taut_state *st = lp->st;
    taut_timer_handle *th = (taut_timer_handle *)handle_alloc(
        st->timer_handle_type, st->timer_freelist, &st->timer_free_count);
    if (th == NULL)
        return NULL;
    PyObject *vars = NULL;
    PyObject *own = context != NULL ? Py_NewRef(context) : taut_context_for_call(lp, &vars);
    int rc = own == NULL ? -1 : handle_fill(&th->h, lp, callback, args, nargs, own);
    Py_XDECREF(own);
    th->scheduled = Py_NewRef(Py_True);
    th->when = shown != NULL ? Py_NewRef(shown) : PyFloat_FromDouble(when);
    th->timer = (taut_timer){.due = timer_due, .dropped = timer_dropped};
    taut_heap_node_init(&th->timer.node);
    th->vars = vars;
    PyObject_GC_Track((PyObject *)th);
    if (rc < 0 || th->when == NULL) {
        Py_DECREF((PyObject *)th);
        return NULL;
    }
    rc = taut_timer_start(&lp->core.timers, &th->timer, taut_deadline_from_seconds(when));
    if (rc < 0) {
        Py_DECREF((PyObject *)th);
        return taut_err_raise(rc);
    }
    return Py_NewRef((PyObject *)th); /* the heap's */
}

/* ---- the types --------------------------------------------------------------------------- */

int taut_handle_cancel(PyObject *self) {
    taut_handle *h = (taut_handle *)self;
    if (h->cancelled == Py_True)
        return 0;
    Py_XSETREF(h->cancelled, Py_NewRef(Py_True));
    if (h->loop != NULL && ((taut_pyloop *)h->loop)->debug) {
        PyObject *repr = PyObject_Repr(self); /* still says what it was */
        if (repr == NULL)
            return -1;
        Py_XSETREF(h->repr, repr);
    }
    Py_XSETREF(h->callback, Py_NewRef(Py_None));
    Py_XSETREF(h->args, Py_NewRef(Py_None));
    return 0;
}

static PyObject *handle_cancel(PyObject *self, PyObject *unused) {
    if (taut_handle_cancel(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *timer_handle_cancel(PyObject *self, PyObject *unused) {
    taut_timer_handle *th = (taut_timer_handle *)self;
    if (taut_handle_cancel(self) < 0)
        return NULL;
    taut_pyloop *lp = (taut_pyloop *)th->h.loop;
    if (lp != NULL && lp->core_ready)
        taut_timer_cancel(&lp->core.timers, &th->timer);
    Py_RETURN_NONE;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_handle *h = (taut_handle *)self;
    Py_VISIT(Py_TYPE(self));
#define VISIT_SLOT(f) Py_VISIT(f);
    FOR_EACH_SLOT(VISIT_SLOT, h)
#undef VISIT_SLOT
    return 0;
}

static int timer_handle_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((taut_timer_handle *)self)->vars);
    return handle_traverse(self, visit, arg);
}

static int handle_clear(PyObject *self) {
    taut_handle *h = (taut_handle *)self;
#define CLEAR_SLOT(f) Py_CLEAR(f);
    FOR_EACH_SLOT(CLEAR_SLOT, h)
#undef CLEAR_SLOT
    return 0;
}

static void handle_free(PyObject *self, PyTypeObject *exact, PyObject **freelist, int *count) {
    PyTypeObject *type = Py_TYPE(self);
    if (type == exact && *count < TAUT_FREELIST_MAX)
        freelist[(*count)++] = self;
    else
        type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static void handle_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    taut_weakrefs_clear(self);
    Py_TRASHCAN_BEGIN(self, handle_dealloc)(void) handle_clear(self);
    taut_state *st = taut_state_of(PyType_GetModule(Py_TYPE(self)));
    if (st != NULL)
        handle_free(self, st->handle_type, st->handle_freelist, &st->handle_free_count);
    Py_TRASHCAN_END
}

static void timer_handle_dealloc(PyObject *self) {
    taut_timer_handle *th = (taut_timer_handle *)self;
    PyObject_GC_UnTrack(self);
    taut_weakrefs_clear(self);
    Py_TRASHCAN_BEGIN(self, timer_handle_dealloc)(void) handle_clear(self);
    Py_CLEAR(th->scheduled);
    Py_CLEAR(th->when);
    Py_CLEAR(th->vars);
    taut_state *st = taut_state_of(PyType_GetModule(Py_TYPE(self)));
    if (st != NULL)
        handle_free(self, st->timer_handle_type, st->timer_freelist, &st->timer_free_count);
    Py_TRASHCAN_END
}

void taut_handle_freelists_clear(taut_state *st) {
    while (st->handle_free_count > 0)
        PyObject_GC_Del(st->handle_freelist[--st->handle_free_count]);
    while (st->timer_free_count > 0)
        PyObject_GC_Del(st->timer_freelist[--st->timer_free_count]);
    while (st->threadsafe_free_count > 0)
        PyObject_GC_Del(st->threadsafe_freelist[--st->threadsafe_free_count]);
}

/* ---- of other threads -------------------------------------------------------------------------
 */

#if PY_VERSION_HEX >= 0x030E0000
PyObject *taut_threadsafe_handle_new(taut_pyloop *lp, PyObject *callback, PyObject *const *args,
                                     Py_ssize_t nargs, PyObject *context) {
    taut_state *st = lp->st;
    taut_threadsafe_handle *s = (taut_threadsafe_handle *)handle_alloc(
        st->threadsafe_handle_type, st->threadsafe_freelist, &st->threadsafe_free_count);
    if (s == NULL)
        return NULL;
    s->lock = NULL;
    s->runner = 0;
    s->running = (PyMutex){0};
    int rc = handle_fill(&s->h, lp, callback, args, nargs, context);
    PyObject_GC_Track((PyObject *)s);
    if (rc < 0)
        Py_CLEAR(s);
    return (PyObject *)s;
}

int taut_handle_begin(taut_state *st, PyObject *handle) {
    if (!Py_IS_TYPE(handle, st->threadsafe_handle_type))
        return 0;
    taut_threadsafe_handle *s = (taut_threadsafe_handle *)handle;
    if (s->runner != 0)
        return 0; /* it runs itself once more */
    PyMutex_Lock(&s->running);
    s->runner = PyThread_get_thread_ident();
    return 1;
}

void taut_handle_end(PyObject *handle) {
    taut_threadsafe_handle *s = (taut_threadsafe_handle *)handle;
    s->runner = 0;
    PyMutex_Unlock(&s->running);
}

/* In another thread: until the callback is over. Gives the GIL up meanwhile. */
static void wait_while_running(PyObject *self) {
    taut_threadsafe_handle *s = (taut_threadsafe_handle *)self;
    if (s->runner == 0 || s->runner == PyThread_get_thread_ident())
        return;
    PyMutex_Lock(&s->running);
    PyMutex_Unlock(&s->running);
}

static PyObject *threadsafe_cancel(PyObject *self, PyObject *unused) {
    wait_while_running(self);
    if (taut_handle_cancel(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *threadsafe_cancelled(PyObject *self, PyObject *unused) {
    wait_while_running(self);
    return PyBool_FromLong(taut_handle_is_cancelled(self));
}

static PyObject *threadsafe_run(PyObject *self, PyObject *unused) {
    taut_state *st = taut_state_of(PyType_GetModule(Py_TYPE(self)));
    if (taut_handle_is_cancelled(self))
        Py_RETURN_NONE;
    int begun = taut_handle_begin(st, self);
    PyObject *result = PyObject_CallMethod(st->base_handle, "_run", "O", self);
    if (begun)
        taut_handle_end(self);
    return result;
}

static void threadsafe_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    taut_weakrefs_clear(self);
    Py_TRASHCAN_BEGIN(self, threadsafe_dealloc)(void) handle_clear(self);
    Py_CLEAR(((taut_threadsafe_handle *)self)->lock);
    taut_state *st = taut_state_of(PyType_GetModule(Py_TYPE(self)));
    if (st != NULL)
        handle_free(self, st->threadsafe_handle_type, st->threadsafe_freelist,
                    &st->threadsafe_free_count);
    Py_TRASHCAN_END
}

static PyMethodDef threadsafe_methods[] = {
    {"cancel", threadsafe_cancel, METH_NOARGS,
     "cancel() -> None\n\nThe callback will not run, unless it has begun to."},
    {"cancelled", threadsafe_cancelled, METH_NOARGS, "cancelled() -> bool"},
    {"_run", threadsafe_run, METH_NOARGS, "As asyncio.Handle has it."},
    {NULL},
};
PyDoc_STRVAR(threadsafe_doc,
             "A call queued by call_soon_threadsafe(). While it runs, other threads "
             "wait in cancel() and cancelled().");
static PyType_Slot threadsafe_slots[] = {
    {Py_tp_doc, (void *)threadsafe_doc}, {Py_tp_methods, threadsafe_methods},
    {Py_tp_traverse, handle_traverse},   {Py_tp_clear, handle_clear},
    {Py_tp_dealloc, threadsafe_dealloc}, {0, NULL},
};
#endif

/* ---- the table -----------------------------------------------------------------------------
 */

PyDoc_STRVAR(cancel_doc, "cancel() -> None\n\nThe callback will not run. Idempotent.");

static PyMethodDef handle_methods[] = {{"cancel", handle_cancel, METH_NOARGS, cancel_doc}, {NULL}};
static PyMethodDef timer_handle_methods[] = {
    {"cancel", timer_handle_cancel, METH_NOARGS, cancel_doc}, {NULL}};

PyDoc_STRVAR(handle_doc, "A call queued by call_soon(); see asyncio.Handle.");
PyDoc_STRVAR(timer_handle_doc, "A call queued by call_later() or call_at(); see "
                               "asyncio.TimerHandle. The deadline is kept in nanoseconds.");

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)handle_doc},   {Py_tp_methods, handle_methods},
    {Py_tp_traverse, handle_traverse}, {Py_tp_clear, handle_clear},
    {Py_tp_dealloc, handle_dealloc},   {0, NULL},
};
static PyType_Slot timer_handle_slots[] = {
    {Py_tp_doc, (void *)timer_handle_doc},   {Py_tp_methods, timer_handle_methods},
    {Py_tp_traverse, timer_handle_traverse}, {Py_tp_clear, handle_clear},
    {Py_tp_dealloc, timer_handle_dealloc},   {0, NULL},
};
/* Made by the loop only: a Handle's timer and loop fields need C values. */
#define HANDLE_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION)
static PyType_Spec handle_spec = {"taut._core.Handle", sizeof(taut_handle), 0, HANDLE_FLAGS,
                                  handle_slots};
#if PY_VERSION_HEX >= 0x030E0000
static PyType_Spec threadsafe_spec = {"taut._core._ThreadSafeHandle",
                                      sizeof(taut_threadsafe_handle), 0, HANDLE_FLAGS,
                                      threadsafe_slots};
#endif
static PyType_Spec timer_handle_spec = {"taut._core.TimerHandle", sizeof(taut_timer_handle), 0,
                                        HANDLE_FLAGS, timer_handle_slots};

/* The struct above must lie over the base's slots exactly. */
static int check_slot(PyObject *base, const char *name, size_t offset) {
    PyObject *member = PyObject_GetAttrString(base, name);
    if (member == NULL)
        return -1;
    int ok = Py_IS_TYPE(member, &PyMemberDescr_Type) &&
             ((PyMemberDescrObject *)member)->d_member->offset == (Py_ssize_t)offset;
    Py_DECREF(member);
    if (!ok)
        PyErr_Format(PyExc_ImportError, "taut does not know this Python's asyncio.Handle (%s)",
                     name);
    return ok ? 0 : -1;
}

static int check_layout(taut_state *st) {
    static const struct {
        const char *name;
        size_t offset;
    } slots[] = {
        {"_args", offsetof(taut_handle, args)},
        {"_callback", offsetof(taut_handle, callback)},
        {"_cancelled", offsetof(taut_handle, cancelled)},
        {"_context", offsetof(taut_handle, context)},
        {"_loop", offsetof(taut_handle, loop)},
        {"_repr", offsetof(taut_handle, repr)},
        {"_source_traceback", offsetof(taut_handle, source_traceback)},
        {"_scheduled", offsetof(taut_timer_handle, scheduled)},
        {"_when", offsetof(taut_timer_handle, when)},
    };
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        PyObject *base = i < 7 ? st->base_handle : st->base_timer_handle;
        if (check_slot(base, slots[i].name, slots[i].offset) < 0)
            return -1;
    }
    return 0;
}

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec, PyObject *base) {
    PyObject *bases = PyTuple_Pack(1, base);
    if (bases == NULL)
        return NULL;
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases);
    Py_DECREF(bases);
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

int taut_handle_types_add(PyObject *module, taut_state *st) {
    if (check_layout(st) < 0)
        return -1;
    st->handle_type = add_type(module, &handle_spec, st->base_handle);
    if (st->handle_type == NULL)
        return -1;
    st->timer_handle_type = add_type(module, &timer_handle_spec, st->base_timer_handle);
#if PY_VERSION_HEX >= 0x030E0000
    if (check_slot(st->base_threadsafe_handle, "_lock", offsetof(taut_threadsafe_handle, lock)) < 0)
        return -1;
    st->threadsafe_handle_type = add_type(module, &threadsafe_spec, st->base_threadsafe_handle);
    if (st->threadsafe_handle_type == NULL)
        return -1;
#endif
    return st->timer_handle_type == NULL ? -1 : 0;
}
