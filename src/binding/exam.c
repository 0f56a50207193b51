/* See exam.h. */
#include "binding/exam.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "binding/task_current.h"
#include "binding/task_stuck.h"
#include "binding/watch.h"
#include "io/resolver.h"
#include "io/private_fds.h"

#define INTERVAL_NS TAUT_NS_PER_S
#define LAST_NS (2 * TAUT_NS_PER_S + 200 * TAUT_NS_PER_MS) /* after the last work */
#define SLICE_NS (TAUT_NS_PER_MS / 2)                      /* a slice ends a little late */
#define COST_SHARE 200                                     /* of the time: half a per cent */
#define RECENT 8
#define IMPORTS_MAX 30
#define LOOK_EVERY 16 /* tasks between two looks at the clock */

#define LOAD(v) atomic_load_explicit(&(v), memory_order_relaxed)
#define STORE(v, x) atomic_store_explicit(&(v), (x), memory_order_relaxed)

struct taut_exam {
    taut_pyloop *lp;            /* which owns this */
    _Atomic uint32_t asked;     /* by the watchdog; until it is done */
    _Atomic uint64_t next_ns;   /* not before */
    _Atomic uint64_t iteration; /* of the loop, in which the latest one ended */
    /* The watchdog's own. */
    uint64_t seen, worked_ns; /* the last iteration with work, and when that was noticed */
    int due, last_due;        /* there was work since the latest one, since the last one */
    /* The loop's. */
    int running, broken, failed_imports;
    uint64_t spent_ns;
    /* Between two slices: the last tasks that were looked at, owned. */
    taut_task *recent[RECENT];
    unsigned looked_at;
    PyObject *rules; /* taut.doctor._rules.examine, NULL: they could not be imported yet */
    taut_exam_groups groups;
    taut_stuck stuck;
};

/* ---- when ---------------------------------------------------------------------------------------
 */

static void wake(taut_exam *e) {
    const uint64_t one = 1;
    STORE(e->asked, 1);
    /* Not through taut_wakeup_signal: this thread has fds of its own. */
    if (taut_private_fds_write(e->lp->core.wakeup.watch.fd, (const char *)&one, sizeof one) < 0)
        STORE(e->asked, 0);
}

uint64_t taut_exam_ask(void *ctx, uint64_t now_ns) {
    taut_doctor_watch *w = ctx;
    taut_exam *e = atomic_load_explicit(&w->exam, memory_order_acquire);
    if (e == NULL || LOAD(e->asked))
        return TAUT_NEVER_NS;
    /* The iteration that waits after an examination is not work, nor is being woken for it. */
    uint64_t n = LOAD(w->target.pulse->iterations), own = LOAD(e->iteration) + 1;
    if (n != e->seen && n != own) {
        e->seen = n;
        e->worked_ns = now_ns;
        e->due = e->last_due = 1;
    }
    uint64_t next_ns = LOAD(e->next_ns), last_ns = e->worked_ns + LAST_NS;
    if (last_ns < next_ns)
        last_ns = next_ns;
    if (e->last_due && now_ns >= last_ns) {
        e->due = e->last_due = 0;
        wake(e);
    } else if (e->due && now_ns >= next_ns) {
        e->due = 0;
        wake(e);
    }
    return e->last_due ? last_ns : TAUT_NEVER_NS;
}

/* ---- the walk -----------------------------------------------------------------------------------
 */

static void recent_clear(taut_exam *e) {
    taut_task *held[RECENT];
    memcpy(held, e->recent, sizeof held);
    memset(e->recent, 0, sizeof e->recent);
    for (int i = 0; i < RECENT; i++)
        Py_XDECREF((PyObject *)held[i]);
}

/* Where to go on: the latest of the tasks that were looked at and are still on the list; a new
 * reference. NULL: none is. */
static taut_task *recent_listed(const taut_exam *e) {
    for (unsigned i = 1; i <= RECENT && i <= e->looked_at; i++) {
        taut_task *t = e->recent[(e->looked_at - i) % RECENT];
        if (t != NULL && taut_task_is_listed_now(t))
            return (taut_task *)Py_NewRef((PyObject *)t);
    }
    return NULL;
}

/* Looks at tasks until the slice is over: 1, or 0 when all have been looked at, or when the place
 * to go on from is lost. Nothing here runs Python code, but what drops `recent` may. */
