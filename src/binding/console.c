/* The loops' side of the console: which loops run, and what they do when it asks for something. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "binding/console_private.h"
#include "binding/task.h"
#include "io/console.h"
#include "io/forks.h"
#include "io/metrics.h"
#include "io/service.h"

#define LOOPS_MAX 64
#define CANCELS_MAX 16
#define NAME_MAX_SIZE 256
#define PATIENCE_NS (30 * TAUT_NS_PER_MS) /* with a loop that shows nothing */
#define LISTING_MAX_NS (5 * TAUT_NS_PER_S)
#define SLICE_NS (TAUT_NS_PER_MS / 2)

/* A listing that a loop works at. Its own until it is whole. */
typedef struct {
    uint64_t job;
    taut_listing *listing;
    taut_listing_snapshot snapshot;
    taut_buf text;
    taut_json_out w;
} work;

typedef struct {
    taut_pyloop *lp; /* NULL: free */
    pid_t native_id;
    work *work; /* of the loop's thread alone */
} slot;

enum job_state { JOB_NONE = 0, JOB_WAITING, JOB_TAKEN, JOB_DONE };

_Atomic int taut_console_wanted;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* for CLOCK_MONOTONIC from the first run on */
    slot loops[LOOPS_MAX];
    /* One listing at a time. */
    uint64_t job, progress;
    enum job_state state;
    const taut_pyloop *taker;
    taut_buf text;
    int complete;
    struct {
        enum taut_cancel_state state;
        int awaited;
        const void *task;
        char name[NAME_MAX_SIZE];
    } cancels[CANCELS_MAX];
    uint32_t started; /* the console, in this process: taut_forks() + 1 */
    int prepared;
} hub = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

/* ---- the console's thread -----------------------------------------------------------------------
 */

/* With the lock. */
static void update_wanted(void) {
    int wanted = hub.state == JOB_WAITING || hub.state == JOB_TAKEN;
    for (int i = 0; i < CANCELS_MAX; i++)
        wanted |= hub.cancels[i].state == TAUT_CANCEL_QUEUED;
    atomic_store_explicit(&taut_console_wanted, wanted, memory_order_relaxed);
}

/* With the lock, which keeps them open. */
static void wake_loops(void) {
    for (int i = 0; i < LOOPS_MAX; i++)
        if (hub.loops[i].lp != NULL)
            taut_service_wake_loop(&hub.loops[i].lp->core);
}

static void wait_until(uint64_t deadline_ns) {
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / TAUT_NS_PER_S),
                          .tv_nsec = (long)(deadline_ns % TAUT_NS_PER_S)};
    pthread_cond_timedwait(&hub.moved, &hub.lock, &ts);
}

/* With the lock: until the listing is done, or nothing has moved for too long. */
static void wait_for_listing(void) {
    uint64_t now = taut_clock_now_ns(), end_ns = now + LISTING_MAX_NS;
    uint64_t seen = hub.progress, until_ns = now + PATIENCE_NS;
    while (hub.state != JOB_DONE && now < until_ns && now < end_ns) {
        wait_until(until_ns < end_ns ? until_ns : end_ns);
        now = taut_clock_now_ns();
        if (hub.progress != seen)
            until_ns = now + PATIENCE_NS;
        seen = hub.progress;
    }
}

int taut_console_ask_tasks(taut_buf *out, int *complete) {
    pthread_mutex_lock(&hub.lock);
    hub.job++;
    hub.state = JOB_WAITING;
    update_wanted();
    wake_loops();
    wait_for_listing();
    int done = hub.state == JOB_DONE;
    if (done && taut_buf_append(out, taut_buf_bytes(&hub.text), taut_buf_size(&hub.text)) < 0)
        done = 0;
    *complete = hub.complete;
    taut_buf_free(&hub.text);
    hub.job++; /* who still works at it finds that nobody waits */
    hub.state = JOB_NONE;
    update_wanted();
    pthread_mutex_unlock(&hub.lock);
    return done;
}

static int is_pending(enum taut_cancel_state state) {
    return state == TAUT_CANCEL_QUEUED || state == TAUT_CANCEL_TAKEN;
}

/* With the lock: a place in the queue, or -1. What nobody has heard of any more makes room. */
static int cancel_take(void) {
    for (int i = 0; i < CANCELS_MAX; i++)
        if (!is_pending(hub.cancels[i].state) && !hub.cancels[i].awaited)
            return i;
    return -1;
}

