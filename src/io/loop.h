/* The event loop: poller + timers + ready ring + end-of-turn work + cross-thread wake-up.
 *
 * One iteration: run the ready queue in bounded bursts; run end-of-turn work (write flushes); wait
 * for events (not at all while the ring has entries); dispatch them; fire timers.
 * The ring's entries are the owner's (kind >= TAUT_ENTRY_USER) or the core's (TAUT_ENTRY_CORE:
 * a = void (*)(void *), b = its argument). The owner drains the ring in ops->run_ready and calls
 * taut_loop_run_core_entry for the core's. One thread, except taut_loop_wake. */
#ifndef TAUT_IO_LOOP_H
#define TAUT_IO_LOOP_H

#include "base/list.h"
#include "base/ring.h"
#include "io/poller.h"
#include "io/pulse.h"
#include "io/recorder.h"
#include "io/timers.h"
#include "io/vitals.h"
#include "io/wakeup.h"

enum { TAUT_ENTRY_CORE = 0, TAUT_ENTRY_USER = 1 };

typedef struct taut_loop taut_loop;

typedef struct {
    /* Run `count` entries, or fewer when one of them asks to stop at once (a negative error, which
     * ends taut_loop_run with it). Entries pushed meanwhile belong to the next batch. */
    int (*run_ready)(void *ctx, size_t count);
    /* Around a wait that may block (timeout not 0): the binding gives up and retakes the GIL. */
    void (*wait_begin)(void *ctx);
    void (*wait_end)(void *ctx);
    /* Once per iteration, and after EINTR: pending interpreter signals. Negative error to end. */
    int (*check)(void *ctx);
    /* taut_loop_wake was called from some thread: move its work to the ring. */
    void (*woken)(void *ctx);
    /* The batches that run_ready was given are over, and something else may run next: at the end of
     * a burst, and before timers fire within one. NULL: nobody wants to know. */
    void (*ready_done)(void *ctx);
} taut_loop_ops;

/* End-of-turn work: embedded in its owner, run once after the ready queue and before the wait, and
 * before taut_loop_run returns (a program that stops right after a write has written). It may push
 * entries and defer itself or others again: the wait that follows must then not block. */
typedef struct {
    taut_list link;
    void (*fn)(void *arg);
    void *arg;
} taut_deferred;

struct taut_loop {
    taut_ring ready;
    taut_timers timers;
    taut_poller *poller;
    taut_wakeup wakeup;
    taut_list deferred;
    taut_pulse pulse;
    taut_vitals vitals;
    taut_recorder recorder;
    const taut_loop_ops *ops;
    void *ctx;
    uint8_t *scratch;                  /* shared read buffer, TAUT_SCRATCH_SIZE */
    struct taut_dgram_area *datagrams; /* io/dgram.h: where several are read at once, or NULL */
    uint64_t now_ns;                   /* the clock as of this iteration */
    uint64_t turn; /* moves before the ready queue and before the dispatch of events; a stream's
                    * "first write of this turn" compares it */
    uint64_t burst_ticks;
    uint64_t sigpipe_ticks; /* when it was last asked whether SIGPIPE ends the process, and ... */
    int sigpipe_ends;       /* the answer; see stream_write.c */
    uint64_t calibrate_ticks, calibrate_ns, calibrate_window_ns;
    double tick_ns;      /* 0 until calibrated */
    uint64_t turn_ticks; /* the counter when this iteration looked at the clock */
    uint64_t wait_ns;    /* when this iteration's wait began, 0: it does not wait */
    uint64_t unseen_ns;  /* how long the events of this iteration may have gone unseen */
    /* What becomes ready now has been due for that long (an overdue timer), or for that long at
     * most: when events are dispatched, which may have come while nobody looked. */
    uint64_t late_ns;
    int dispatching; /* events are being dispatched */
    int stopping, running;
    int touched;       /* see taut_loop_touch */
    int interrupt_err; /* see taut_loop_interrupt */
    uint32_t forks;    /* of the process whose fds these are */
};
#define TAUT_SCRATCH_SIZE (256 * 1024)

/* 0 or negative error with nothing left open. `ops` and `ctx` outlive the loop. */
int taut_loop_init(taut_loop *l, const taut_loop_ops *ops, void *ctx) TAUT_MUST_USE;
/* The ring may still hold entries (the owner drops their references first). Not while running.
 * `poller` is NULL afterwards, so that a stream may still be discarded. */
void taut_loop_close(taut_loop *l);
/* Runs until taut_loop_stop (0) or an op's negative error. A loop inherited by fork() must have
 * been renewed. */
int taut_loop_run(taut_loop *l) TAUT_MUST_USE;
/* Whether this process inherited the loop by fork() and shares its fds with the parent. */
int taut_loop_is_inherited(const taut_loop *l);
/* Fds of its own for an inherited loop that does not run. Whatever else of the owner's is to be
 * replaced has been. 0 or negative error; then it may be tried again. */
int taut_loop_renew(taut_loop *l) TAUT_MUST_USE;
/* Something was sent or closed, which the other end may notice, or is to be read from now on: after
 * this batch of ready entries the events are looked at, before more of the queue. */
static inline void taut_loop_touch(taut_loop *l) {
    l->touched = 1;
}
/* Ends the run after the batch of ready entries that runs now (asyncio's stop()). */
void taut_loop_stop(taut_loop *l);
/* From a callback: taut_loop_run returns `err` (negative) as soon as that callback has returned. */
void taut_loop_interrupt(taut_loop *l, int err);
/* The clock, by the CPU's counter where the two have been compared. The loop's thread. */
uint64_t taut_loop_time_ns(const taut_loop *l);
/* Any thread, async-signal-safe: ops->woken runs soon on the loop's thread. */
void taut_loop_wake(taut_loop *l);
/* The core's own deferred call, FIFO with everything in the ready queue. 0 or -ENOMEM. */
int taut_loop_call_soon(taut_loop *l, void (*fn)(void *), void *arg) TAUT_MUST_USE;
static inline void taut_loop_run_core_entry(const taut_entry *e) {
    ((void (*)(void *))e->a)(e->b);
}
void taut_deferred_init(taut_deferred *d, void (*fn)(void *arg), void *arg);
/* Puts it on this turn's list, once however often it is called. */
void taut_loop_defer(taut_loop *l, taut_deferred *d);
void taut_loop_undefer(taut_deferred *d);

#endif
