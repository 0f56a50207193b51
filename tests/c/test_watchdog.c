#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "check.h"
#include "io/watchdog.h"

#ifdef __SANITIZE_THREAD__
/* One test forks and starts a thread in the child, which the sanitizer refuses by default. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "die_after_fork=0";
}
#endif

#define MS TAUT_NS_PER_MS
#define DEADLINE_NS (20 * TAUT_NS_PER_S)

/* A loop made of nothing but its pulse, and what the watchdog said about it. */
typedef struct {
    taut_pulse pulse;
    taut_watchdog_target target;
    _Atomic uint64_t site;   /* what capture answers */
    _Atomic uint64_t hidden; /* progress that the pulse does not show */
    _Atomic int examinations, captures, notes, overs, reports, ends, unshown_calls, waiting;
    _Atomic uint64_t lasted_ns[16], ended_ns, unshown, threads_seen;
    _Atomic int moves, late; /* the loop moves on during the first so many captures */
    _Atomic int block;       /* report waits for it to be 0 */
} fake;

static uint64_t op_progress(void *ctx) {
    return ((fake *)ctx)->hidden;
}
static int op_waiting(void *ctx) {
    return ((fake *)ctx)->waiting;
}
static uint64_t op_examine(void *ctx, uint64_t now_ns) {
    ((fake *)ctx)->examinations++;
    return TAUT_NEVER_NS;
}
static uint64_t op_capture(void *ctx, taut_stall *s) {
    fake *f = ctx;
    f->captures++;
    s->late = f->late;
    if (f->captures <= f->moves)
        taut_pulse_step(&f->pulse, NULL);
    f->threads_seen = (uint64_t)gettid();
    snprintf(s->label, sizeof s->label, "at site %d", (int)f->site);
    return f->site;
}
static void op_noted(void *ctx, const taut_stall *s) {
    fake *f = ctx;
    f->notes += s->reports == 0;
}
static void op_over(void *ctx, const taut_stall *s) {
    fake *f = ctx;
    CHECK(s->now_ns - s->since_ns >= s->threshold_ns / 2);
    f->overs++;
}
static void op_report(void *ctx, const taut_stall *s, uint64_t unshown) {
    fake *f = ctx;
    if (f->reports < 16)
        f->lasted_ns[f->reports] = s->now_ns - s->since_ns;
    f->unshown += unshown;
    f->reports++;
    while (f->block)
        usleep(200);
}
static void op_ended(void *ctx, const taut_stall *s) {
    fake *f = ctx;
    f->ended_ns = s->now_ns - s->since_ns;
    f->ends++;
}
static void op_unshown(void *ctx, const char *label, uint64_t count, uint64_t longest_ns) {
    fake *f = ctx;
    CHECK(strncmp(label, "at site ", 8) == 0 && longest_ns > 0);
    f->unshown += count;
    f->unshown_calls++;
}
static const taut_watchdog_ops ops = {
    .progress = op_progress,
    .waiting = op_waiting,
    .capture = op_capture,
    .noted = op_noted,
    .over = op_over,
    .report = op_report,
    .ended = op_ended,
    .unshown = op_unshown,
};

static uint64_t next_site = 1; /* sites are remembered for the life of the process */

static void fake_start_on(fake *f, uint64_t threshold_ns, int wait_fd) {
    memset(f, 0, sizeof *f);
    f->site = ++next_site;
    f->target.pulse = &f->pulse;
    f->target.ops = &ops;
    f->target.ctx = f;
    f->target.wait_fd = wait_fd;
    f->target.threshold_ns = threshold_ns;
    CHECK_EQ(taut_watchdog_add(&f->target), 0);
}
static void fake_start(fake *f, uint64_t threshold_ns) {
    fake_start_on(f, threshold_ns, -1);
}

