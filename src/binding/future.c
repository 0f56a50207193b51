/* taut._core.Future: made, completed, recycled. */
#include "binding/request.h"

/* ---- what waits for it ---------------------------------------------------------------------- */

/* Consumes both references. */
static int schedule_one(taut_pyloop *lp, taut_aio_future *f, PyObject *callback,
                        PyObject *context) {
    taut_entry e = {.a = callback, .b = Py_NewRef((PyObject *)f), .c = context};
    if (Py_TYPE(callback) == lp->st->own.task_type) { /* it waits itself: see task_step.c */
        e.kind = TAUT_READY_WAKEUP;
        e.c = NULL;
        Py_DECREF(context);
        taut_request_ready((taut_task *)callback);
    } else {
        e.kind = TAUT_READY_CALL;
    }
    return taut_ready_push(lp, &e);
}

int taut_future_schedule(taut_pyloop *lp, taut_aio_future *f) {
    PyObject *callback = f->callback0, *context = f->context0, *list = f->callbacks;
    int rc = 0;
    f->callback0 = f->context0 = f->callbacks = NULL;
    if (callback != NULL)
        rc = schedule_one(lp, f, callback, context);
    if (list == NULL)
        return rc;
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(list); i++) {
        PyObject *pair = PyList_GET_ITEM(list, i);
        rc = schedule_one(lp, f, Py_NewRef(PyTuple_GET_ITEM(pair, 0)),
                          Py_NewRef(PyTuple_GET_ITEM(pair, 1)));
    }
    Py_DECREF(list);
    return rc;
}

/* ---- made and gone ----------------------------------------------------------------------------
 */

PyObject *taut_future_new(taut_pyloop *lp) {
    taut_state *st = lp->st;
    PyTypeObject *type = st->own.future_type;
    taut_future *f;
    if (st->own.future_free_count > 0) {
        f = (taut_future *)PyObject_Init(st->own.future_freelist[--st->own.future_free_count],
                                         type);
        f->aio.state = TAUT_FUTURE_PENDING;
        f->aio.blocking = 0;
        PyObject_GC_Track((PyObject *)f);
    } else {
        f = (taut_future *)type->tp_alloc(type, 0);
        if (f == NULL)
            return NULL;
    }
    f->aio.loop = Py_NewRef((PyObject *)lp);
    f->lp = lp;
    if (TAUT_UNLIKELY(lp->debug)) {
        f->aio.source_tb = PyObject_CallNoArgs(st->extract_stack);
        if (f->aio.source_tb == NULL)
            Py_CLEAR(f);
    }
    return (PyObject *)f;
}

static int future_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    taut_future *f = (taut_future *)self;
    taut_state *st = taut_state_of_type(Py_TYPE(self));
    f->lp = NULL;
    if (st == NULL || ((PyTypeObject *)st->future_type)->tp_init(self, args, kwargs) < 0)
        return -1;
    if (taut_pyloop_has_own_call_soon(st, f->aio.loop))
        f->lp = (taut_pyloop *)f->aio.loop;
    return 0;
}

/* A future's loop knows sooner than its type. */
static taut_state *state_of(PyObject *self) {
    const taut_pyloop *lp = ((taut_future *)self)->lp;
    return TAUT_LIKELY(lp != NULL) ? lp->st : taut_state_of_type(Py_TYPE(self));
}

static PyTypeObject *base_of(PyObject *self) {
    return (PyTypeObject *)state_of(self)->future_type;
}

