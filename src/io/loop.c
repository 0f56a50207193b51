/* The event loop: poll, dispatch, timers, the ready queue in bursts, end-of-turn work. */
#include "io/loop.h"

#include <errno.h>
#include "base/clock.h"
#include "base/mem.h"
#include "io/forks.h"
#include "io/sys.h"

#define RING_CAPACITY 256
#define BURSTS_MAX 1024
#define BURST_NS UINT64_C(200000)
#define GRAINS 16 /* of a burst, that the recorder tells apart */
/* Ticks of one burst: a guess until calibrated (right for a 25 MHz counter, short for a faster
 * one), and the range that a calibration may yield (counters of 25 MHz to 10 GHz). */
#define BURST_TICKS_MIN UINT64_C(5000)
#define BURST_TICKS_MAX UINT64_C(2000000)
#define WAITED_NS TAUT_NS_PER_MS /* a wait is longer than a look that takes the GIL back */
#define WINDOW_FIRST_NS (2 * TAUT_NS_PER_MS)
#define WINDOW_LAST_NS (2 * TAUT_NS_PER_S)

static void on_wakeup(void *ctx) {
    taut_loop *l = ctx;
    l->ops->woken(l->ctx);
}

int taut_loop_init(taut_loop *l, const taut_loop_ops *ops, void *ctx) {
    *l = (taut_loop){.ops = ops, .ctx = ctx, .burst_ticks = BURST_TICKS_MIN};
    l->wakeup.watch.fd = -1;
    taut_list_init(&l->deferred);
    taut_timers_init(&l->timers);
    l->timers.lag = &l->vitals.lag;
    l->timers.recorder = l->pulse.recorder = &l->recorder;
    taut_vitals_add(&l->vitals, &l->pulse);
    int rc = taut_ring_init(&l->ready, RING_CAPACITY);
    if (rc < 0)
        goto failed;
    rc = -ENOMEM;
    l->scratch = taut_malloc(TAUT_SCRATCH_SIZE);
    if (!l->scratch)
        goto failed;
    rc = taut_poller_new(&l->poller);
    if (rc < 0)
        goto failed;
    taut_poller_set_pulse(l->poller, &l->pulse);
    rc = taut_wakeup_init(&l->wakeup, l->poller, on_wakeup, l);
    if (rc < 0)
        goto failed;
    l->forks = taut_forks();
    l->now_ns = l->calibrate_ns = taut_sys_now_ns();
    l->calibrate_ticks = taut_sys_ticks();
    l->recorder.grain_ticks = BURST_TICKS_MIN / GRAINS;
    l->calibrate_window_ns = WINDOW_FIRST_NS;
    return 0;
failed:
    taut_loop_close(l);
    return rc;
}

void taut_loop_close(taut_loop *l) {
    taut_assert(!l->running);
    taut_vitals_remove(&l->vitals);
    taut_recorder_free(&l->recorder); /* nobody finds it any more */
    taut_timers_free(&l->timers);     /* `dropped` may still use the rest */
    while (!taut_list_empty(&l->deferred))
        taut_list_unlink(l->deferred.next);
    if (l->poller)
        taut_wakeup_free(&l->wakeup, l->poller);
    taut_poller_free(l->poller);
    l->poller = NULL;
    taut_free(l->scratch);
    l->scratch = NULL;
    taut_free(l->datagrams);
    l->datagrams = NULL;
    taut_ring_free(&l->ready);
}

int taut_loop_is_inherited(const taut_loop *l) {
    return l->forks != taut_forks();
}

int taut_loop_renew(taut_loop *l) {
    int rc = taut_wakeup_renew(&l->wakeup);
    if (rc == 0)
        rc = taut_poller_renew(l->poller);
    if (rc == 0)
        l->forks = taut_forks();
    return rc;
}

void taut_loop_stop(taut_loop *l) {
    l->stopping = 1;
}

void taut_loop_interrupt(taut_loop *l, int err) {
    taut_assert(err < 0);
    l->interrupt_err = err;
    if (l->poller)
        taut_poller_cut(l->poller);
}

void taut_loop_wake(taut_loop *l) {
    taut_wakeup_signal(&l->wakeup);
}

int taut_loop_call_soon(taut_loop *l, void (*fn)(void *), void *arg) {
    taut_entry e = {.a = (void *)fn, .b = arg, .kind = TAUT_ENTRY_CORE};
    return taut_ring_push(&l->ready, e);
}

void taut_deferred_init(taut_deferred *d, void (*fn)(void *arg), void *arg) {
    taut_list_init(&d->link);
    d->fn = fn;
    d->arg = arg;
}

void taut_loop_defer(taut_loop *l, taut_deferred *d) {
    if (taut_list_empty(&d->link))
        taut_list_append(&l->deferred, &d->link);
}