/* Waits for the watchdog to have done something; never for time to pass. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        uint64_t end_ = taut_clock_now_ns() + DEADLINE_NS;                                         \
        while (!(condition)) {                                                                     \
            if (taut_clock_now_ns() > end_)                                                        \
                check_fail(__FILE__, __LINE__, #condition);                                        \
            usleep(200);                                                                           \
        }                                                                                          \
    } while (0)

static void stall_reports_at_1_2_4_times(void) {
    fake f;
    fake_start(&f, 10 * MS);
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    uint64_t began = taut_clock_now_ns();
    AWAIT(f.reports == 4);
    uint64_t real = taut_clock_now_ns() - began;
    CHECK_EQ(f.ends, 0); /* all of this during the stall */
    for (int i = 0; i < 4; i++)
        CHECK(f.lasted_ns[i] >= (UINT64_C(10) << i) * MS && f.lasted_ns[i] <= real);
    CHECK_EQ(f.target.stalls, 1);
    CHECK(f.threads_seen == (uint64_t)taut_watchdog_thread_id() &&
          f.threads_seen != (uint64_t)gettid());
    taut_pulse_phase(&f.pulse, TAUT_PHASE_POLLING);
    AWAIT(f.ends == 1);
    CHECK(f.ended_ns >= f.lasted_ns[3]);
    CHECK_EQ(f.target.longest_ns, f.ended_ns);
    taut_watchdog_remove(&f.target);
    CHECK_EQ(f.ends, 1);
}

/* Switched off, it is looked at for its examinations all the same, as long as it works. */
static void examined_though_not_watched(void) {
    static taut_watchdog_ops examining;
    fake f = {.target = {.pulse = &f.pulse, .ops = &examining, .ctx = &f, .wait_fd = -1}};
    examining = ops;
    examining.examine = op_examine;
    f.site = ++next_site;
    f.target.examined = 1;
    CHECK_EQ(taut_watchdog_add(&f.target), 0);
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING); /* and hangs */
    int seen = f.examinations;
    AWAIT(f.examinations >= seen + 7);
    CHECK_EQ(f.captures, 0);
    CHECK_EQ(f.target.stalls, 0);
    CHECK_EQ(f.pulse.parked, 0);
    taut_pulse_phase(&f.pulse, TAUT_PHASE_POLLING);
    AWAIT(f.pulse.parked);
    seen = f.examinations;
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    if (f.pulse.parked)
        taut_pulse_unpark(&f.pulse);
    AWAIT(f.examinations > seen);
    taut_watchdog_remove(&f.target);
}

/* The longest that this thread went without a CPU. */
static uint64_t move_for(fake *f, int how, uint64_t duration_ns) {
    uint64_t before = taut_clock_now_ns(), end = before + duration_ns, longest = 0;
    taut_pulse_phase(&f->pulse, how == 2 ? TAUT_PHASE_POLLING : TAUT_PHASE_RUNNING);
    while (before < end) {
        if (how == 0)
            taut_pulse_step(&f->pulse, f); /* busy with many short entries */
        else if (how == 1)
            f->hidden++;
        usleep(100);
        uint64_t now = taut_clock_now_ns();
        longest = now - before > longest ? now - before : longest;
        before = now;
    }
    return longest;
}

static void moving_loop_is_no_stall(void) {
    uint64_t longest = 0, end = taut_clock_now_ns() + DEADLINE_NS;
    fake f;
    do { /* a host that lets it stand still for long makes a stall of it, rightly */
        fake_start(&f, 40 * MS);
        longest = 0;
        for (int how = 0; how < 3; how++) {
            uint64_t gap = move_for(&f, how, 200 * MS);
            longest = gap > longest ? gap : longest;
        }
        taut_watchdog_remove(&f.target);
    } while (longest > 15 * MS && taut_clock_now_ns() < end);
    CHECK(longest > 15 * MS || f.captures == 0);
    CHECK(longest > 15 * MS || f.target.stalls == 0);
}

static void unsure_phase_is_asked_about(void) {
    fake f;
    fake_start(&f, 10 * MS);
    f.waiting = 1;
    taut_pulse_phase(&f.pulse, TAUT_PHASE_UNSURE);
    uint64_t end = taut_clock_now_ns() + 60 * MS;
    while (taut_clock_now_ns() < end)
        usleep(1000);
    CHECK_EQ(f.captures, 0);
    f.waiting = 0;
    AWAIT(f.reports == 1);
    f.waiting = 1;
    AWAIT(f.ends == 1);
    taut_watchdog_remove(&f.target);
}

