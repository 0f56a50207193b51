/* Failed tasks whose exception nobody asks for, cancelled ones that go on.
 *
 * CancelledError is swallowed when the coroutine waits again while nobody but us refers to the
 * exception that cancel() had thrown in: as long as a handler runs, be it `except`, `finally` or
 * `async with`, the interpreter refers to it. Whoever cancels for a purpose of their own (timeouts,
 * AnyIO's scopes, task groups) takes the request back by uncancel(). What is left after a moment,
 * and was caught by code of the user's, is told. */
#include "binding/task_notes.h"

#include "binding/compat.h"
#include "binding/notice.h"
#include "io/findings.h"

enum { NOTE_FREE, NOTE_FAILED, NOTE_HANDLING, NOTE_SWALLOWED };

static taut_task_note *note_of(taut_state *st, const taut_task *t) {
    return &st->own.notes.all[t->note - 1];
}

/* A table that is full of tasks whose exception was asked for meanwhile has room. */
static void sweep(taut_task_notes *notes) {
    for (int i = 0; i < notes->used; i++) {
        taut_task *t = notes->all[i].task;
        if (notes->all[i].kind == NOTE_FAILED && !t->aio.fut.log_tb)
            taut_task_note_drop(t);
    }
}

static int find_free(taut_task_notes *notes) {
    if (notes->free > 0) {
        int i = notes->free - 1;
        notes->free = notes->all[i].next_free;
        return i;
    }
    return notes->used < TAUT_TASK_NOTES_MAX ? notes->used++ : -1;
}

/* ---- looking at them later ----------------------------------------------------------------------
 */

static uint64_t delay_of(const taut_task_notes *notes, const taut_task_note *n) {
    return notes->delay_ns[n->kind];
}

/* When the earliest note of the loop is to be looked at. */
static uint64_t due_next(taut_state *st, const taut_pyloop *lp) {
    const taut_task_notes *notes = &st->own.notes;
    uint64_t next = TAUT_NEVER_NS;
    for (int i = 0; i < notes->used; i++) {
        const taut_task_note *n = &notes->all[i];
        if (n->kind == NOTE_FREE || n->task->lp != lp || n->is_told)
            continue;
        uint64_t due = n->since_ns + delay_of(notes, n);
        if (due < next)
            next = due;
    }
    return next;
}

static void look_soon(taut_timer *timer);

static void look_dropped(taut_timer *timer) {
    TAUT_CONTAINER(timer, taut_pyloop, look)->look_armed = 0;
}

/* Only while there is something to look at: an idle process is not woken for nothing. */
static void arm(taut_state *st, taut_pyloop *lp) {
    uint64_t next = due_next(st, lp);
    if (next == TAUT_NEVER_NS || lp->look_armed || !lp->core_ready)
        return;
    taut_heap_node_init(&lp->look.node);
    lp->look.due = look_soon;
    lp->look.dropped = look_dropped;
    lp->look_armed = taut_timer_start(&lp->core.timers, &lp->look, next) == 0;
}

static void tell_failed(taut_state *st, taut_task *t, uint64_t age_ns) {
    if (!t->aio.fut.log_tb || t->aio.fut.exception == NULL) {
        taut_task_note_drop(t);
        return;
    }
    note_of(st, t)->is_told = 1;
    uint64_t finding = taut_notice(st, t->lp, "exception_kept", "(OOd)", t, t->aio.fut.exception,
                                   (double)age_ns * 1e-9);
    if (t->note != 0)
        note_of(st, t)->finding = finding;
}

static void tell_swallowed(taut_state *st, taut_task *t, uint64_t age_ns) {
    taut_task_note *n = note_of(st, t);
    PyObject *code = Py_NewRef(n->held);
    int line = n->line;
    taut_task_note_drop(t);
    if (t->aio.cancel_requested > 0)
        (void)taut_notice(st, t->lp, "swallowed", "(OOid)", t, code, line, (double)age_ns * 1e-9);
    Py_DECREF(code);
}