void taut_loop_undefer(taut_deferred *d) {
    taut_list_unlink(&d->link);
}

/* What is deferred meanwhile runs in the next turn. */
static void run_deferred(taut_loop *l) {
    taut_list taken;
    taut_list_take(&taken, &l->deferred);
    while (!taut_list_empty(&taken)) {
        taut_deferred *d = TAUT_CONTAINER(taken.next, taut_deferred, link);
        taut_list_unlink(&d->link);
        taut_pulse_step(&l->pulse, NULL);
        d->fn(d->arg);
    }
}

/* It may become due within the burst. */
static int timer_is_near(const taut_loop *l) {
    const taut_heap *heap = &l->timers.heap;
    return heap->count > 0 && heap->items[0].key <= l->now_ns + BURST_NS;
}

static void ready_done(taut_loop *l) {
    if (l->ops->ready_done)
        l->ops->ready_done(l->ctx);
}

/* Runs the ready queue in batches of what it held when the batch began, so that a chain of
 * call_soon costs no poll per link, until the burst's time is up; or until something was sent,
 * since the other end may be one of ours. asyncio looks at events and timers before each batch. */
static int run_burst(taut_loop *l) {
    uint64_t start = taut_sys_ticks();
    taut_recorder_mark(&l->recorder, start);
    taut_vitals_ready(&l->vitals, taut_ring_count(&l->ready));
    for (int i = 0; i < BURSTS_MAX; i++) {
        size_t count = taut_ring_count(&l->ready);
        if (count == 0)
            return 0;
        int rc = l->ops->run_ready(l->ctx, count);
        if (rc < 0)
            return rc;
        if (l->interrupt_err < 0)
            return l->interrupt_err;
        if (l->stopping || l->touched || !taut_list_empty(&l->deferred))
            return 0;
        uint64_t ticks = taut_sys_ticks();
        taut_recorder_mark(&l->recorder, ticks);
        if (ticks - start > l->burst_ticks)
            return 0;
        if (timer_is_near(l)) {
            ready_done(l);
            l->now_ns = taut_sys_now_ns();
            taut_timers_fire(&l->timers, l->now_ns);
            if (l->interrupt_err < 0)
                return l->interrupt_err;
        }
    }
    return 0;
}

static int run_ready(taut_loop *l) {
    int rc = run_burst(l);
    ready_done(l);
    return rc;
}

uint64_t taut_loop_time_ns(const taut_loop *l) {
    if (l->tick_ns <= 0)
        return taut_sys_now_ns();
    int64_t ticks = (int64_t)(taut_sys_ticks() - l->turn_ticks); /* cores differ a little */
    return taut_vitals_mark(&l->vitals) + (ticks > 0 ? (uint64_t)((double)ticks * l->tick_ns) : 0);
}

/* How long to wait, and since when. The clock is read where a timer's distance depends on it; else
 * the CPU's counter says how long ago it was read. */
static uint64_t timeout_of(taut_loop *l) {
    if (taut_ring_count(&l->ready) || l->stopping || !taut_list_empty(&l->deferred))
        return 0;
    uint64_t next_ns = taut_timers_next_ns(&l->timers);
    /* Dropping cancelled timers runs their owners' code, which may have made work. */
    if (taut_ring_count(&l->ready) || l->stopping || !taut_list_empty(&l->deferred))
        return 0;
    if (next_ns == TAUT_NEVER_NS && l->tick_ns > 0) {
        l->wait_ns = taut_loop_time_ns(l);
        return TAUT_NEVER_NS;
    }
    uint64_t now_ns = taut_sys_now_ns();
    if (next_ns <= now_ns)
        return 0;
    l->wait_ns = now_ns;
    return next_ns == TAUT_NEVER_NS ? TAUT_NEVER_NS : next_ns - now_ns;
}

static int wait_for_events(taut_loop *l) {
    l->wait_ns = 0;
    uint64_t timeout_ns = timeout_of(l);
    int rc;
    if (timeout_ns == 0) {
        rc = taut_poller_wait(l->poller, 0);
    } else {
        atomic_store_explicit(&l->recorder.wait_ns, l->wait_ns, memory_order_relaxed);
        taut_pulse_phase(&l->pulse, TAUT_PHASE_POLLING);
        l->ops->wait_begin(l->ctx);
        rc = taut_poller_wait(l->poller, timeout_ns);
        /* Waiting for what wait_end must take back is no idleness. */
        taut_pulse_phase(&l->pulse, TAUT_PHASE_RUNNING);
        l->ops->wait_end(l->ctx);
    }
    if (rc == -EINTR)
        rc = l->ops->check(l->ctx);
    return rc < 0 ? rc : 0;
}

/* Compares the two clocks over ever longer windows, since the thread may lose its CPU between the
 * two reads and spoil a short one. Then it is over: the rate is constant. */