static void owner_may_dismiss(void) {
    fake f;
    fake_start(&f, 5 * MS);
    f.site = 0;
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    AWAIT(f.captures == 1);
    uint64_t end = taut_clock_now_ns() + 60 * MS;
    while (taut_clock_now_ns() < end)
        usleep(1000);
    CHECK_EQ(f.captures, 1); /* not asked again before something moves */
    CHECK_EQ(f.reports, 0);
    f.site = ++next_site;
    taut_pulse_step(&f.pulse, NULL);
    AWAIT(f.reports == 1);
    taut_watchdog_remove(&f.target); /* during the stall: its end is told from here */
    CHECK_EQ(f.ends, 1);
    CHECK(f.notes == 1 && f.overs == 1);
}

static void capture_that_came_too_late(void) {
    fake f;
    for (int late = 0; late < 2; late++) {
        fake_start(&f, 5 * MS);
        f.moves = 3;
        f.late = late;
        taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
        AWAIT(f.reports == 1);
        CHECK_EQ(f.captures, late ? 1 : 4); /* what was captured is not told of the next entry */
        taut_watchdog_remove(&f.target);
    }
}

static void site_that_repeats_is_told_in_the_end(void) {
    fake f;
    fake_start(&f, 4 * MS);
    /* All at one site: the first is reported, others come too soon after it. */
    for (uint64_t stalls = 1; stalls <= 5; stalls++) {
        taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
        AWAIT(f.target.stalls == stalls);
        taut_pulse_phase(&f.pulse, TAUT_PHASE_POLLING);
        AWAIT(!taut_watchdog_busy(&f.target));
    }
    CHECK(f.reports >= 1);
    CHECK_EQ(f.unshown_calls, 0);
    taut_watchdog_remove(&f.target);
    CHECK_EQ(f.unshown_calls, 1);
    CHECK(f.unshown >= 1);
    CHECK_EQ((uint64_t)f.ends + f.unshown, 5); /* each is told one way or the other */
    CHECK_EQ(f.notes, 5);                      /* and noted in any case */
    CHECK_EQ(f.overs, 5);
}

static long switches_of(int tid) {
    char path[64], line[128];
    long voluntary = -1;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "voluntary_ctxt_switches: %ld", &voluntary) == 1)
            break;
    fclose(file);
    CHECK(voluntary >= 0);
    return voluntary;
}

static void idle_process_has_no_wakeups(void) {
    fake f;
    fake_start(&f, 10 * MS);
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    taut_pulse_phase(&f.pulse, TAUT_PHASE_POLLING);
    AWAIT(atomic_load(&f.pulse.parked) == 1);
    usleep(20000); /* from setting the flag into the futex */
    long before = switches_of(taut_watchdog_thread_id());
    usleep(300000);
    CHECK_EQ(switches_of(taut_watchdog_thread_id()), before);
    /* The first work wakes it, and a stall right then is seen. */
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    CHECK_EQ(atomic_load(&f.pulse.parked), 0);
    AWAIT(f.reports == 1);
    taut_watchdog_remove(&f.target);
}

static void parked_poll_ends_by_event_and_nudge(void) {
    fake f;
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    for (int by_event = 0; by_event < 2; by_event++) {
        fake_start_on(&f, 10 * MS, fds[0]);
        f.waiting = 1;
        taut_pulse_phase(&f.pulse, TAUT_PHASE_UNSURE);
        AWAIT(atomic_load(&f.pulse.parked) == 1);
        if (by_event) {
            CHECK_EQ(write(fds[1], "x", 1), 1);
            f.waiting = 0; /* the callback of that event hangs */
        } else {
            taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
            taut_watchdog_nudge();
        }
        AWAIT(f.reports == 1);
        taut_watchdog_remove(&f.target);
    }
    close(fds[0]);
    close(fds[1]);
}

static void *remove_in_thread(void *arg) {
    taut_watchdog_remove(&((fake *)arg)->target);
    return NULL;
}

