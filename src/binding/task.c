/* taut._core.Task: made, recycled, shown. What it does when it runs is in task_step.c. */
#include "binding/notice.h"
#include "binding/request.h"
#include "binding/task_current.h"
#include "binding/task_notes.h"
#include "binding/trace.h"

#include <string.h>

/* ---- made -------------------------------------------------------------------------------------
 */

/* "Task-7": up to 3.11 the name is a string from the start, later a number until asked for. */
static PyObject *name_new(uint64_t number) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyLong_FromUnsignedLongLong(number);
#else
    char digits[20];
    size_t count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    PyObject *name = PyUnicode_New((Py_ssize_t)(count + 5), 127);
    if (name == NULL)
        return NULL;
    Py_UCS1 *text = PyUnicode_1BYTE_DATA(name);
    memcpy(text, "Task-", 5);
    for (text += 5; count > 0;)
        *text++ = (Py_UCS1)digits[--count];
    return name;
#endif
}

/* A task that is new, or to be used again, is in no list. */
static void link_init(taut_task *t) {
#if PY_VERSION_HEX >= 0x030E0000
    t->aio.node = (taut_list){NULL, NULL};
    t->aio.fut.is_task = 1;
#else
    taut_list_init(&t->link);
#endif
}

static PyObject *name_from(taut_state *st, PyObject *given) {
    if (given == NULL || given == Py_None)
        return name_new(++st->own.count);
    return PyUnicode_CheckExact(given) ? Py_NewRef(given) : PyObject_Str(given);
}

/* 0, or -1 with TypeError. */
static int check_coroutine(taut_state *st, PyObject *coro) {
    if (TAUT_LIKELY(PyCoro_CheckExact(coro)))
        return 0;
    PyObject *is = PyObject_CallOneArg(st->iscoroutine, coro);
    int ok = is == NULL ? -1 : PyObject_IsTrue(is);
    Py_XDECREF(is);
    if (ok == 0)
        PyErr_Format(PyExc_TypeError, "a coroutine was expected, got %R", coro);
    return ok == 1 ? 0 : -1;
}

/* Everything that is not the future's part; -1 leaves it to the destructor. */
static int task_fill(taut_state *st, taut_task *t, PyObject *coro, PyObject *name,
                     PyObject *context) {
    taut_aio_task *a = &t->aio;
    TAUT_TASK_FLAG(a, log_destroy_pending) = 0;
    if (check_coroutine(st, coro) < 0)
        return -1;
    Py_XSETREF(a->context, context == NULL || context == Py_None ? PyContext_CopyCurrent()
                                                                 : Py_NewRef(context));
    if (a->context == NULL)
        return -1;
    Py_CLEAR(a->waiter);
    int finalizes = taut_task_site_take(st, t);
    t->born_ns = t->stepped_ns = t->lp != NULL ? t->lp->core.now_ns : 0;
    t->birth = t->lp != NULL && t->lp->core.dispatching ? TAUT_TASK_MADE_BY_EVENT : TAUT_TASK_MADE;
    if (t->lp != NULL)
        taut_request_inherit(t);
    t->cancel_due = 0;
    TAUT_TASK_FLAG(a, must_cancel) = 0;
    a->cancel_requested = 0;
    Py_XSETREF(a->coro, Py_NewRef(coro));
    PyObject *own = name_from(st, name);
    Py_XSETREF(a->name, own);
    if (own == NULL)
        return -1;
    TAUT_TASK_FLAG(a, log_destroy_pending) = 1;
    taut_trace_created(t);
    if (TAUT_UNLIKELY(finalizes || (t->lp != NULL && taut_pyloop_is_in_gc(t->lp))))
        (void)taut_notice(st, t->lp, "in_finalizer", "(sO)", "create_task()", coro);
    return 0;
}

PyObject *taut_task_new(taut_pyloop *lp, PyObject *coro, PyObject *name, PyObject *context) {
    taut_state *st = lp->st;
    taut_task *t;
    if (st->own.task_free_count > 0) {
        t = (taut_task *)PyObject_Init(st->own.task_freelist[--st->own.task_free_count],
                                       st->own.task_type);
        t->aio.fut.state = TAUT_FUTURE_PENDING;
        t->aio.fut.blocking = 0;
        TAUT_TASK_FLAG(&t->aio, log_destroy_pending) = 0;
        link_init(t);
        PyObject_GC_Track((PyObject *)t);
    } else {
        t = (taut_task *)st->own.task_type->tp_alloc(st->own.task_type, 0);
        if (t == NULL)
            return NULL;
        link_init(t);
    }
    t->aio.fut.loop = Py_NewRef((PyObject *)lp);
    t->lp = lp;
    if (TAUT_UNLIKELY(lp->debug) &&
        (t->aio.fut.source_tb = PyObject_CallNoArgs(st->extract_stack)) == NULL)
        goto fail;
    if (task_fill(st, t, coro, name, context) < 0 || taut_task_step_soon(t, NULL) < 0)
        goto fail;
    taut_task_list(st, t);
    return (PyObject *)t;
fail:
    Py_DECREF((PyObject *)t);
    return NULL;
}