static void calibrate(taut_loop *l) {
    uint64_t elapsed_ns = l->now_ns - l->calibrate_ns;
    if (elapsed_ns < l->calibrate_window_ns)
        return;
    double per_ns = (double)(taut_sys_ticks() - l->calibrate_ticks) / (double)elapsed_ns;
    double ticks = per_ns * (double)BURST_NS;
    if (ticks < (double)BURST_TICKS_MIN)
        l->burst_ticks = BURST_TICKS_MIN;
    else if (ticks > (double)BURST_TICKS_MAX) /* the thread moved to a core with another count */
        l->burst_ticks = BURST_TICKS_MAX;
    else
        l->burst_ticks = (uint64_t)ticks;
    l->tick_ns = per_ns > 0 ? 1 / per_ns : 0;
    l->recorder.grain_ticks = l->burst_ticks / GRAINS;
    atomic_store_explicit(&l->recorder.tick_ns, l->tick_ns, memory_order_relaxed);
    l->calibrate_window_ns = elapsed_ns < WINDOW_LAST_NS ? elapsed_ns * 4 : 0;
}

static void dispatch(taut_loop *l) {
    l->late_ns = l->unseen_ns;
    l->dispatching = 1;
    taut_poller_dispatch(l->poller);
    l->dispatching = 0;
    l->late_ns = 0;
}

static void dispatch_rest(void *arg) {
    dispatch(arg);
}

/* What was queued before the events were looked at goes first, as asyncio has it: ahead of what has
 * arrived at the transports meanwhile. Readers and writers of the user's own fds are queued now. */
static void dispatch_behind_ready(taut_loop *l) {
    if (taut_poller_dispatch_foreign(l->poller) > 0 && taut_loop_call_soon(l, dispatch_rest, l) < 0)
        dispatch(l);
}

/* Events, timers, ready queue: the order of asyncio, whose callers can tell. */
static int iterate(taut_loop *l) {
    uint64_t n = atomic_load_explicit(&l->pulse.iterations, memory_order_relaxed);
    atomic_store_explicit(&l->pulse.iterations, n + 1, memory_order_relaxed);
    int rc = l->ops->check(l->ctx);
    if (rc < 0)
        return rc;
    int queued = taut_ring_count(&l->ready) > 0;
    rc = wait_for_events(l);
    if (rc < 0)
        return rc;
    l->now_ns = taut_sys_now_ns();
    l->turn_ticks = taut_sys_ticks();
    uint64_t began_ns = taut_vitals_mark(&l->vitals);
    uint64_t busy_ns = taut_vitals_turn(&l->vitals, l->wait_ns, l->now_ns);
    /* What it had to wait for has come meanwhile, and was seen at once. */
    l->unseen_ns = l->now_ns - began_ns - busy_ns < WAITED_NS ? busy_ns : 0;
    taut_recorder_turn(&l->recorder, l->wait_ns, l->now_ns, l->turn_ticks);
    if (TAUT_UNLIKELY(l->calibrate_window_ns != 0))
        calibrate(l);
    l->turn++;
    l->touched = 0;
    if (TAUT_UNLIKELY(queued))
        dispatch_behind_ready(l);
    else
        dispatch(l);
    if (l->interrupt_err < 0)
        return l->interrupt_err;
    taut_timers_fire(&l->timers, l->now_ns);
    if (l->interrupt_err < 0)
        return l->interrupt_err;
    l->turn++;
    return run_ready(l);
}

int taut_loop_run(taut_loop *l) {
    taut_assert(!l->running);
    l->running = 1;
    l->interrupt_err = 0;
    atomic_store_explicit(&l->pulse.thread_id, taut_pulse_self(), memory_order_relaxed);
    l->now_ns = taut_sys_now_ns();
    l->turn_ticks = taut_sys_ticks();
    atomic_store_explicit(&l->vitals.mark_ns, l->now_ns, memory_order_relaxed);
    taut_recorder_begin(&l->recorder, l->now_ns, l->turn_ticks);
    taut_pulse_phase(&l->pulse, TAUT_PHASE_RUNNING);
    int rc;
    do {
        rc = iterate(l);
        run_deferred(l); /* also when the run ends: what was written must leave */
        if (rc == 0)
            rc = l->interrupt_err;
    } while (rc == 0 && !l->stopping);
    l->stopping = 0;
    l->running = 0;
    uint64_t end_ns = taut_sys_now_ns();
    (void)taut_vitals_turn(&l->vitals, 0, end_ns);
    taut_recorder_add(&l->recorder, TAUT_EVENT_RUN, 0, end_ns);
    taut_pulse_phase(&l->pulse, TAUT_PHASE_STOPPED);
    atomic_store_explicit(&l->pulse.thread_id, 0, memory_order_relaxed);
    return rc;
}