static void remove_waits_for_a_report(void) {
    fake f;
    pthread_t thread;
    fake_start(&f, 5 * MS);
    f.block = 1;
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    AWAIT(f.reports == 1);
    CHECK_EQ(taut_watchdog_busy(&f.target), 1);
    CHECK_EQ(pthread_create(&thread, NULL, remove_in_thread, &f), 0);
    usleep(5000);
    CHECK_EQ(f.target.live, 1);
    f.block = 0;
    pthread_join(thread, NULL);
    CHECK_EQ(f.ends, 1);
    memset(&f, 0, sizeof f); /* nobody looks at it any more */
    taut_watchdog_remove(&f.target);
}

static void several_loops_and_settings(void) {
    fake a, b, off;
    fake_start(&a, 10 * MS);
    fake_start(&b, 20 * MS);
    fake_start(&off, 0);
    taut_pulse_phase(&off.pulse, TAUT_PHASE_RUNNING);
    taut_pulse_phase(&a.pulse, TAUT_PHASE_RUNNING);
    taut_pulse_phase(&b.pulse, TAUT_PHASE_RUNNING);
    AWAIT(a.reports >= 2 && b.reports >= 1);
    CHECK_EQ(off.captures, 0);
    taut_watchdog_threshold_set(&off.target, 10 * MS);
    AWAIT(off.reports >= 1);
    CHECK_EQ(taut_watchdog_add(&a.target), -EALREADY);
    taut_watchdog_remove(&a.target);
    taut_watchdog_remove(&off.target);
    int reports = b.reports;
    AWAIT(b.reports > reports);
    taut_watchdog_remove(&b.target);
    /* With all of them off the thread has nothing to wait for, until one is switched on. */
    fake_start(&off, 0);
    taut_pulse_phase(&off.pulse, TAUT_PHASE_RUNNING);
    usleep(5000);
    fake_start(&a, 10 * MS);
    taut_pulse_phase(&a.pulse, TAUT_PHASE_RUNNING);
    AWAIT(a.reports >= 1);
    taut_watchdog_remove(&a.target);
    taut_watchdog_threshold_set(&off.target, 10 * MS);
    AWAIT(off.reports >= 1);
    taut_watchdog_remove(&off.target);
}

static void fork_starts_afresh(void) {
    fake f;
    fake_start(&f, 10 * MS);
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    AWAIT(f.reports == 1);
    pid_t child = fork();
    if (child == 0) {
        CHECK_EQ(taut_watchdog_thread_id(), 0);
        taut_watchdog_remove(&f.target); /* the parent's: harmless */
        CHECK_EQ(f.ends, 0);
        fake_start(&f, 10 * MS);
        taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
        AWAIT(f.reports == 1);
        taut_watchdog_remove(&f.target);
        CHECK_EQ(f.ends, 1);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    taut_watchdog_remove(&f.target);
}

static void shutdown_and_start_again(void) {
    fake f;
    fake_start(&f, 10 * MS);
    CHECK(taut_watchdog_thread_id() !=
          0); /* it has begun: none of its fds comes in anybody's way */
    taut_watchdog_shutdown();
    CHECK_EQ(taut_watchdog_thread_id(), 0);
    CHECK_EQ(f.target.live, 0);
    taut_watchdog_shutdown();
    fake_start(&f, 10 * MS);
    taut_pulse_phase(&f.pulse, TAUT_PHASE_RUNNING);
    AWAIT(f.reports == 1);
    taut_watchdog_remove(&f.target);
    taut_watchdog_shutdown();
}

static const check_test tests[] = {
    CHECK_TEST(stall_reports_at_1_2_4_times),
    CHECK_TEST(examined_though_not_watched),
    CHECK_TEST(moving_loop_is_no_stall),
    CHECK_TEST(unsure_phase_is_asked_about),
    CHECK_TEST(owner_may_dismiss),
    CHECK_TEST(capture_that_came_too_late),
    CHECK_TEST(site_that_repeats_is_told_in_the_end),
    CHECK_TEST(idle_process_has_no_wakeups),
    CHECK_TEST(parked_poll_ends_by_event_and_nudge),
    CHECK_TEST(remove_waits_for_a_report),
    CHECK_TEST(several_loops_and_settings),
    CHECK_TEST(fork_starts_afresh),
    CHECK_TEST(shutdown_and_start_again),
};

CHECK_MAIN(tests)
