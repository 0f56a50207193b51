/* The watchdog: one plain C thread per process that notices when a loop makes no progress. It
 * samples every target's pulse at a quarter of its threshold while work runs, parks after a second
 * of idleness and is woken by the first loop that runs again. It blocks every signal, takes no
 * lock of anybody else's and has no part in the process's fd table (io/private_fds.h: an op that
 * needs an fd of the process borrows it). What a stall looks like is the owner's business:
 * taut_watchdog_ops.
 *
 * taut_watchdog_* may be called from any thread. After fork() the child has no watchdog and no
 * targets: its next taut_watchdog_add starts afresh. */
#ifndef TAUT_IO_WATCHDOG_H
#define TAUT_IO_WATCHDOG_H

#include "base/list.h"
#include "io/pulse.h"
#include "io/stall_sites.h"
#include "base/assert.h"

typedef struct {
    uint64_t since_ns; /* when progress was last seen */
    uint64_t now_ns;
    uint64_t threshold_ns;
    uint32_t reports; /* captures of this stall before this one */
    uint64_t site;    /* of the latest capture, never 0 */
    int late;         /* capture had to wait: report, even if the stall is over by now */
    /* Where, in words; written by `capture`, kept by the watchdog. */
    char label[TAUT_STALL_LABEL_MAX];
} taut_stall;

/* On the watchdog's thread; over, ended and unshown also on that of taut_watchdog_remove. capture,
 * noted, over, report, ended and unshown run without the watchdog's lock and may take their time;
 * the target stays valid until they return. */
typedef struct {
    /* Optional. A number that moves with any progress that the pulse does not show. */
    uint64_t (*progress)(void *ctx);
    /* Optional, needed for TAUT_PHASE_UNSURE: 1 when the thread waits for events right now. */
    int (*waiting)(void *ctx);
    /* Optional. Called with each sample. When to be called again although nothing moves, or
     * TAUT_NEVER_NS. Quick, with the watchdog's lock held. */
    uint64_t (*examine)(void *ctx, uint64_t now_ns);
    /* Optional. No progress for one sample: the moment to note the thread's CPU time. */
    void (*suspect)(void *ctx);
    /* Takes the evidence and sets label; returns the site, or 0: no stall, and none until the pulse
     * or the progress moves again. */
    uint64_t (*capture)(void *ctx, taut_stall *s);
    /* Optional. Every stall, whether reported or not: told after each capture, before the report,
     * and when it is over (now_ns), before `ended`. */
    void (*noted)(void *ctx, const taut_stall *s);
    void (*over)(void *ctx, const taut_stall *s);
    /* The stall lasts; `unshown` earlier stalls at this site went unreported. */
    void (*report)(void *ctx, const taut_stall *s, uint64_t unshown);
    /* A reported stall is over (now_ns); the label is that of its first report. */
    void (*ended)(void *ctx, const taut_stall *s);
    /* Stalls at one site that the rate limit kept quiet about, told once in a while. */
    void (*unshown)(void *ctx, const char *label, uint64_t count, uint64_t longest_ns);
} taut_watchdog_ops;

/* Owned and zeroed by the caller, valid from add to the return of remove. */
typedef struct {
    taut_list link;
    taut_pulse *pulse;
    const taut_watchdog_ops *ops;
    void *ctx;
    int wait_fd;  /* an epoll fd whose readiness ends the idleness of an unsure target, or -1;
                     set before add */
    int examined; /* looked at for its `examine` even while it is not watched; set before add */
    _Atomic uint64_t threshold_ns; /* 0: not watched; see taut_watchdog_threshold_set */
    _Atomic uint64_t stalls;       /* counted whether reported or not */
    _Atomic uint64_t longest_ns;
    /* The watchdog's own. */
    uint64_t sequence, progress, since_ns, stuck_ns, next_ns;
    int suspected, in_stall, reported, dismissed, live;
    taut_stall stall;
    char first_label[TAUT_STALL_LABEL_MAX]; /* of the stall's first report */
} taut_watchdog_target;

/* Starts watching; starts the thread if there is none. 0 or a negative error. */
int taut_watchdog_add(taut_watchdog_target *t) TAUT_MUST_USE;
/* Stops watching and waits for a report of this target that is being written right now; reports the
 * end of a stall under way. Harmless when the target is not (or, in a forked child, no longer)
 * watched. Not from within an op. */
void taut_watchdog_remove(taut_watchdog_target *t);
/* At any time; 0 switches the target off. */
void taut_watchdog_threshold_set(taut_watchdog_target *t, uint64_t threshold_ns);
/* 1 when taut_watchdog_remove would wait. */
int taut_watchdog_busy(taut_watchdog_target *t);
/* Ends the thread and forgets all targets; a later add starts again. Not from within an op. */
void taut_watchdog_shutdown(void);
/* For a loop whose target has a wait_fd, besides taut_pulse_unpark: ends the wait on that fd. Only
 * called when the pulse was parked. */
void taut_watchdog_nudge(void);
/* The kernel's id of the watchdog's thread, 0 when there is none. For tests and tools. */
int taut_watchdog_thread_id(void);

#endif
