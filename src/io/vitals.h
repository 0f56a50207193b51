/* How a loop fares, in numbers: how late its timers fire, how long it is busy before it looks at
 * events again, how much of the time it waits. The loop's thread writes, by relaxed stores; any
 * thread reads, without the GIL. Times are nanoseconds.
 *
 * What is counted per iteration costs no clock read of its own: the iteration's clock is read
 * anyway, and when a wait begins is known from the CPU's counter (see loop.c). */
#ifndef TAUT_IO_VITALS_H
#define TAUT_IO_VITALS_H

#include "base/hist.h"
#include "base/list.h"
#include "io/pulse.h"

typedef struct {
    taut_list link;    /* among the process's loops */
    unsigned id;       /* the smallest number from 1 on that no other loop had */
    taut_pulse *pulse; /* of the same loop */
    taut_hist lag;     /* of timers: from the deadline to the firing */
    /* Of iterations: from the look at events to the next wait. What became ready meanwhile has
     * waited for at most that long. */
    taut_hist busy;
    _Atomic uint64_t active_ns, idle_ns;    /* up to mark_ns, see taut_vitals_times */
    _Atomic uint64_t mark_ns;               /* the clock when the iteration began */
    _Atomic uint64_t ready_last, ready_max; /* entries of the ready queue when it was begun */
    /* As of the latest examination of its tasks; its owner's. */
    _Atomic uint64_t tasks, tasks_waiting, oldest_wait_ns, examined_ns;
    _Atomic uint64_t examined, examining_ns; /* examinations, and what they took */
    _Atomic uint64_t calls_queued, calls_running, lookups_pending; /* as of then */
    /* active_ns and idle_ns as of then and as of the one before. */
    _Atomic uint64_t then_active_ns[2], then_idle_ns[2];
    /* What a reader was told last, under the lock of taut_vitals_each: it never goes down. */
    uint64_t told_active_ns, told_idle_ns;
    /* Of lookups of names and of calls in executors: how many are over and what they took, from the
     * request to the answer. */
    _Atomic uint64_t lookups, lookups_ns, lookup_longest_ns;
    _Atomic uint64_t calls, calls_ns, call_longest_ns;
} taut_vitals;

/* Of the process: the collector stops every thread that needs the GIL. */
#define TAUT_GC_GENERATIONS 3
typedef struct {
    _Atomic uint64_t count, sum_ns, longest_ns, collected, uncollectable;
} taut_gc_vitals;
extern taut_gc_vitals taut_vitals_gc[TAUT_GC_GENERATIONS];

/* Zeroed memory becomes a loop's vitals, known to taut_vitals_each until taut_vitals_remove, which
 * is harmless when it is not. Any thread. */
void taut_vitals_add(taut_vitals *v, taut_pulse *pulse);
void taut_vitals_remove(taut_vitals *v);
/* Calls `fn` for every loop, oldest first, under a lock: it must be quick and must not make or
 * close loops. Any thread. */
void taut_vitals_each(void (*fn)(taut_vitals *v, void *arg), void *arg);
/* How long the loop has been active and idle in all its runs, the unfinished iteration included.
 * Later calls may say a little less by a few microseconds. Any thread. */
void taut_vitals_times(const taut_vitals *v, uint64_t now_ns, uint64_t *active_ns,
                       uint64_t *idle_ns);
/* For the examination, which reads them: keeps active_ns and idle_ns. */
void taut_vitals_keep(taut_vitals *v);
/* The share of the time, per mille, that the loop was active since the last examination but one.
 * Any thread. */
unsigned taut_vitals_utilization(const taut_vitals *v, uint64_t now_ns);
/* A collection of this generation is over. With the GIL. */
void taut_vitals_gc_done(unsigned generation, uint64_t lasted_ns, uint64_t collected,
                         uint64_t uncollectable);

/* One writer: no read-modify-write. */
static inline void taut_vitals_count(_Atomic uint64_t *to, uint64_t more) {
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + more,
                          memory_order_relaxed);
}
static inline uint64_t taut_vitals_mark(const taut_vitals *v) {
    return atomic_load_explicit(&v->mark_ns, memory_order_relaxed);
}
/* The loop's thread: the iteration that began at the mark went to wait at wait_ns (0: it did not),
 * and the next one begins at now_ns. Returns how long the former was busy. */
static inline uint64_t taut_vitals_turn(taut_vitals *v, uint64_t wait_ns, uint64_t now_ns) {
    uint64_t began_ns = taut_vitals_mark(v);
    uint64_t passed_ns = now_ns - began_ns, busy_ns = passed_ns;
    if (wait_ns != 0) {
        if (wait_ns - began_ns < busy_ns)
            busy_ns = wait_ns - began_ns;
        taut_vitals_count(&v->idle_ns, passed_ns - busy_ns);
    }
    taut_vitals_count(&v->active_ns, busy_ns);
    atomic_store_explicit(&v->mark_ns, now_ns, memory_order_relaxed);
    taut_hist_add(&v->busy, busy_ns);
    return busy_ns;
}
static inline void taut_vitals_took(_Atomic uint64_t *count, _Atomic uint64_t *sum_ns,
                                    _Atomic uint64_t *longest_ns, uint64_t ns) {
    taut_vitals_count(count, 1);
    taut_vitals_count(sum_ns, ns);
    if (ns > atomic_load_explicit(longest_ns, memory_order_relaxed))
        atomic_store_explicit(longest_ns, ns, memory_order_relaxed);
}
static inline void taut_vitals_lookup_done(taut_vitals *v, uint64_t ns) {
    taut_vitals_took(&v->lookups, &v->lookups_ns, &v->lookup_longest_ns, ns);
}
static inline void taut_vitals_call_done(taut_vitals *v, uint64_t ns) {
    taut_vitals_took(&v->calls, &v->calls_ns, &v->call_longest_ns, ns);
}
static inline void taut_vitals_ready(taut_vitals *v, uint64_t depth) {
    atomic_store_explicit(&v->ready_last, depth, memory_order_relaxed);
    if (depth > atomic_load_explicit(&v->ready_max, memory_order_relaxed))
        atomic_store_explicit(&v->ready_max, depth, memory_order_relaxed);
}

#endif
