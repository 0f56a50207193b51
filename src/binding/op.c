/* See op.h. */
#include "binding/op.h"
#include "binding/compat.h"
#include "binding/debug.h"
#include "binding/task.h"

/* ---- arguments ------------------------------------------------------------------------------- */

static int take_keyword(taut_op *op, const char *const *names, PyObject *key, PyObject *value) {
    for (int i = 0; names[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(key, names[i]) != 0)
            continue;
        if (op->args[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'",
                         op->kind->name, names[i]);
            return -1;
        }
        op->args[i] = Py_NewRef(value);
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", op->kind->name,
                 key);
    return -1;
}

static int take_args(taut_op *op, const char *const *names, Py_ssize_t required,
                     PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    Py_ssize_t names_count = 0;
    while (names[names_count] != NULL)
        names_count++;
    if (nargs > names_count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments but %zd were given",
                     op->kind->name, names_count + 1, nargs + 1);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        op->args[i] = Py_NewRef(args[i]);
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        if (take_keyword(op, names, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0)
            return -1;
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (op->args[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required positional argument: '%s'",
                         op->kind->name, names[i]);
            return -1;
        }
    }
    return 0;
}

/* All zero but the head. */
static taut_op *op_alloc(taut_state *st) {
    if (st->op_free_count == 0)
        return (taut_op *)st->op_type->tp_alloc(st->op_type, 0);
    PyObject *self = PyObject_Init(st->op_freelist[--st->op_free_count], st->op_type);
    memset((char *)self + sizeof(PyObject), 0, sizeof(taut_op) - sizeof(PyObject));
    PyObject_GC_Track(self);
    return (taut_op *)self;
}

void taut_op_freelist_clear(taut_state *st) {
    while (st->op_free_count > 0)
        PyObject_GC_Del(st->op_freelist[--st->op_free_count]);
}

PyObject *taut_op_new(PyObject *loop, const taut_op_kind *kind, const char *const *names,
                      Py_ssize_t required, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames) {
    taut_op *op = op_alloc(((taut_pyloop *)loop)->st);
    if (op == NULL)
        return NULL;
    op->lp = (taut_pyloop *)Py_NewRef(loop);
    op->kind = kind;
    op->fd = -1;
    op->state = TAUT_OP_DONE; /* nobody need be warned if this goes wrong */
    taut_list_init(&op->waiter.link);
    if (take_args(op, names, required, args, nargs, kwnames) < 0) {
        Py_DECREF((PyObject *)op);
        return NULL;
    }
    op->state = TAUT_OP_FRESH;
    op->made_at = taut_debug_stack(op->lp);
    return (PyObject *)op;
}

/* ---- running --------------------------------------------------------------------------------- */

static void finish(taut_op *op) {
    int started = op->state == TAUT_OP_STARTED;
    op->state = TAUT_OP_DONE;
    taut_fdwaiter_cancel(&op->waiter);
    Py_CLEAR(op->awaited);
    if (started && op->kind->cleanup != NULL)
        op->kind->cleanup(op);
    Py_CLEAR(op->future);
    if (op->view.obj != NULL)
        PyBuffer_Release(&op->view);
}

static int await_future(taut_op *op) {
    PyObject *future = op->waiter.future != NULL ? op->waiter.future : op->future;
    op->is_own = future != NULL && Py_TYPE(future) == op->lp->st->own.future_type;
    op->begun = 0;
    if (op->is_own) {
        op->awaited = Py_NewRef(future);
        return 0;
    }
    PyAsyncMethods *async = future != NULL ? Py_TYPE(future)->tp_as_async : NULL;
    if (async == NULL || async->am_await == NULL) {
        PyErr_Format(PyExc_TypeError, "%s(): the loop's futures cannot be awaited", op->kind->name);
        return -1;
    }
    op->awaited = async->am_await(future);
    return op->awaited == NULL ? -1 : 0;
}

/* Waits (PYGEN_NEXT with what to yield), or goes on (PYGEN_RETURN), or fails. */
static PySendResult resume_wait(taut_op *op, PyObject *value, PyObject **result) {
    PyObject *awaited = Py_NewRef(op->awaited);
    PySendResult sent = op->is_own ? taut_future_await(awaited, &op->begun, result)
                                   : PyIter_Send(awaited, value, result);
    Py_DECREF(awaited);
    if (sent == PYGEN_RETURN) {
        Py_CLEAR(op->awaited);
        Py_CLEAR(*result);
    }
    return sent;
}