/* Full collections go through every future and task that waits, so it knows the fields itself. */
int taut_future_visit(PyObject *self, visitproc visit, void *arg) {
    taut_aio_future *f = (taut_aio_future *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(f->loop);
    Py_VISIT(f->callback0);
    Py_VISIT(f->context0);
    Py_VISIT(f->callbacks);
    Py_VISIT(f->exception);
    Py_VISIT(f->exception_tb);
    Py_VISIT(f->result);
    Py_VISIT(f->source_tb);
    Py_VISIT(f->cancel_msg);
    Py_VISIT(f->cancelled_exc);
#if PY_VERSION_HEX >= 0x030E0000
    Py_VISIT(f->awaited_by);
#endif
#if PY_VERSION_HEX >= 0x030D0000
    return PyObject_VisitManagedDict(self, visit, arg);
#else
    Py_VISIT(f->dict);
    return 0;
#endif
}

static int future_clear(PyObject *self) {
    PyTypeObject *base = base_of(self);
    ((taut_future *)self)->lp = NULL;
    return base->tp_clear(self);
}

static void future_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    taut_state *st = state_of(self);
    int exact = type == st->own.future_type;
    /* The finalizer only reports an exception that nobody has seen. A subclass has called it. */
    if (exact && ((taut_future *)self)->aio.log_tb && PyObject_CallFinalizerFromDealloc(self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    taut_weakrefs_clear(self);
    (void)future_clear(self);
    if (exact && st->own.future_free_count < TAUT_FREELIST_MAX && !PyObject_GC_IsFinalized(self))
        st->own.future_freelist[st->own.future_free_count++] = self;
    else
        type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

/* ---- from C -------------------------------------------------------------------------------------
 */

int taut_future_finish(taut_pyloop *lp, PyObject *future, PyObject *result) {
    taut_future *f = (taut_future *)future;
    if (!taut_future_is_ours(lp, future))
        return 0;
    if (f->aio.state != TAUT_FUTURE_PENDING)
        return 1;
    return taut_future_complete(lp, &f->aio, result) < 0 ? -1 : 1;
}

PySendResult taut_future_await(PyObject *future, int *begun, PyObject **result) {
    taut_aio_future *f = (taut_aio_future *)future;
    if (f->state == TAUT_FUTURE_PENDING && !*begun) {
        *begun = f->blocking = 1;
        *result = Py_NewRef(future);
        return PYGEN_NEXT;
    }
    if (f->state == TAUT_FUTURE_PENDING) {
        PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
        return PYGEN_ERROR;
    }
    *result = f->state == TAUT_FUTURE_FINISHED && f->exception == NULL
                  ? Py_NewRef(f->result)
                  : PyObject_CallMethod(future, "result", NULL);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* ---- methods ------------------------------------------------------------------------------------
 */

static PyObject *future_set_result(PyObject *self, PyObject *result) {
    taut_future *f = (taut_future *)self;
    if (!taut_future_is_native(f->lp) || f->aio.state != TAUT_FUTURE_PENDING) {
        taut_state *st = taut_state_of_type(Py_TYPE(self));
        return PyObject_CallFunctionObjArgs(st->own.set_result, self, result, NULL);
    }
    if (taut_future_complete(f->lp, &f->aio, result) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *taut_cancel_as(taut_state *st, PyObject *base, PyObject *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *method = PyObject_GetAttr(base, st->str_cancel);
    PyObject *values[8] = {self};
    Py_ssize_t count = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    if (count > 6)
        count = nargs = 6; /* the base says that these are too many */
    for (Py_ssize_t i = 0; i < count; i++)
        values[i + 1] = args[i];
    PyObject *result =
        method == NULL ? NULL : PyObject_Vectorcall(method, values, (size_t)nargs + 1, kwnames);
    Py_XDECREF(method);
    return result;
}

/* The message in *msg: nothing was given, or msg by name, as a task's cancel() gives it. */
static int is_plain_cancel(taut_state *st, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames, PyObject **msg) {
    *msg = NULL;
    if (nargs == 0 && kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1 &&
        PyTuple_GET_ITEM(kwnames, 0) == st->str_msg)
        *msg = args[0];
    return nargs == 0 && (kwnames == NULL || *msg != NULL);
}

static PyObject *future_cancel(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    taut_future *f = (taut_future *)self;
    PyObject *msg;
    if (!taut_future_is_native(f->lp) || f->aio.state != TAUT_FUTURE_PENDING ||
        !is_plain_cancel(f->lp->st, args, nargs, kwnames, &msg)) {
        taut_state *st = taut_state_of_type(Py_TYPE(self));
        return st == NULL ? NULL : taut_cancel_as(st, st->future_type, self, args, nargs, kwnames);
    }
    f->aio.log_tb = 0;
    f->aio.state = TAUT_FUTURE_CANCELLED;
    Py_XSETREF(f->aio.cancel_msg, Py_XNewRef(msg));
    if (taut_future_schedule(f->lp, &f->aio) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

/* ---- what it shows ------------------------------------------------------------------------------
 */

/* A task that waits here by itself (task_step.c) shows as the callable that asyncio would have. */
static int callbacks_show(taut_state *st, PyObject *list, PyObject *callback, PyObject *context) {
    PyObject *shown = Py_TYPE(callback) == st->own.task_type
                          ? taut_task_wakeup_callable((taut_task *)callback)
                          : Py_NewRef(callback);
    PyObject *pair = shown == NULL ? NULL : PyTuple_Pack(2, shown, context);
    int rc = pair == NULL ? -1 : PyList_Append(list, pair);
    Py_XDECREF(pair);
    Py_XDECREF(shown);
    return rc;
}

PyObject *taut_future_get_callbacks(PyObject *self, void *closure) {
    taut_aio_future *f = (taut_aio_future *)self;
    taut_state *st = taut_state_of_type(Py_TYPE(self));
    PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    int rc = 0;
    if (f->callback0 != NULL)
        rc = callbacks_show(st, list, f->callback0, f->context0);
    for (Py_ssize_t i = 0; rc == 0 && f->callbacks != NULL && i < PyList_GET_SIZE(f->callbacks);
         i++) {
        PyObject *pair = PyList_GET_ITEM(f->callbacks, i);
        rc = callbacks_show(st, list, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
    }
    if (rc < 0) {
        Py_DECREF(list);
        return NULL;
    }
    if (PyList_GET_SIZE(list) > 0)
        return list;
    Py_DECREF(list);
    Py_RETURN_NONE;
}

/* ---- the type
 * ------------------------------------------------------------------------------------- */

static PyMethodDef future_methods[] = {
    {"set_result", future_set_result, METH_O, "set_result(result, /) -> None"},
    {"cancel", (PyCFunction)(void (*)(void))future_cancel, METH_FASTCALL | METH_KEYWORDS,
     "cancel(msg=None) -> bool"},
    {NULL},
};

static PyGetSetDef future_getset[] = {
    {"_callbacks", taut_future_get_callbacks, NULL, "[(callback, context), ...], None when empty."},
    {NULL},
};

PyDoc_STRVAR(future_doc, "Future(*, loop=None)\n\nAn asyncio.Future that a taut loop makes.");
static PyType_Slot future_slots[] = {
    {Py_tp_doc, (void *)future_doc},     {Py_tp_init, future_init},
    {Py_tp_traverse, taut_future_visit}, {Py_tp_clear, future_clear},
    {Py_tp_dealloc, future_dealloc},     {Py_tp_methods, future_methods},
    {Py_tp_getset, future_getset},       {0, NULL},
};
static PyType_Spec future_spec = {"taut._core.Future", sizeof(taut_future), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                                  future_slots};

int taut_future_type_add(PyObject *module, taut_state *st) {
    if (((PyTypeObject *)st->future_type)->tp_basicsize != sizeof(taut_aio_future))
        return 0; /* of a Python that is not known: asyncio's own futures serve */
    PyObject *bases = PyTuple_Pack(1, st->future_type);
    if (bases == NULL)
        return -1;
    st->own.future_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &future_spec, bases);
    Py_DECREF(bases);
    return st->own.future_type == NULL ? -1 : PyModule_AddType(module, st->own.future_type);
}
