#include "binding/host.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/clock.h"
#include "io/findings.h"
#include "io/thread_stat.h"

#define LOOK_NS TAUT_NS_PER_S          /* between two reads of the scheduler's numbers */
#define WINDOW_NS (5 * TAUT_NS_PER_S)  /* is looked back on, after ... */
#define EVENT_NS (2 * TAUT_NS_PER_S)   /* ... this much of it at least */
#define STARVED_NS TAUT_NS_PER_S       /* without a CPU, and ... */
#define STARVED_PERCENT 50             /* ... of the window */
#define TICK_NS (250 * TAUT_NS_PER_MS) /* the watchdog looks at what works this often at least */

static void window_begin(taut_host_watch *h, pid_t native_id, uint64_t now_ns) {
    h->mark_ns = now_ns;
    h->mark_delay_ns = taut_thread_delay_ns(native_id);
    h->late_ns = 0;
}

static void tell(taut_host_watch *h, uint64_t delay_ns, uint64_t wall_ns) {
    char evidence[200];
    snprintf(evidence, sizeof evidence,
             "the event loop's thread was ready to run but had no CPU for %.1f s of %.1f s\n"
             "the whole process did not run at all for %.1f s",
             (double)delay_ns / 1e9, (double)wall_ns / 1e9, (double)h->late_ns / 1e9);
    if (h->id != 0 && taut_findings_update(h->id, evidence, TAUT_FINDING_ONGOING) == 0)
        return;
    h->id = taut_findings_add(&(taut_finding_new){
        .code = "host-starved",
        .file = "",
        .function = "",
        .cause = "the host gives this process too little CPU: its event loop is ready to run and "
                 "has to wait, or the whole process is stopped (SIGSTOP, a frozen container, a "
                 "paused machine)",
        .remedy = "give it more CPU (the container's limit, cpu.max, or a larger machine) or take "
                  "other work off this host; no line of the program is to blame",
        .evidence = evidence,
        .state = TAUT_FINDING_ONGOING,
    });
}

static void judge(taut_host_watch *h, pid_t native_id, uint64_t now_ns) {
    uint64_t wall_ns = now_ns - h->mark_ns;
    uint64_t delay_ns = taut_thread_delay_ns(native_id) - h->mark_delay_ns;
    uint64_t starved_ns = delay_ns > h->late_ns ? delay_ns : h->late_ns;
    int is_starved = starved_ns >= STARVED_NS && starved_ns * 100 >= STARVED_PERCENT * wall_ns;
    if (is_starved && wall_ns >= EVENT_NS) {
        tell(h, delay_ns, wall_ns);
        window_begin(h, native_id, now_ns);
    } else if (wall_ns >= WINDOW_NS) {
        if (h->id != 0)
            (void)taut_findings_update(h->id, NULL, TAUT_FINDING_OVER);
        h->id = 0;
        window_begin(h, native_id, now_ns);
    }
}

void taut_host_look(taut_host_watch *h, const taut_pulse *pulse, pid_t native_id, uint64_t now_ns) {
    uint64_t sequence = atomic_load_explicit(&pulse->sequence, memory_order_relaxed);
    uint64_t gap_ns = now_ns - h->last_ns;
    int moved = sequence != h->sequence;
    int stuck =
        !moved && atomic_load_explicit(&pulse->phase, memory_order_relaxed) == TAUT_PHASE_RUNNING;
    if (h->last_ns == 0)
        window_begin(h, native_id, now_ns);
    else if (gap_ns > 2 * TICK_NS && (h->was_active || stuck))
        h->late_ns += gap_ns - TICK_NS; /* it had no reason to rest */
    h->last_ns = now_ns;
    h->sequence = sequence;
    h->was_active = moved;
    if (now_ns - h->mark_ns >= LOOK_NS && (moved || stuck || h->id != 0))
        judge(h, native_id, now_ns);
}
