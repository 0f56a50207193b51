/* The examination: now and then a loop looks at its own tasks, says which stand where since when,
 * and hands that to the rules in taut.doctor._rules. The watchdog's thread says when one is due: at
 * most once a second while the loop works, and once two seconds after it last did, so that those
 * who wait for ever are seen. The loop does it on its own thread in slices of a millisecond, behind
 * what is ready. It measures what it costs, and the next one waits until that is under half a per
 * cent of the time. TAUT_DOCTOR=off: there are none. */
#ifndef TAUT_BINDING_EXAM_H
#define TAUT_BINDING_EXAM_H

#include "binding/coro.h"
#include "binding/task.h"

#define TAUT_EXAM_GROUPS_MAX 128
#define TAUT_EXAM_FRAMES_MAX 12

/* What the tasks of a group wait for. */
enum taut_exam_waits {
    TAUT_EXAM_READY = 0, /* nothing: they are about to run */
    TAUT_EXAM_FUTURE = 1,
    TAUT_EXAM_TASK = 2,
    TAUT_EXAM_EXECUTOR = 3, /* run_in_executor() */
};

/* Tasks that were made at one place and stand at one place. */
typedef struct {
    PyObject *site_code; /* owned, NULL: not known */
    int site_unit;
    /* Innermost first, codes owned; `user` is the innermost of the user's own, -1: there is none.
     * In the middle some may be missing. */
    taut_coro_frame frames[TAUT_EXAM_FRAMES_MAX];
    int frame_count, user;
    enum taut_exam_waits waits;
    uint64_t tasks, oldest_stepped_ns, oldest_born_ns;
    /* The most that were made in one iteration of the loop, and of the latest such. */
    uint64_t together, run, run_born_ns;
} taut_exam_group;

#define TAUT_EXAM_QUEUES_MAX 32
/* An asyncio.Queue among the variables of a task's coroutines; both owned. */
typedef struct {
    PyObject *queue;
    taut_coro_frame frame; /* of that coroutine */
} taut_exam_queue;

typedef struct {
    taut_exam_group group[TAUT_EXAM_GROUPS_MAX];
    uint8_t slots[2 * TAUT_EXAM_GROUPS_MAX]; /* by hash: the group's number from 1 on; 0: free */
    int count;
    uint64_t tasks, waiting, others; /* others: in no group, for want of room */
    uint64_t oldest_stepped_ns;      /* of those that wait */
    taut_exam_queue queues[TAUT_EXAM_QUEUES_MAX];
    int queue_count;
} taut_exam_groups;

/* exam_groups.c. Zeroed memory is an empty table. */
void taut_exam_groups_add(taut_exam_groups *g, taut_state *st, taut_task *t);
void taut_exam_groups_clear(taut_exam_groups *g);
/* [(tasks, waits, waited, age, together, code, unit, user, ((code, unit), ...)), ...]: times in
 * seconds, code and unit of the creation None and -1 when not known. NULL with an exception. */
PyObject *taut_exam_groups_list(const taut_exam_groups *g, uint64_t now_ns);
/* [(queue, code, unit), ...]. NULL with an exception. */
PyObject *taut_exam_queues_list(const taut_exam_groups *g);
/* exam_queues.c: looks for queues in a task's coroutines. */
void taut_exam_queues_find(taut_exam_groups *g, taut_state *st, PyObject *coro);
void taut_exam_queues_clear(taut_exam_groups *g);
/* Whether code is of the program itself: neither of the standard library, nor of an installed
 * package, nor of taut. */
int taut_exam_is_user(const PyCodeObject *code);

/* exam.c */
typedef struct taut_exam taut_exam;
/* Before a run: makes lp->exam, kept over the loop's runs, and imports the rules, which is some
 * milliseconds that the loop could not spare later. -1 with an exception: KeyboardInterrupt and the
 * like; without memory or with TAUT_DOCTOR=off there are no examinations and lp->exam is NULL. */
int taut_exam_begin(taut_pyloop *lp);
/* When the loop closes. NULL allowed. */
void taut_exam_free(taut_exam *e);
/* On the loop's thread, after a wake-up: queues the examination that was asked for, if any. */
void taut_exam_woken(taut_exam *e);
/* On the watchdog's thread, without the GIL: asks for one when it is due. When to be called again
 * although the loop does nothing; TAUT_NEVER_NS: not. `ctx` is a taut_doctor_watch. */
uint64_t taut_exam_ask(void *ctx, uint64_t now_ns);
/* The module's examine(loop), coroutine functions aside: for tests and for metrics(). */
int taut_exam_functions_add(PyObject *module);

/* metrics.c: the module's loop_vitals, gc_vitals, metrics_text and task_times. */
int taut_metrics_functions_add(PyObject *module);

/* loop_executor.c: [(executor or None, code, unit, queued, running, waited), ...], calls by
 * executor and by who made them. NULL with an exception. */
PyObject *taut_executor_calls_list(taut_pyloop *lp);

#endif