static int walk(taut_exam *e, uint64_t end_ns) {
    taut_state *st = e->lp->st;
    taut_task *from = NULL;
    if (e->looked_at > 0) {
        from = recent_listed(e);
        recent_clear(e);
        if (from == NULL || !taut_task_is_listed_now(from)) {
            Py_XDECREF((PyObject *)from);
            return 0;
        }
    }
    taut_task *t = taut_task_next_listed(st, from);
    int more = 0;
    for (; t != NULL; t = taut_task_next_listed(st, t)) {
        if (t->lp == e->lp) {
            taut_exam_groups_add(&e->groups, st, t);
            taut_stuck_see(&e->stuck, t);
        }
        e->recent[e->looked_at++ % RECENT] = t;
        if (e->looked_at % LOOK_EVERY == 0 && taut_sys_now_ns() >= end_ns) {
            more = 1;
            break;
        }
    }
    for (int i = 0; more && i < RECENT; i++)
        Py_XINCREF((PyObject *)e->recent[i]);
    if (!more)
        memset(e->recent, 0, sizeof e->recent);
    Py_XDECREF((PyObject *)from);
    return more;
}

/* ---- the rules ----------------------------------------------------------------------------------
 */

static PyObject *resolver_tuple(taut_pyloop *lp, uint64_t now_ns) {
    taut_resolver_state s = {0};
    if (lp->resolver != NULL)
        taut_resolver_state_get(lp->resolver, &s);
    STORE(lp->core.vitals.lookups_pending, s.pending);
    double waited =
        s.pending > 0 && s.oldest_ns < now_ns ? (double)(now_ns - s.oldest_ns) / 1e9 : 0;
    return Py_BuildValue("(IIId)", s.pending, s.queued, s.threads, waited);
}

/* (loop, now, tasks, waiting, others, groups, executor calls, resolver, queues); NULL with an
 * exception. */
static PyObject *record_new(taut_exam *e, uint64_t now_ns) {
    taut_pyloop *lp = e->lp;
    PyObject *groups = taut_exam_groups_list(&e->groups, now_ns);
    PyObject *calls = groups == NULL ? NULL : taut_executor_calls_list(lp);
    PyObject *resolver = calls == NULL ? NULL : resolver_tuple(lp, now_ns);
    PyObject *queues = resolver == NULL ? NULL : taut_exam_queues_list(&e->groups);
    PyObject *record = NULL;
    if (queues != NULL)
        record = Py_BuildValue(
            "(IdKKKOOOO)", lp->core.vitals.id, (double)now_ns / 1e9,
            (unsigned long long)e->groups.tasks, (unsigned long long)e->groups.waiting,
            (unsigned long long)e->groups.others, groups, calls, resolver, queues);
    Py_XDECREF(groups);
    Py_XDECREF(calls);
    Py_XDECREF(resolver);
    Py_XDECREF(queues);
    return record;
}

static PyObject *rules_import(void) {
    PyObject *module = PyImport_ImportModule("taut.doctor._rules");
    PyObject *rules = module == NULL ? NULL : PyObject_GetAttrString(module, "examine");
    Py_XDECREF(module);
    return rules;
}

/* The rules do not let their own failures out; without them there is nobody to tell. */
static void apply_rules(taut_exam *e, uint64_t now_ns) {
    PyObject *record = e->broken ? NULL : record_new(e, now_ns), *done = NULL;
    if (record != NULL && e->rules == NULL)
        e->rules = rules_import();
    if (record != NULL && e->rules != NULL)
        done = PyObject_CallOneArg(e->rules, record);
    Py_XDECREF(record);
    Py_XDECREF(done);
    if (e->broken || done != NULL || taut_pyloop_take_exit(e->lp))
        return;
    /* Without a free descriptor nothing can be imported; that may pass. */
    if (e->rules == NULL && ++e->failed_imports < IMPORTS_MAX) {
        PyErr_Clear();
        return;
    }
    e->broken = 1;
    PyErr_WriteUnraisable(NULL);
}

static void publish(const taut_exam *e, uint64_t now_ns) {
    taut_vitals *v = &e->lp->core.vitals;
    uint64_t since_ns = e->groups.waiting > 0 ? e->groups.oldest_stepped_ns : now_ns;
    STORE(v->tasks, e->groups.tasks);
    STORE(v->tasks_waiting, e->groups.waiting);
    STORE(v->oldest_wait_ns, since_ns < now_ns ? now_ns - since_ns : 0);
    STORE(v->examined_ns, now_ns);
    taut_vitals_keep(v);
}