static void tell_slow(taut_state *st, taut_task *t, uint64_t age_ns) {
    if (t->aio.cancel_requested == 0) {
        taut_task_note_drop(t);
        return;
    }
    note_of(st, t)->is_told = 1;
    uint64_t finding =
        taut_notice(st, t->lp, "cancellation_slow", "(Od)", t, (double)age_ns * 1e-9);
    if (t->note != 0)
        note_of(st, t)->finding = finding;
}

/* What is told may run anything, so that any note may be gone afterwards. */
static void look(void *arg) {
    taut_pyloop *lp = arg;
    taut_state *st = lp->st;
    taut_task_notes *notes = &st->own.notes;
    uint64_t now_ns = lp->core.now_ns;
    for (int i = 0; !lp->closed && i < notes->used; i++) {
        taut_task_note *n = &notes->all[i];
        if (n->kind == NOTE_FREE || n->task->lp != lp || n->is_told ||
            now_ns - n->since_ns < delay_of(notes, n))
            continue;
        taut_task *t = (taut_task *)Py_NewRef((PyObject *)n->task);
        if (n->kind == NOTE_FAILED)
            tell_failed(st, t, now_ns - n->since_ns);
        else if (n->kind == NOTE_SWALLOWED)
            tell_swallowed(st, t, now_ns - n->since_ns);
        else
            tell_slow(st, t, now_ns - n->since_ns);
        Py_DECREF((PyObject *)t);
    }
    if (!lp->closed)
        arm(st, lp);
    Py_DECREF((PyObject *)lp);
}

/* Not within the timers' round: Python is called. */
static void look_soon(taut_timer *timer) {
    taut_pyloop *lp = TAUT_CONTAINER(timer, taut_pyloop, look);
    lp->look_armed = 0;
    Py_INCREF((PyObject *)lp);
    if (taut_loop_call_soon(&lp->core, look, lp) < 0)
        Py_DECREF((PyObject *)lp);
}

/* ---- taking and dropping them -------------------------------------------------------------------
 */

/* NULL when there is no room. `held` is given away. */
static taut_task_note *note_take(taut_state *st, taut_task *t, int kind, PyObject *held) {
    taut_task_notes *notes = &st->own.notes;
    taut_task_note_forget(t);
    int i = find_free(notes);
    if (i < 0) {
        sweep(notes);
        i = find_free(notes);
    }
    if (i < 0) {
        Py_XDECREF(held);
        return NULL;
    }
    taut_task_note *n = &notes->all[i];
    *n = (taut_task_note){.task = t, .kind = kind, .since_ns = t->lp->core.now_ns, .held = held};
    t->note = (uint16_t)(i + 1);
    arm(st, t->lp);
    return n;
}

void taut_task_note_drop(taut_task *t) {
    taut_state *st = taut_state_of_type(Py_TYPE((PyObject *)t));
    taut_task_notes *notes = &st->own.notes;
    taut_task_note *n = note_of(st, t);
    PyObject *held = n->held;
    /* Lost for good, if nobody has asked for the exception until the end. */
    int is_lost = n->kind == NOTE_FAILED && t->aio.fut.log_tb;
    if (n->finding != 0)
        (void)taut_findings_update(n->finding, NULL,
                                   is_lost ? TAUT_FINDING_SEEN : TAUT_FINDING_OVER);
    *n = (taut_task_note){.kind = NOTE_FREE, .next_free = notes->free};
    notes->free = t->note;
    t->note = 0;
    Py_XDECREF(held);
}

int taut_task_note_visit(taut_task *t, visitproc visit, void *arg) {
    if (t->note != 0 && t->lp != NULL)
        Py_VISIT(note_of(t->lp->st, t)->held);
    return 0;
}

int taut_task_note_is_attended(const taut_task *t) {
    PyObject *callback = t->aio.fut.callback0;
    if (callback == NULL || t->aio.fut.callbacks != NULL)
        return callback != NULL;
    PyObject *self = PyCFunction_CheckExact(callback) ? PyCFunction_GET_SELF(callback) : NULL;
    return self == NULL || !(PyAnySet_Check(self) || PyList_Check(self) || PyDict_Check(self));
}

