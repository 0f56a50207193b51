/* What the doctor's own files share: one watched loop, its reports, and their way to Python. */
#ifndef TAUT_BINDING_WATCH_H
#define TAUT_BINDING_WATCH_H

#include <pthread.h>

#include "binding/doctor.h"
#include "binding/frames.h"
#include "binding/host.h"
#include "binding/victims.h"
#include "io/watchdog.h"

/* The loop's thread, as the watchdog needs it. Replaced as a whole, under `lock`, when a foreign
 * loop turns up on another thread. */
typedef struct {
    void *tstate;
    pid_t native_id;
    clockid_t cpu_clock;
    taut_frame_id runner; /* the frame that runs the loop, see taut_frame_id */
} taut_doctor_thread;

/* The finding about the stall under way, and the text of its evidence that stays the same. */
#define TAUT_STALL_SITES_MAX 16
typedef struct {
    uint64_t id; /* 0: none */
    const char *code, *cause, *remedy;
    const char *said;    /* the code that the reports of this stall have told */
    uint64_t stack_hash; /* of the stall's latest capture, and the innermost line */
    int line;
    int moves;           /* the stack has changed since the first one */
    unsigned cpu, delay; /* percent, as of the latest capture */
    char task[280];      /* a line, or "" */
    char stack[1250];
    taut_victims victims; /* as of the latest capture */
    struct {
        uint64_t id, count, total_ns, longest_ns;
    } sites[TAUT_STALL_SITES_MAX]; /* of this run of the loop */
} taut_stall_told;

struct taut_doctor_watch {
    taut_watchdog_target target;
    taut_doctor_thread thread;
    pthread_mutex_t lock; /* of `thread` */
    uint32_t id;          /* 0: a loop of ours; otherwise chosen by attach() */
    int to_stderr;
    int started;       /* the run of a loop of ours is watched */
    int runner_needed; /* without the runner's frame on the stack the loop does not run */
    _Atomic(struct taut_exam *) exam; /* exam.h; NULL: none */
    /* The watchdog's own. */
    uint64_t mark_ns, mark_cpu_ns,
        mark_delay_ns;   /* at the last sample with progress, at most one tick before */
    uint64_t shown_hash; /* of the stack that was printed last for this stall */
    taut_stall_told told;
    taut_host_watch host;
};

/* Zeroed memory becomes a watch of the calling thread. */
void taut_doctor_watch_init(taut_doctor_watch *w, taut_pulse *pulse, uint64_t threshold_ns);
void taut_doctor_watch_thread_set(taut_doctor_watch *w, const taut_doctor_thread *thread);
taut_doctor_thread taut_doctor_thread_here(PyThreadState *tstate);
/* taut_watchdog_add after what has to be done once per process: 0, or a negative error. */
int taut_doctor_watch_start(taut_doctor_watch *w) TAUT_MUST_USE;
/* Gives up the GIL when it has to wait. */
void taut_doctor_watch_stop(taut_doctor_watch *w);

/* Of the loops of ours (watch id 0); a foreign loop's watch has its own. */
extern _Atomic int taut_stall_own_to_stderr;
/* By signal, the Handle that loop.add_signal_handler() made, never to be looked into; or NULL. */
#define TAUT_STALL_SIGNALS 65
extern _Atomic(const void *) taut_stall_signal_handles[TAUT_STALL_SIGNALS];
/* stall.c and stall_find.c: the ops of a watch (a foreign loop's add some) and what counts as the
 * user's code. */
uint64_t taut_stall_capture(void *ctx, taut_stall *s);
void taut_stall_suspect(void *ctx);
void taut_stall_report(void *ctx, const taut_stall *s, uint64_t unshown);
void taut_stall_ended(void *ctx, const taut_stall *s);
void taut_stall_noted(void *ctx, const taut_stall *s);
void taut_stall_over(void *ctx, const taut_stall *s);
void taut_stall_unshown(void *ctx, const char *label, uint64_t count, uint64_t longest_ns);
/* Whether a file is of the standard library, of an installed package or of taut. */
int taut_stall_is_library(const char *file);
/* Files below these directories are not the user's. Copied; at most TAUT_STALL_LIBRARIES_MAX of
 * them. Before the first watch starts. */
#define TAUT_STALL_LIBRARIES_MAX 8
void taut_stall_library_add(const char *directory);

/* stall_queue.c: findings on their way to a Python callback. Bounded; the watchdog only appends. */
enum taut_stall_kind {
    TAUT_STALL_BEGAN = 1, /* the first report of a stall */
    TAUT_STALL_LASTS = 2,
    TAUT_STALL_ENDED = 3,
    TAUT_STALL_UNSHOWN = 4,
    TAUT_STALL_GONE = 5, /* nothing about this watch will follow */
};
typedef struct {
    enum taut_stall_kind kind;
    uint32_t watch_id;
    pid_t thread_id;
    uint64_t duration_ns, threshold_ns, unshown;
    uint32_t site_at; /* the frame of `stack` that the label names */
    const char *label, *cause;
    const taut_stack *stack; /* NULL: none */
} taut_stall_event;
/* Any thread, without the GIL; copies everything. Dropped (and counted) when nobody listens, when
 * 64 are waiting, or when memory is out. */
void taut_stall_queue_put(const taut_stall_event *event);
/* Module functions: stall_listen, stall_next, stall_unlisten. Added to the module by doctor.c. */
extern PyMethodDef taut_stall_queue_methods[];

/* attach.c: the type that watches a loop which is not ours. 0, or -1 with an exception. */
int taut_stall_watch_type_add(PyObject *module, taut_state *st);

#endif