static void finish(taut_exam *e, uint64_t began_ns) {
    uint64_t now_ns = taut_sys_now_ns();
    publish(e, now_ns);
    apply_rules(e, now_ns);
    taut_exam_groups_clear(&e->groups);
    taut_stuck_tell(&e->stuck, e->lp);
    uint64_t end_ns = taut_sys_now_ns();
    uint64_t cost_ns = e->spent_ns + end_ns - began_ns;
    taut_vitals_count(&e->lp->core.vitals.examined, 1);
    taut_vitals_count(&e->lp->core.vitals.examining_ns, cost_ns);
    uint64_t pause_ns = cost_ns * COST_SHARE;
    STORE(e->next_ns, end_ns + (pause_ns > INTERVAL_NS ? pause_ns : INTERVAL_NS));
    e->running = 0;
    e->looked_at = 0;
    STORE(e->iteration, LOAD(e->lp->core.pulse.iterations));
    STORE(e->asked, 0);
}

/* From the ring. */
static void slice(void *arg) {
    taut_exam *e = arg;
    taut_pyloop *lp = e->lp;
    uint64_t began_ns = taut_sys_now_ns();
    if (lp->closed || lp->thread_ident == 0) {
        e->running = 0;
        return;
    }
    if (walk(e, began_ns + SLICE_NS) && taut_loop_call_soon(&lp->core, slice, e) == 0) {
        e->spent_ns += taut_sys_now_ns() - began_ns;
        return;
    }
    recent_clear(e);
    finish(e, began_ns);
}

void taut_exam_woken(taut_exam *e) {
    if (e == NULL || e->running || !LOAD(e->asked))
        return;
    e->spent_ns = 0;
    e->looked_at = 0;
    taut_stuck_begin(&e->stuck, taut_sys_now_ns());
    e->running = taut_loop_call_soon(&e->lp->core, slice, e) == 0;
    if (!e->running)
        STORE(e->asked, 0);
}

/* ---- its life -----------------------------------------------------------------------------------
 */

int taut_exam_begin(taut_pyloop *lp) {
    const char *text = getenv("TAUT_DOCTOR");
    if (lp->exam != NULL && !lp->exam->running)
        STORE(lp->exam->asked, 0); /* in a process that was forked */
    if (lp->exam != NULL || (text != NULL && strcmp(text, "off") == 0))
        return 0;
    PyObject *rules = rules_import();
    if (rules == NULL && !PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyErr_Clear(); /* the first examination tries again */
    taut_exam *e = lp->closed || lp->exam != NULL ? NULL : taut_calloc(1, sizeof *e);
    if (e == NULL) {
        Py_XDECREF(rules);
        return 0;
    }
    e->lp = lp;
    e->rules = rules;
    STORE(e->next_ns, taut_sys_now_ns() + INTERVAL_NS);
    lp->exam = e;
    return 0;
}

void taut_exam_free(taut_exam *e) {
    if (e == NULL)
        return;
    recent_clear(e);
    taut_exam_groups_clear(&e->groups);
    Py_XDECREF(e->stuck.tasks);
    Py_XDECREF(e->rules);
    taut_free(e);
}

PyDoc_STRVAR(examine_doc, "examine(loop, /) -> tuple\n\nWhat an examination of this loop, which is "
                          "the calling thread's or stopped, would hand to the rules.");
static PyObject *examine(PyObject *module, PyObject *loop) {
    taut_state *st = taut_state_of(module);
    if (!PyObject_TypeCheck(loop, st->loop_type)) {
        PyErr_Format(PyExc_TypeError, "loop must be a taut loop, not %R", loop);
        return NULL;
    }
    taut_exam *e = taut_calloc(1, sizeof *e);
    if (e == NULL)
        return PyErr_NoMemory();
    e->lp = (taut_pyloop *)loop;
    (void)walk(e, TAUT_NEVER_NS);
    PyObject *record = record_new(e, taut_sys_now_ns());
    taut_exam_free(e);
    return record;
}

PyDoc_STRVAR(is_user_doc, "code_is_user(code, /) -> bool\n\nWhether code is of the program itself: "
                          "neither of the standard library, nor of an installed package, nor of "
                          "taut.");
static PyObject *code_is_user(PyObject *module, PyObject *code) {
    if (PyCode_Check(code))
        return PyBool_FromLong(taut_exam_is_user((PyCodeObject *)code));
    PyErr_Format(PyExc_TypeError, "code must be a code object, not %R", code);
    return NULL;
}

static PyMethodDef methods[] = {
    {"examine", examine, METH_O, examine_doc},
    {"code_is_user", code_is_user, METH_O, is_user_doc},
    {NULL},
};

int taut_exam_functions_add(PyObject *module) {
    if (PyModule_AddFunctions(module, methods) < 0 || taut_metrics_functions_add(module) < 0)
        return -1;
    return taut_coro_functions_add(module);
}