static PyObject *task_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    taut_task *t = (taut_task *)type->tp_alloc(type, 0);
    if (t == NULL)
        return NULL;
    link_init(t);
    /* Up to 3.12 the base's methods take for granted that these are there. */
    t->aio.coro = Py_NewRef(Py_None);
    t->aio.name = Py_NewRef(Py_None);
    t->aio.context = Py_NewRef(Py_None);
    return (PyObject *)t;
}

/* The base's own constructor would queue the base's own step: only the future's part is its. */
static int init_future(taut_state *st, taut_task *t, PyObject *loop) {
    PyObject *none = PyTuple_New(0), *kwargs = Py_BuildValue("{sO}", "loop", loop);
    int rc = none == NULL || kwargs == NULL
                 ? -1
                 : ((PyTypeObject *)st->future_type)->tp_init((PyObject *)t, none, kwargs);
    Py_XDECREF(none);
    Py_XDECREF(kwargs);
#if PY_VERSION_HEX >= 0x030E0000
    t->aio.fut.is_task = 1;
#endif
    if (rc == 0 && taut_pyloop_has_own_call_soon(st, t->aio.fut.loop))
        t->lp = (taut_pyloop *)t->aio.fut.loop;
    return rc;
}

/* In all_tasks(): asyncio's own register has those of other loops. */
static int task_register(taut_state *st, taut_task *t) {
    if (t->lp != NULL) {
        taut_task_list(st, t);
        return 0;
    }
    PyObject *done = PyObject_CallOneArg(st->register_task, (PyObject *)t);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int task_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"coro", "loop", "name", "context", "eager_start", NULL};
    const char *format = PY_VERSION_HEX >= 0x030C0000 ? "O|$OOOp:Task" : "O|$OOO:Task";
    taut_task *t = (taut_task *)self;
    taut_state *st = taut_state_of_type(Py_TYPE(self));
    PyObject *coro, *loop = Py_None, *name = NULL, *context = NULL;
    int eager = 0;
    if (PY_VERSION_HEX < 0x030C0000)
        names[4] = NULL;
    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &coro, &loop, &name,
                                                   &context, &eager))
        return -1;
    taut_task_note_forget(t);
    t->lp = NULL;
    taut_task_unlist(t);
    TAUT_TASK_FLAG(&t->aio, log_destroy_pending) = 0;
    if (init_future(st, t, loop) < 0 || task_fill(st, t, coro, name, context) < 0)
        return -1;
#if PY_VERSION_HEX >= 0x030C0000
    if (eager && (eager = taut_task_loop_is_running(t)) < 0)
        return -1;
    if (eager)
        return task_register(st, t) < 0 ? -1 : taut_task_start_eagerly(t);
#endif
    return taut_task_step_soon(t, NULL) < 0 ? -1 : task_register(st, t);
}

/* ---- gone ---------------------------------------------------------------------------------------
 */

static PyTypeObject *base_of(PyObject *self) {
    taut_state *st = taut_state_of_type(Py_TYPE(self));
    return (PyTypeObject *)st->task_type;
}

static int task_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_aio_task *t = (taut_aio_task *)self;
    Py_VISIT(t->waiter);
    Py_VISIT(t->coro);
    Py_VISIT(t->context);
    Py_VISIT((PyObject *)((taut_task *)self)->request);
    int rc = taut_task_note_visit((taut_task *)self, visit, arg);
    /* A name is a string: it refers to nothing. */
    return rc != 0 ? rc : taut_future_visit(self, visit, arg);
}

static int task_clear(PyObject *self) {
    taut_task_note_forget((taut_task *)self);
    taut_request_leave((taut_task *)self);
    ((taut_task *)self)->lp = NULL;
    return base_of(self)->tp_clear(self);
}

/* Before anything of it is taken apart nobody may come by it any more. */
static void task_finalize(PyObject *self) {
    taut_task_unlist((taut_task *)self);
    taut_task_note_forget((taut_task *)self); /* while it is known whether anybody has asked */
    base_of(self)->tp_finalize(self);
}

/* Whether the base's finalizer has something to say. */
static int has_last_words(const taut_task *t) {
    return t->aio.fut.log_tb || (t->aio.fut.state == TAUT_FUTURE_PENDING &&
                                 TAUT_TASK_FLAG(&t->aio, log_destroy_pending));
}