enum taut_cancel_state taut_console_ask_cancel(const void *task, const char *name) {
    enum taut_cancel_state state = TAUT_CANCEL_FREE;
    pthread_mutex_lock(&hub.lock);
    int i = cancel_take();
    if (i >= 0 && strlen(name) < sizeof hub.cancels[i].name) {
        uint64_t until_ns = taut_clock_now_ns() + PATIENCE_NS;
        hub.cancels[i].task = task;
        memcpy(hub.cancels[i].name, name, strlen(name) + 1);
        hub.cancels[i].awaited = 1;
        hub.cancels[i].state = TAUT_CANCEL_QUEUED;
        update_wanted();
        wake_loops();
        while (is_pending(hub.cancels[i].state) && taut_clock_now_ns() < until_ns)
            wait_until(until_ns);
        hub.cancels[i].awaited = 0;
        state = hub.cancels[i].state;
    }
    pthread_mutex_unlock(&hub.lock);
    return state;
}

void taut_console_put_loops(taut_json_out *w) {
    static const char *const phases[] = {"stopped", "waiting", "running", "unsure"};
    char id[24];
    pthread_mutex_lock(&hub.lock);
    taut_json_out_open(w, '[');
    for (int i = 0; i < LOOPS_MAX; i++) {
        taut_pyloop *lp = hub.loops[i].lp;
        if (lp == NULL)
            continue;
        snprintf(id, sizeof id, "0x%llx", (unsigned long long)(uintptr_t)lp);
        taut_json_out_open(w, '{');
        taut_json_out_key(w, "id");
        taut_json_out_text(w, id);
        taut_json_out_key(w, "thread");
        taut_json_out_i64(w, hub.loops[i].native_id);
        taut_json_out_key(w, "state");
        taut_json_out_text(
            w, phases[atomic_load_explicit(&lp->core.pulse.phase, memory_order_relaxed) & 3]);
        taut_json_out_close(w, '}');
    }
    taut_json_out_close(w, ']');
    pthread_mutex_unlock(&hub.lock);
}

/* ---- a loop's thread ----------------------------------------------------------------------------
 */

static void work_drop(slot *s) {
    work *k = s->work;
    s->work = NULL;
    if (k == NULL)
        return;
    taut_listing_drop(&k->snapshot);
    taut_listing_free(k->listing);
    taut_buf_free(&k->text);
    taut_free(k);
}

/* 0, or -1 when memory is out. */
static int work_begin(slot *s, uint64_t job) {
    work *k = taut_calloc(1, sizeof *k);
    if (k == NULL)
        return -1;
    s->work = k;
    k->job = job;
    taut_buf_init(&k->text);
    taut_json_out_init(&k->w, &k->text);
    k->listing = taut_listing_new();
    if (k->listing != NULL && taut_listing_take(&k->snapshot) == 0)
        return 0;
    work_drop(s);
    return -1;
}

/* 1: there is more to do. */
static int work_go_on(slot *s) {
    work *k = s->work;
    int more = 0;
    if (taut_listing_begin(k->listing, 1) == 0) {
        more = taut_listing_slice(k->listing, &k->w, &k->snapshot, taut_clock_now_ns() + SLICE_NS);
        taut_listing_end(k->listing);
    }
    pthread_mutex_lock(&hub.lock);
    int awaited = hub.job == k->job;
    hub.progress += (uint64_t)awaited;
    if (awaited && !more) {
        hub.text = k->text;
        hub.complete = k->snapshot.complete;
        hub.state = taut_json_out_end(&k->w) == 0 ? JOB_DONE : JOB_NONE;
        taut_buf_init(&k->text);
        update_wanted();
    }
    pthread_cond_broadcast(&hub.moved);
    pthread_mutex_unlock(&hub.lock);
    if (awaited && more)
        return 1;
    work_drop(s);
    return 0;
}

/* The task's own loop does it: now, when that is the one that runs here. */
static enum taut_cancel_state cancel_task(taut_pyloop *lp, PyObject *task) {
    PyObject *loop = ((taut_aio_future *)task)->loop;
    enum taut_cancel_state state = TAUT_CANCEL_ASKED;
    PyObject *done;
    if (loop == (PyObject *)lp) {
        done = PyObject_CallMethodNoArgs(task, lp->st->str_cancel);
        if (done == Py_False)
            state = TAUT_CANCEL_REFUSED;
    } else {
        PyObject *cancel = PyObject_GetAttr(task, lp->st->str_cancel);
        done =
            cancel == NULL ? NULL : PyObject_CallMethod(loop, "call_soon_threadsafe", "O", cancel);
        Py_XDECREF(cancel);
    }
    if (done == NULL) {
        PyErr_Clear(); /* its loop is closed, or its cancel() is a subclass's that raises */
        state = TAUT_CANCEL_REFUSED;
    }
    Py_XDECREF(done);
    return state;
}

