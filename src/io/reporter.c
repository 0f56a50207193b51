#include "io/reporter.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/journal.h"
#include "io/pace.h"
#include "io/private_fds.h"
#include "io/pulse.h"
#include "io/service.h"
#include "io/sys.h"

#define PAUSE_NS (50 * TAUT_NS_PER_MS) /* between two looks, where findings come fast */
#define EXIT_NS TAUT_NS_PER_S
#define TOLD_MAX (2 * TAUT_FINDINGS_MAX)
#define LINE_MAX_SIZE 2048

/* Told already, in more detail, by binding/stall.c. */
static const char *const stall_codes[] = {
    "blocking-call", "sync-driver", "cpu-bound-step",      "never-yields",
    "gil-held",      "gc-pause",    "slow-signal-handler",
};

typedef struct {
    uint64_t id;     /* 0: free */
    uint64_t due_ns; /* when what has changed goes to the journal; TAUT_NEVER_NS: nothing has */
    taut_pace pace;
} told;

/* Nothing in here is held while the table of findings is used: its lock is taken first at forks. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* for CLOCK_MONOTONIC from the first start on */
    pthread_t thread;
    int live, stopping, prepared;
    uint64_t flush_asked, flush_done; /* how many times all was to be told, and was */
    _Atomic int enabled;              /* a change may start the thread */
    _Atomic int thread_id;            /* 0: none */
    _Atomic int to_stderr;
    taut_journal journal;
    told known[TOLD_MAX]; /* the thread's own */
} rep = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER, .to_stderr = 1};

/* ---- telling ---- */

static told *told_find(uint64_t id) {
    for (int i = 0; i < TOLD_MAX; i++)
        if (rep.known[i].id == id)
            return &rep.known[i];
    return NULL;
}

/* Room for a new one: ids only grow, and the smallest has left the table long ago. */
static told *told_take(uint64_t id) {
    told *t = &rep.known[0];
    for (int i = 1; i < TOLD_MAX; i++)
        if (rep.known[i].id < t->id)
            t = &rep.known[i];
    *t = (told){.id = id, .due_ns = TAUT_NEVER_NS};
    return t;
}

static int is_stall(const taut_finding *f) {
    for (size_t i = 0; i < sizeof stall_codes / sizeof *stall_codes; i++)
        if (strcmp(f->code, stall_codes[i]) == 0)
            return 1;
    return 0;
}

static void tell_stderr(const taut_finding *f) {
    char text[LINE_MAX_SIZE], line[16] = "";
    if (is_stall(f) || !atomic_load_explicit(&rep.to_stderr, memory_order_relaxed))
        return;
    if (f->line > 0)
        snprintf(line, sizeof line, ":%d", f->line);
    const char *in = f->file[0] != '\0' && f->function[0] != '\0' ? " in " : "";
    const char *at = f->file[0] != '\0' ? " at " : f->function[0] != '\0' ? " in " : "";
    const char *remedy = f->remedy[0] != '\0' ? "\n  Remedy: " : "";
    int size = snprintf(text, sizeof text, "taut: %s%s%s%s%s%s: %s%s%s\n", f->code, at, f->file,
                        line, in, f->function, f->cause, remedy, f->remedy);
    if (size > 0)
        (void)taut_private_fds_write(STDERR_FILENO, text, strlen(text));
}

static void write_journal(told *t, const taut_finding *f, uint64_t now_ns) {
    (void)taut_journal_write(&rep.journal, f); /* nobody is left to tell */
    taut_pace_written(&t->pace, f->count, f->state, now_ns);
    t->due_ns = TAUT_NEVER_NS;
}

/* The journal first: stderr may be a pipe that is full. */
static void tell(const taut_finding *f) {
    uint64_t now_ns = taut_sys_now_ns();
    told *t = told_find(f->id);
    int is_new = t == NULL;
    if (is_new)
        t = told_take(f->id);
    t->due_ns = taut_pace_due(&t->pace, f->count, f->state, now_ns);
    if (t->due_ns <= now_ns)
        write_journal(t, f, now_ns);
    if (is_new)
        tell_stderr(f);
}

/* Writes what has been put off until now, or all of that. Returns when to come again. */
static uint64_t tell_due(taut_finding *f, int all) {
    uint64_t now_ns = taut_sys_now_ns(), next_ns = TAUT_NEVER_NS;
    for (int i = 0; i < TOLD_MAX; i++) {
        told *t = &rep.known[i];
        if (t->id == 0 || t->due_ns == TAUT_NEVER_NS)
            continue;
        if (!all && t->due_ns > now_ns)
            next_ns = t->due_ns < next_ns ? t->due_ns : next_ns;
        else if (taut_findings_get(t->id, f))
            write_journal(t, f, now_ns);
        else
            t->due_ns = TAUT_NEVER_NS;
    }
    return next_ns;
}

/* ---- the thread ---- */

static void wait_until(uint64_t deadline_ns) {
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / TAUT_NS_PER_S),
                          .tv_nsec = (long)(deadline_ns % TAUT_NS_PER_S)};
    pthread_cond_timedwait(&rep.moved, &rep.lock, &ts);
}