static PySendResult op_send(PyObject *self, PyObject *value, PyObject **result) {
    taut_op *op = (taut_op *)self;
    *result = NULL;
    if (op->state == TAUT_OP_DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    op->state = TAUT_OP_STARTED;
    Py_CLEAR(op->made_at);
    for (;;) {
        if (op->awaited != NULL) {
            PySendResult sent = resume_wait(op, value, result);
            if (sent == PYGEN_NEXT)
                return sent;
            if (sent == PYGEN_ERROR)
                break;
        }
        int rc = op->kind->step(op, result);
        if (rc == 1) {
            finish(op);
            return PYGEN_RETURN;
        }
        if (rc == 2) {
            *result = Py_NewRef(Py_None);
            return PYGEN_NEXT;
        }
        if (rc < 0 || await_future(op) < 0)
            break;
        value = Py_None;
    }
    finish(op);
    return PYGEN_ERROR;
}

static PyObject *raise_stop(PyObject *value) {
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    Py_DECREF(value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static PyObject *m_send(PyObject *self, PyObject *value) {
    PyObject *result;
    PySendResult sent = op_send(self, value, &result);
    return sent == PYGEN_RETURN ? raise_stop(result) : result;
}

static PyObject *op_iternext(PyObject *self) {
    return m_send(self, Py_None);
}

static PyObject *m_throw(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes one to three arguments");
        return NULL;
    }
    finish((taut_op *)self);
    PyObject *type = args[0], *value = nargs > 1 ? args[1] : NULL;
    PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
    if (PyExceptionInstance_Check(type)) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    } else if (PyExceptionClass_Check(type)) {
        PyErr_Restore(Py_NewRef(type), Py_XNewRef(value), Py_XNewRef(traceback));
    } else {
        PyErr_Format(PyExc_TypeError,
                     "exceptions must be classes or instances deriving from BaseException, not %s",
                     Py_TYPE(type)->tp_name);
    }
    return NULL;
}

static PyObject *m_close(PyObject *self, PyObject *unused) {
    finish((taut_op *)self);
    Py_RETURN_NONE;
}

static PyObject *op_await(PyObject *self) {
    return Py_NewRef(self);
}

/* ---- the type -------------------------------------------------------------------------------- */

static PyObject *get_name(PyObject *self, void *closure) {
    return PyUnicode_FromString(((taut_op *)self)->kind->name);
}

static PyObject *op_repr(PyObject *self) {
    static const char *const states[] = {"not started", "waiting", "finished"};
    taut_op *op = (taut_op *)self;
    return PyUnicode_FromFormat("<taut operation %s, %s>", op->kind->name, states[op->state]);
}

static int op_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_op *op = (taut_op *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)op->lp);
    for (int i = 0; i < TAUT_OP_ARGS_MAX; i++)
        Py_VISIT(op->args[i]);
    Py_VISIT(op->awaited);
    Py_VISIT(op->future);
    Py_VISIT(op->waiter.future);
    Py_VISIT(op->view.obj);
    Py_VISIT(op->made_at);
    return 0;
}

static int op_clear(PyObject *self) {
    taut_op *op = (taut_op *)self;
    finish(op);
    for (int i = 0; i < TAUT_OP_ARGS_MAX; i++)
        Py_CLEAR(op->args[i]);
    Py_CLEAR(op->made_at);
    return 0;
}

static void op_finalize(PyObject *self) {
    taut_op *op = (taut_op *)self;
    if (op->state == TAUT_OP_FRESH)
        taut_debug_unawaited(self, op->kind->name, op->made_at);
}

static void op_dealloc(PyObject *self) {
    taut_op *op = (taut_op *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (TAUT_UNLIKELY(op->state == TAUT_OP_FRESH) && PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* resurrected */
    PyObject_GC_UnTrack(self);
    (void)op_clear(self);
    taut_state *st = op->lp->st;
    Py_DECREF((PyObject *)op->lp);
    if (st->op_free_count < TAUT_OP_FREELIST_MAX && !PyObject_GC_IsFinalized(self))
        st->op_freelist[st->op_free_count++] = self;
    else
        type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef op_methods[] = {
    {"send", m_send, METH_O, "As a coroutine's send()."},
    {"throw", (PyCFunction)(void (*)(void))m_throw, METH_FASTCALL, "As a coroutine's throw()."},
    {"close", m_close, METH_NOARGS, "Give the operation up."},
    {NULL},
};

static PyGetSetDef op_getset[] = {
    {"__name__", get_name, NULL, "The loop method that made it."},
    {"__qualname__", get_name, NULL, "The loop method that made it."},
    {NULL},
};

static PyType_Slot op_slots[] = {
    {Py_tp_doc, "A socket or resolver operation under way; awaitable once."},
    {Py_tp_traverse, op_traverse},
    {Py_tp_clear, op_clear},
    {Py_tp_finalize, op_finalize},
    {Py_tp_dealloc, op_dealloc},
    {Py_tp_repr, op_repr},
    {Py_tp_iter, op_await},
    {Py_tp_iternext, op_iternext},
    {Py_am_await, op_await},
    {Py_am_send, op_send},
    {Py_tp_methods, op_methods},
    {Py_tp_getset, op_getset},
    {0, NULL},
};

static PyType_Spec op_spec = {
    .name = "taut._core.Operation",
    .basicsize = sizeof(taut_op),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = op_slots,
};

int taut_op_type_add(PyObject *module, taut_state *st) {
    st->op_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &op_spec, NULL);
    return st->op_type == NULL ? -1 : PyModule_AddType(module, st->op_type);
}
