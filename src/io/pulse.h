/* What the loop thread publishes for the watchdog: relaxed stores only, no clock read, no lock, no
 * read-modify-write. The loop thread is the only writer (but for `parked`). */
#ifndef TAUT_IO_PULSE_H
#define TAUT_IO_PULSE_H

#include <stdatomic.h>
#include <stdint.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

enum taut_phase {
    TAUT_PHASE_STOPPED = 0, /* the loop does not run */
    TAUT_PHASE_POLLING = 1, /* blocked in (or about to enter) epoll_wait */
    TAUT_PHASE_RUNNING = 2, /* running callbacks */
    TAUT_PHASE_UNSURE = 3,  /* waiting or running I/O callbacks: a foreign loop cannot say which */
};

typedef struct {
    _Atomic uint64_t sequence;         /* moves with every entry run and every phase change */
    _Atomic(void *) current;           /* the entry being run (opaque to the core), or NULL */
    _Atomic uint32_t phase;            /* enum taut_phase */
    _Atomic uint32_t in_gc;            /* set by the binding's gc callback */
    _Atomic uint32_t parked;           /* 1 while the watchdog sleeps until woken */
    _Atomic(_Atomic uint32_t *) waker; /* the futex word it sleeps on; set before `parked` */
    _Atomic int64_t thread_id;         /* gettid() of the loop's thread, 0 when stopped */
    _Atomic uint64_t iterations;
    _Atomic uint64_t stalls, stall_longest_ns; /* the watchdog's, over all runs */
    struct taut_recorder *recorder;            /* io/recorder.h; NULL: a foreign loop has none */
} taut_pulse;

/* The watchdog sets `parked`, then runs membarrier(PRIVATE_EXPEDITED), then looks at phase and
 * sequence again before it sleeps; so plain relaxed order is enough here. */
static inline void taut_pulse_unpark(taut_pulse *p) {
    if (__builtin_expect(atomic_load_explicit(&p->parked, memory_order_relaxed), 0)) {
        _Atomic uint32_t *waker = atomic_load_explicit(&p->waker, memory_order_relaxed);
        atomic_store_explicit(&p->parked, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(waker, 1, memory_order_release);
        syscall(SYS_futex, waker, FUTEX_WAKE_PRIVATE, 1, (void *)0, (void *)0, 0);
    }
}
/* The calling thread's id as the kernel counts. */
static inline int64_t taut_pulse_self(void) {
    return (int64_t)syscall(SYS_gettid);
}
static inline void taut_pulse_bump(taut_pulse *p) {
    uint64_t s = atomic_load_explicit(&p->sequence, memory_order_relaxed);
    atomic_store_explicit(&p->sequence, s + 1, memory_order_relaxed);
}
/* A new entry starts. `current` NULL: between entries, or an I/O callback. */
static inline void taut_pulse_step(taut_pulse *p, void *current) {
    atomic_store_explicit(&p->current, current, memory_order_relaxed);
    taut_pulse_bump(p);
}
static inline void taut_pulse_phase(taut_pulse *p, enum taut_phase phase) {
    atomic_store_explicit(&p->phase, phase, memory_order_relaxed);
    taut_pulse_step(p, (void *)0);
    atomic_signal_fence(memory_order_seq_cst);
    if (phase == TAUT_PHASE_RUNNING)
        taut_pulse_unpark(p);
}

#endif