static void *reporter_main(void *arg) {
    static taut_finding f; /* of this one thread */
    uint64_t change = 0;
    atomic_store_explicit(&rep.thread_id, (int)taut_pulse_self(), memory_order_relaxed);
    for (;;) {
        pthread_mutex_lock(&rep.lock);
        uint64_t asked = rep.flush_asked, done = rep.flush_done;
        pthread_mutex_unlock(&rep.lock);
        uint64_t newest = taut_findings_change(); /* what had it may have made room already */
        while (taut_findings_next(change, &f)) {
            tell(&f);
            change = f.change;
        }
        change = change > newest ? change : newest;
        uint64_t next_ns = tell_due(&f, asked != done);
        pthread_mutex_lock(&rep.lock);
        rep.flush_done = asked;
        pthread_cond_broadcast(&rep.moved);
        uint64_t until_ns = taut_sys_now_ns() + PAUSE_NS;
        while (!rep.stopping && rep.flush_asked == asked && taut_sys_now_ns() < until_ns)
            wait_until(until_ns);
        int stopping = rep.stopping;
        rep.live = !stopping;
        if (stopping)
            pthread_cond_broadcast(&rep.moved);
        pthread_mutex_unlock(&rep.lock);
        if (stopping)
            return NULL;
        taut_findings_wait(change, next_ns);
    }
}

static int prepare(void);

/* With the lock. */
static void start(void) {
    if (rep.live || rep.stopping || (!rep.prepared && prepare() < 0))
        return;
    memset(rep.known, 0, sizeof rep.known);
    rep.flush_done = rep.flush_asked;
    rep.live = taut_service_start(&rep.thread, "taut-reporter", reporter_main, NULL) == 0;
}

/* On whatever thread a finding was added. */
static void on_change(void) {
    if (atomic_load_explicit(&rep.thread_id, memory_order_relaxed) != 0)
        return;
    pthread_mutex_lock(&rep.lock);
    if (atomic_load_explicit(&rep.enabled, memory_order_relaxed))
        start();
    pthread_mutex_unlock(&rep.lock);
}

/* The thread may be about to wait for a change: a wake-up before that would be lost, so it is tried
 * again. With the lock, which is given up meanwhile. */
static void wake_thread(uint64_t until_ns) {
    uint64_t again_ns = taut_sys_now_ns() + PAUSE_NS;
    pthread_cond_broadcast(&rep.moved);
    pthread_mutex_unlock(&rep.lock);
    taut_findings_wake();
    pthread_mutex_lock(&rep.lock);
    wait_until(again_ns < until_ns ? again_ns : until_ns);
}

int taut_reporter_flush(uint64_t timeout_ns) {
    uint64_t until_ns = taut_sys_now_ns() + timeout_ns;
    pthread_mutex_lock(&rep.lock);
    uint64_t mine = ++rep.flush_asked;
    while (rep.live && rep.flush_done < mine && taut_sys_now_ns() < until_ns)
        wake_thread(until_ns);
    int rc = rep.live && rep.flush_done < mine ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&rep.lock);
    return rc;
}

static void at_exit(void) {
    (void)taut_reporter_flush(EXIT_NS);
}

/* ---- the outside ---- */

static void cond_init(void) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&rep.moved, &attr);
    pthread_condattr_destroy(&attr);
}

static void fork_prepare(void) {
    pthread_mutex_lock(&rep.lock);
}
static void fork_parent(void) {
    pthread_mutex_unlock(&rep.lock);
}
static void fork_child(void) {
    rep.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    cond_init();
    rep.live = rep.stopping = 0;
    rep.journal.cut = 0;
    atomic_store(&rep.thread_id, 0);
}

static int prepare(void) {
    int rc = pthread_atfork(fork_prepare, fork_parent, fork_child);
    if (rc != 0)
        return -rc;
    cond_init();
    (void)atexit(at_exit); /* where it fails, the last moments of the process are not told */
    rep.prepared = 1;
    return 0;
}

void taut_reporter_enable(const char *journal_path) {
    pthread_mutex_lock(&rep.lock);
    if (!rep.live)
        taut_journal_init(&rep.journal, journal_path);
    atomic_store_explicit(&rep.enabled, 1, memory_order_relaxed);
    pthread_mutex_unlock(&rep.lock);
    taut_findings_on_change(on_change);
}

void taut_reporter_stderr_set(int on) {
    atomic_store_explicit(&rep.to_stderr, on, memory_order_relaxed);
}

void taut_reporter_disable(void) {
    taut_findings_on_change(NULL);
    pthread_mutex_lock(&rep.lock);
    atomic_store_explicit(&rep.enabled, 0, memory_order_relaxed);
    int live = rep.live;
    rep.stopping = live;
    while (rep.live)
        wake_thread(TAUT_NEVER_NS);
    rep.stopping = 0;
    atomic_store_explicit(&rep.thread_id, 0, memory_order_relaxed);
    pthread_mutex_unlock(&rep.lock);
    if (live)
        pthread_join(rep.thread, NULL);
}

int taut_reporter_thread_id(void) {
    return atomic_load_explicit(&rep.thread_id, memory_order_relaxed);
}