static void task_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    taut_state *st = taut_state_of_type(type);
    taut_task *t = (taut_task *)self;
    int exact = type == st->own.task_type;
    taut_task_unlist(t);
    /* A subclass has called the finalizer. */
    if (exact && has_last_words(t) && PyObject_CallFinalizerFromDealloc(self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    taut_weakrefs_clear(self);
    (void)task_clear(self);
    Py_CLEAR(t->site_code);
    if (exact && st->own.task_free_count < TAUT_FREELIST_MAX && !PyObject_GC_IsFinalized(self))
        st->own.task_freelist[st->own.task_free_count++] = self;
    else
        type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

void taut_task_freelists_clear(taut_state *st) {
    while (st->own.future_free_count > 0)
        PyObject_GC_Del(st->own.future_freelist[--st->own.future_free_count]);
    while (st->own.task_free_count > 0)
        PyObject_GC_Del(st->own.task_freelist[--st->own.task_free_count]);
}

/* ---- the type -----------------------------------------------------------------------------------
 */

/* cancel() of a task that waits at a future of ours, without a look at either by name. */
static PyObject *task_cancel(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    taut_task *t = (taut_task *)self;
    taut_aio_task *a = &t->aio;
    taut_state *st = t->lp != NULL ? t->lp->st : taut_state_of_type(Py_TYPE(self));
    PyObject *waiter = a->waiter;
    if (st == NULL)
        return NULL;
    t->cancel_due = 1;
    if (nargs == 0 && kwnames == NULL && a->fut.state == TAUT_FUTURE_PENDING && waiter != NULL &&
        (Py_IS_TYPE(waiter, st->own.future_type) || Py_IS_TYPE(waiter, st->own.task_type))) {
        a->fut.log_tb = 0;
        a->cancel_requested++;
        Py_INCREF(waiter);
        PyObject *done = PyObject_CallMethodNoArgs(waiter, st->str_cancel);
        Py_DECREF(waiter);
        if (done != Py_False)
            return done;
        Py_DECREF(done);
        TAUT_TASK_FLAG(a, must_cancel) = 1;
        Py_CLEAR(a->fut.cancel_msg);
        Py_RETURN_TRUE;
    }
    return taut_cancel_as(st, st->task_type, self, args, nargs, kwnames);
}

/* Whoever takes a cancellation back has handled its exception, which is not to be kept from then
 * on: timeouts and task groups are held to leave nothing behind that refers to it. */
static PyObject *task_uncancel(PyObject *self, PyObject *unused) {
    taut_task *t = (taut_task *)self;
    PyObject *base = (PyObject *)base_of(self);
    PyObject *method = PyObject_GetAttr(base, taut_state_of_type(Py_TYPE(self))->str_uncancel);
    PyObject *left = method == NULL ? NULL : PyObject_CallOneArg(method, self);
    Py_XDECREF(method);
    if (left != NULL && t->aio.cancel_requested == 0)
        taut_task_note_forget(t);
    return left;
}

static PyMethodDef task_methods[] = {
    {"uncancel", task_uncancel, METH_NOARGS, "uncancel() -> int"},
    {"cancel", (PyCFunction)(void (*)(void))task_cancel, METH_FASTCALL | METH_KEYWORDS,
     "cancel(msg=None) -> bool"},
    {NULL},
};

static PyGetSetDef task_getset[] = {
    {"_callbacks", taut_future_get_callbacks, NULL, "[(callback, context), ...], None when empty."},
    {NULL},
};

PyDoc_STRVAR(task_doc, "Task(coro, *, loop=None, name=None, context=None)\n\n"
                       "An asyncio.Task that a taut loop makes; from 3.12 on with eager_start=.");
static PyType_Slot task_slots[] = {
    {Py_tp_doc, (void *)task_doc}, {Py_tp_new, task_tp_new},
    {Py_tp_init, task_init},       {Py_tp_traverse, task_traverse},
    {Py_tp_clear, task_clear},     {Py_tp_finalize, task_finalize},
    {Py_tp_dealloc, task_dealloc}, {Py_tp_getset, task_getset},
    {Py_tp_methods, task_methods}, {0, NULL},
};
static PyType_Spec task_spec = {"taut._core.Task", sizeof(taut_task), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                                task_slots};

int taut_task_type_add(PyObject *module, taut_state *st) {
#if PY_VERSION_HEX < 0x030E0000
    taut_list_init(&st->own.live);
#endif
    if (((PyTypeObject *)st->task_type)->tp_basicsize != sizeof(taut_aio_task))
        return 0; /* of a Python that is not known: asyncio's own tasks serve */
    PyObject *bases = PyTuple_Pack(1, st->task_type);
    if (bases == NULL)
        return -1;
    st->own.task_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &task_spec, bases);
    Py_DECREF(bases);
    return st->own.task_type == NULL ? -1 : PyModule_AddType(module, st->own.task_type);
}
