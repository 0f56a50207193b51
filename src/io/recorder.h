/* The flight recorder: the latest events of a loop, 16 bytes each, in a ring of 1 MiB that is
 * allocated when the loop first runs. The thread that runs the loop writes (as whoever holds the
 * binding's lock would), without a lock, a system call or a clock read; any thread takes a snapshot
 * meanwhile, also while the loop hangs.
 *
 * Time. The loop's iterations begin with an event that has the clock, as read for the iteration
 * anyway. In between the CPU's counter is noted: where a batch of ready entries is over and has
 * taken a while, and whenever a page of the ring is full. What lies between two such marks has an
 * order, but no times of its own; a stall among it is measured by the watchdog. */
#ifndef TAUT_IO_RECORDER_H
#define TAUT_IO_RECORDER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include "base/assert.h"

#define TAUT_RECORDER_EVENTS 65536
#define TAUT_RECORDER_PAGE 64 /* events; the first of each is a mark */
#define TAUT_RECORDER_STALLS 16
#define TAUT_RECORDER_LABEL_MAX 320

/* X(name, word): 56 bits of `value` and 64 of `more`. */
enum taut_event {
    TAUT_EVENT_NONE = 0,
    TAUT_EVENT_RUN,     /* value 1: a run begins, 0: it is over; more: the clock */
    TAUT_EVENT_TURN,    /* an iteration begins. value: ns it has waited; more: the clock */
    TAUT_EVENT_MARK,    /* between two events. value: ticks since the clock that is in more */
    TAUT_EVENT_PAGE,    /* the same, maybe in the middle of what runs */
    TAUT_EVENT_IO,      /* begins; value: fd, more: TAUT_READ ... */
    TAUT_EVENT_CALL,    /* begins; value: an object that says what, of the owner's; 0: the core's */
    TAUT_EVENT_STEP,    /* of a task begins; value: the task */
    TAUT_EVENT_TIMER,   /* fires; more: the deadline */
    TAUT_EVENT_CREATED, /* value: a task; more: where, for the owner to read */
    TAUT_EVENT_ENDED,   /* value: a task; more: an object that names it */
    TAUT_EVENT_GC,      /* value 1 + generation: a collection begins; 0: ends. more: the clock */
    TAUT_EVENT_QUEUED,  /* value: a call for an executor; more: where */
    TAUT_EVENT_DONE,    /* value: such a call */
    TAUT_EVENT_LOOKUP,  /* is over; value: ns it has taken */
};

typedef struct {
    _Atomic uint64_t what, more; /* what: the event in the upper 8 bits, its value */
} taut_record;

/* What the watchdog has measured. */
typedef struct {
    uint64_t at;                 /* number of the first event after what stalled */
    uint64_t since_ns, until_ns; /* until 0: it lasts */
    char label[TAUT_RECORDER_LABEL_MAX];
} taut_recorder_stall;

/* Part of its loop. Zeroed: it records nothing. */
typedef struct taut_recorder {
    _Atomic(taut_record *) next; /* to be written */
    taut_record *limit;          /* the page's end; `next` is there while nothing is recorded */
    taut_record *ring;           /* NULL: not on */
    _Atomic uint64_t page;       /* the number of the page that is written, counted from 0 on */
    uint64_t turn_ns, turn_ticks, marked_ticks, grain_ticks;
    _Atomic uint64_t wait_ns; /* when the latest wait began */
    _Atomic double tick_ns;   /* 0: the counter is not calibrated yet */
    _Atomic uint32_t process; /* what it is about, by taut_forks(); 0: it is not on */
    int decided;
    pthread_mutex_t lock; /* of the stalls; never taken by the loop's thread during a run */
    uint32_t stall_count; /* over all; the ring of the latest */
    taut_recorder_stall stalls[TAUT_RECORDER_STALLS];
} taut_recorder;

/* One that is never on, for who has no loop. */
extern taut_recorder taut_recorder_none;

/* Of a loop that begins to run, on its thread. The first time it gets its ring, unless
 * TAUT_RECORDER is 0 or off, or memory is out. What a fork has left of the parent's is forgotten.
 * Not while another thread changes the environment. */
void taut_recorder_begin(taut_recorder *r, uint64_t now_ns, uint64_t ticks);
/* No snapshot may be under way (see taut_vitals_remove). */
void taut_recorder_free(taut_recorder *r);
/* A new page; NULL: not on. */
taut_record *taut_recorder_turn_page(taut_recorder *r);

static inline void taut_recorder_add(taut_recorder *r, enum taut_event event, uint64_t value,
                                     uint64_t more) {
    taut_record *at = atomic_load_explicit(&r->next, memory_order_relaxed);
    if (TAUT_UNLIKELY(at == r->limit) && (at = taut_recorder_turn_page(r)) == NULL)
        return;
    /* Release: a reader that sees any of it sees the page's number, too. */
    atomic_store_explicit(&at->what, (uint64_t)event << 56 | value, memory_order_release);
    atomic_store_explicit(&at->more, more, memory_order_release);
    atomic_store_explicit(&r->next, at + 1, memory_order_release);
}
static inline uint64_t taut_recorder_id(const void *object) {
    return (uint64_t)(uintptr_t)object & (UINT64_MAX >> 8);
}
/* An iteration begins; wait_ns: when its wait did, 0: it has not waited. */
static inline void taut_recorder_turn(taut_recorder *r, uint64_t wait_ns, uint64_t now_ns,
                                      uint64_t ticks) {
    r->turn_ns = now_ns;
    r->turn_ticks = r->marked_ticks = ticks;
    uint64_t waited_ns = wait_ns == 0 || wait_ns > now_ns ? 0 : now_ns - wait_ns;
    taut_recorder_add(r, TAUT_EVENT_TURN, waited_ns & (UINT64_MAX >> 8), now_ns);
}
/* The counter, read between two events. */
static inline void taut_recorder_mark(taut_recorder *r, uint64_t ticks) {
    if (ticks - r->marked_ticks <= r->grain_ticks)
        return;
    r->marked_ticks = ticks;
    taut_recorder_add(r, TAUT_EVENT_MARK, (ticks - r->turn_ticks) & (UINT64_MAX >> 8), r->turn_ns);
}

/* The watchdog: the loop stalls, and has since since_ns; again for a stall that it has told. And it
 * is over. Any thread but the running loop's. */
void taut_recorder_stall_note(taut_recorder *r, uint64_t since_ns, const char *label);
void taut_recorder_stall_over(taut_recorder *r, uint64_t since_ns, uint64_t until_ns);

typedef struct {
    uint64_t what, more;
} taut_recorder_event;

/* A copy. The events stand behind it in one block; see taut_recorder_snapshot_free. */
typedef struct {
    uint64_t now_ns, wait_ns; /* the clock of the snapshot */
    double tick_ns;
    uint64_t first; /* the number of events[0] */
    size_t count;
    uint32_t stall_count;
    taut_recorder_stall stalls[TAUT_RECORDER_STALLS]; /* oldest first */
    taut_recorder_event events[TAUT_RECORDER_EVENTS];
} taut_recorder_snapshot;

/* The clock of events[at], one of RUN, TURN, MARK and PAGE; a mark's, which the counter has
 * measured, is not after the wait of the next turn. `next` is the reader's, 0 at first, who goes
 * through the events in their order. */
uint64_t taut_recorder_clock(const taut_recorder_snapshot *s, size_t at, size_t *next);

/* Any thread. 1; 0: it is not on, or not about this process. */
int taut_recorder_copy(taut_recorder *r, taut_recorder_snapshot *out);

#endif
