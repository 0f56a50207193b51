/* Timers over the 4-ary heap; cancelled ones leave lazily. */
#include "io/timers.h"

#include "base/clock.h"
#include "base/list.h"
#include "io/recorder.h"

#define SWEEP_MIN 64

/* Out of the heap, but still held by us: about to be fired or dropped. */
#define CHAINED (TAUT_HEAP_OUT - 1)

static taut_timer *timer_of(taut_heap_node *n) {
    return TAUT_CONTAINER(n, taut_timer, node);
}

static void give_up(taut_timer *t) {
    taut_heap_node_init(&t->node);
    if (t->dropped)
        t->dropped(t);
}

void taut_timers_init(taut_timers *ts) {
    taut_heap_init(&ts->heap);
    ts->cancelled_count = 0;
    ts->lag = NULL;
    ts->recorder = NULL;
}

void taut_timers_free(taut_timers *ts) {
    /* From the end, where a removal moves nothing. `dropped` may cancel or start others. */
    while (ts->heap.count > 0) {
        taut_timer *t = timer_of(ts->heap.items[ts->heap.count - 1].node);
        taut_heap_remove(&ts->heap, &t->node);
        ts->cancelled_count -= t->cancelled != 0;
        give_up(t);
    }
    taut_heap_free(&ts->heap);
}

int taut_timer_start(taut_timers *ts, taut_timer *t, uint64_t deadline_ns) {
    taut_assert(t->node.index == TAUT_HEAP_OUT);
    int rc = taut_heap_push(&ts->heap, &t->node, deadline_ns);
    if (rc < 0)
        return rc;
    t->deadline_ns = deadline_ns;
    t->cancelled = 0;
    return 0;
}

static int take_cancelled(taut_heap_node *n, void *arg) {
    taut_timer *t = timer_of(n), **chain = arg;
    if (!t->cancelled)
        return 0;
    n->index = CHAINED;
    t->next = *chain;
    *chain = t;
    return 1;
}

/* `dropped` may come back to us, so it is called only once the heap is in order again. */
static void sweep(taut_timers *ts) {
    taut_timer *chain = NULL;
    taut_heap_sweep(&ts->heap, take_cancelled, &chain);
    ts->cancelled_count = 0;
    while (chain) {
        taut_timer *t = chain;
        chain = t->next;
        give_up(t);
    }
}

void taut_timer_cancel(taut_timers *ts, taut_timer *t) {
    if (t->node.index == TAUT_HEAP_OUT || t->cancelled)
        return;
    t->cancelled = 1;
    if (t->node.index == CHAINED) /* fire() will see the mark */
        return;
    if (t->node.index == ts->heap.count - 1) {
        /* The timeout that did not happen, cancelled soon after it was set: the end is free. */
        taut_heap_remove(&ts->heap, &t->node);
        give_up(t);
        return;
    }
    ts->cancelled_count++;
    if (ts->cancelled_count >= SWEEP_MIN && ts->cancelled_count > ts->heap.count / 2)
        sweep(ts);
}

uint64_t taut_timers_next_ns(taut_timers *ts) {
    for (;;) {
        taut_heap_item *top = taut_heap_top(&ts->heap);
        if (!top)
            return TAUT_NEVER_NS;
        taut_timer *t = timer_of(top->node);
        if (!t->cancelled)
            return top->key;
        taut_heap_pop(&ts->heap);
        ts->cancelled_count--;
        give_up(t);
    }
}

size_t taut_timers_fire(taut_timers *ts, uint64_t now_ns) {
    /* All that are due leave the heap first: what `due` starts belongs to the next call. */
    taut_timer *chain = NULL, **end = &chain;
    size_t fired = 0;
    for (taut_heap_item *top; (top = taut_heap_top(&ts->heap)) && top->key <= now_ns;) {
        taut_timer *t = timer_of(taut_heap_pop(&ts->heap));
        ts->cancelled_count -= t->cancelled != 0;
        t->node.index = CHAINED;
        t->next = NULL;
        *end = t;
        end = &t->next;
    }
    while (chain) {
        taut_timer *t = chain;
        chain = t->next;
        if (t->cancelled) {
            give_up(t);
            continue;
        }
        taut_heap_node_init(&t->node);
        if (ts->lag)
            taut_hist_add(ts->lag, now_ns - t->deadline_ns);
        if (ts->recorder)
            taut_recorder_add(ts->recorder, TAUT_EVENT_TIMER, 0, t->deadline_ns);
        t->due(t);
        fired++;
    }
    return fired;
}