static void serve_cancels(taut_pyloop *lp) {
    char name[NAME_MAX_SIZE];
    for (int i = 0; i < CANCELS_MAX; i++) {
        pthread_mutex_lock(&hub.lock);
        int queued = hub.cancels[i].state == TAUT_CANCEL_QUEUED;
        const void *at = hub.cancels[i].task;
        memcpy(name, hub.cancels[i].name, sizeof name);
        if (queued)
            hub.cancels[i].state = TAUT_CANCEL_TAKEN;
        pthread_mutex_unlock(&hub.lock);
        if (!queued)
            continue;
        PyObject *task = taut_listing_find(at, name[0] != '\0' ? name : NULL);
        enum taut_cancel_state state = task != NULL ? cancel_task(lp, task) : TAUT_CANCEL_GONE;
        Py_XDECREF(task);
        pthread_mutex_lock(&hub.lock);
        hub.cancels[i].state = state;
        update_wanted();
        pthread_cond_broadcast(&hub.moved);
        pthread_mutex_unlock(&hub.lock);
    }
}

void taut_console_serve_slice(taut_pyloop *lp) {
    slot *s = NULL;
    uint64_t job = 0;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    serve_cancels(lp);
    pthread_mutex_lock(&hub.lock);
    for (int i = 0; i < LOOPS_MAX && s == NULL; i++)
        if (hub.loops[i].lp == lp)
            s = &hub.loops[i];
    if (s != NULL && hub.state == JOB_WAITING) {
        hub.state = JOB_TAKEN;
        hub.taker = lp;
    }
    if (s != NULL && hub.state == JOB_TAKEN && hub.taker == lp)
        job = hub.job;
    pthread_mutex_unlock(&hub.lock);
    if (s != NULL && s->work != NULL && s->work->job != job)
        work_drop(s); /* nobody waits for it any more */
    /* To take the snapshot is a slice of its own. */
    if (job != 0 && (s->work == NULL ? work_begin(s, job) == 0 : work_go_on(s)))
        taut_loop_wake(&lp->core);
    PyErr_Restore(type, value, traceback);
}

/* ---- a run's beginning and end ------------------------------------------------------------------
 */

static void fork_prepare(void) {
    pthread_mutex_lock(&hub.lock);
}
static void fork_parent(void) {
    pthread_mutex_unlock(&hub.lock);
}
static void cond_init(void) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&hub.moved, &attr);
    pthread_condattr_destroy(&attr);
}
static void fork_child(void) {
    hub.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    cond_init();
    memset(hub.loops, 0, sizeof hub.loops); /* a listing under way is the parent's */
    memset(hub.cancels, 0, sizeof hub.cancels);
    hub.state = JOB_NONE;
    atomic_store(&taut_console_wanted, 0);
}

/* The listing needs Python once; where that fails there is none. */
static void enable_listing(void) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *module = PyImport_ImportModule("taut._listing");
    PyObject *done = module != NULL ? PyObject_CallMethod(module, "enable", NULL) : NULL;
    Py_XDECREF(done);
    Py_XDECREF(module);
    PyErr_Restore(type, value, traceback);
}

static void start_console(void) {
    static const taut_console_ops ops = {.answer = taut_console_answer,
                                         .metrics = taut_metrics_write};
    taut_console_place place;
    hub.started = taut_forks() + 1;
    taut_console_place_find(&place);
    if (place.directories[0][0] == '\0' && place.directories[1][0] == '\0' &&
        place.metrics[0] == '\0')
        return;
    if (!hub.prepared) {
        cond_init();
        hub.prepared = pthread_atfork(fork_prepare, fork_parent, fork_child) == 0;
        enable_listing();
    }
    if (hub.prepared)
        (void)taut_console_start(&place, &ops); /* without it, all else works */
}

void taut_console_loop_begin(taut_pyloop *lp) {
    if (hub.started != taut_forks() + 1)
        start_console();
    pthread_mutex_lock(&hub.lock);
    for (int i = 0; i < LOOPS_MAX; i++) {
        if (hub.loops[i].lp == NULL) {
            hub.loops[i] = (slot){.lp = lp, .native_id = (pid_t)syscall(SYS_gettid)};
            break;
        }
    }
    pthread_mutex_unlock(&hub.lock);
}

void taut_console_loop_end(taut_pyloop *lp) {
    slot ended = {NULL};
    pthread_mutex_lock(&hub.lock);
    for (int i = 0; i < LOOPS_MAX; i++) {
        if (hub.loops[i].lp == lp) {
            ended = hub.loops[i];
            hub.loops[i] = (slot){NULL};
        }
    }
    if (hub.state == JOB_TAKEN && hub.taker == lp)
        hub.state = JOB_WAITING; /* for another one, or for nobody */
    pthread_mutex_unlock(&hub.lock);
    work_drop(&ended);
}