void taut_task_note_failed(taut_state *st, taut_task *t) {
    if (t->lp != NULL && t->aio.fut.log_tb)
        (void)note_take(st, t, NOTE_FAILED, NULL);
}

/* Nobody handles `exc` any more: what is remembered is who has caught it, which is the outermost
 * frame that its traceback got to. */
static void note_swallowed(taut_state *st, taut_task *t, PyObject *exc) {
    PyTracebackObject *tb = (PyTracebackObject *)PyException_GetTraceback(exc);
    if (tb == NULL) {
        taut_task_note_forget(t);
        return;
    }
    PyObject *code = (PyObject *)PyFrame_GetCode(tb->tb_frame);
    int lasti = tb->tb_lasti;
    Py_DECREF((PyObject *)tb);
    taut_task_note_forget(t);
    taut_task_note *n = note_take(st, t, NOTE_SWALLOWED, code);
    if (n == NULL)
        return;
    n->line = PyCode_Addr2Line((PyCodeObject *)n->held, lasti);
}

void taut_task_note_step(taut_state *st, taut_task *t, PyObject *thrown, Py_ssize_t others,
                         int waits) {
    taut_task_note *n = t->note != 0 ? note_of(st, t) : NULL;
    int is_delivery =
        thrown != NULL && t->cancel_due && Py_IS_TYPE(thrown, (PyTypeObject *)st->cancelled_error);
    if (is_delivery)
        t->cancel_due = 0;
    if (t->lp == NULL || (n != NULL && n->kind == NOTE_FAILED))
        return;
    if (!waits || t->aio.cancel_requested == 0)
        taut_task_note_forget(t);
    else if (is_delivery && Py_REFCNT(thrown) <= others)
        note_swallowed(st, t, thrown);
    else if (is_delivery && n != NULL && n->kind == NOTE_HANDLING)
        Py_SETREF(n->held, Py_NewRef(thrown)); /* cancelled again: it is slow since the first one */
    else if (is_delivery)
        (void)note_take(st, t, NOTE_HANDLING, Py_NewRef(thrown));
    else if (n != NULL && n->kind == NOTE_HANDLING && Py_REFCNT(n->held) == 1)
        note_swallowed(st, t, n->held);
}

/* ---- the module's function --------------------------------------------------------------------
 */

PyDoc_STRVAR(delays_doc,
             "task_note_delays(kept, swallowed, slow, /) -> None\n\nSeconds after which it is told "
             "that nobody has asked for a task's exception, that a task goes on which has "
             "swallowed its CancelledError, that one still handles it.");
static PyObject *note_delays(PyObject *module, PyObject *args) {
    taut_task_notes *notes = &taut_state_of(module)->own.notes;
    double kept, swallowed, slow;
    if (!PyArg_ParseTuple(args, "ddd:task_note_delays", &kept, &swallowed, &slow))
        return NULL;
    if (!(kept >= 0 && swallowed >= 0 && slow >= 0 && kept + swallowed + slow < 1e6)) {
        PyErr_SetString(PyExc_ValueError, "a delay must be from 0 to 1e6 seconds");
        return NULL;
    }
    notes->delay_ns[NOTE_FAILED] = (uint64_t)(kept * 1e9);
    notes->delay_ns[NOTE_SWALLOWED] = (uint64_t)(swallowed * 1e9);
    notes->delay_ns[NOTE_HANDLING] = (uint64_t)(slow * 1e9);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"task_note_delays", note_delays, METH_VARARGS, delays_doc},
    {NULL},
};

int taut_task_note_functions_add(PyObject *module, taut_state *st) {
    taut_task_notes *notes = &st->own.notes;
    notes->delay_ns[NOTE_FAILED] = 2 * TAUT_NS_PER_S;
    notes->delay_ns[NOTE_SWALLOWED] = TAUT_NS_PER_S;
    notes->delay_ns[NOTE_HANDLING] = 5 * TAUT_NS_PER_S;
    return PyModule_AddFunctions(module, methods);
}
