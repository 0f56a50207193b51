/* Timers at nanosecond resolution over base/heap. A taut_timer is embedded in its owner. Cancelled
 * timers stay in the heap until they surface or until they dominate it and are swept.
 * A timer never fires before its deadline. One thread. */
#ifndef TAUT_IO_TIMERS_H
#define TAUT_IO_TIMERS_H

#include "base/clock.h"
#include "base/heap.h"
#include "base/hist.h"

typedef struct taut_timer taut_timer;
/* Due: the timer is out of the heap and may be freed or started again. */
typedef void (*taut_timer_fn)(taut_timer *t);
/* A cancelled timer has left the heap: its owner may free it (drops the heap's reference). */
typedef void (*taut_timer_dropped_fn)(taut_timer *t);

struct taut_timer {
    taut_heap_node node;
    uint64_t deadline_ns;
    int cancelled;
    taut_timer_fn due;
    taut_timer_dropped_fn dropped; /* may be NULL */
    taut_timer *next;              /* while about to fire or to be dropped */
};

typedef struct {
    taut_heap heap;
    size_t cancelled_count;
    taut_hist *lag;                 /* where lateness is counted, or NULL */
    struct taut_recorder *recorder; /* or NULL */
} taut_timers;

void taut_timers_init(taut_timers *ts);
void taut_timers_free(taut_timers *ts); /* calls `dropped` for every timer still in */
/* The timer must be out of the heap (taut_heap_node_init at first, later: due or dropped was
 * called, so a cancelled one may be started again only after `dropped`). 0 or -ENOMEM. */
int taut_timer_start(taut_timers *ts, taut_timer *t, uint64_t deadline_ns) TAUT_MUST_USE;
/* Lazy: `dropped` comes later (at the latest from taut_timers_free), possibly within this call
 * when a sweep is due. Harmless when not in the heap. */
void taut_timer_cancel(taut_timers *ts, taut_timer *t);
/* The earliest live deadline, TAUT_NEVER_NS when none. Drops cancelled timers at the top. */
uint64_t taut_timers_next_ns(taut_timers *ts);
/* Calls `due` for every timer with deadline_ns <= now_ns that was in when the call began, earliest
 * first. Returns how many. */
size_t taut_timers_fire(taut_timers *ts, uint64_t now_ns);
static inline size_t taut_timers_count(const taut_timers *ts) {
    return ts->heap.count - ts->cancelled_count;
}

#endif
