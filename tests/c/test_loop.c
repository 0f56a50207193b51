/* io/loop: the order within an iteration, stopping, interrupts, bursts, deferred work, waking. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>
#include "base/clock.h"
#include "io/loop.h"
#include "io/sys.h"
#include "check.h"

#define LOG_MAX 64

static struct {
    taut_loop loop;
    char log[LOG_MAX + 1]; /* one letter per thing that ran */
    size_t logged;
    size_t runs, waits, wakes, checks, batch_max, bursts;
    int in_burst;
    int ready_err, check_err;
    _Atomic int stop_when_woken; /* set by another thread */
    void (*in_wait)(void);
} fx;

static void say(char c) {
    if (fx.logged < LOG_MAX)
        fx.log[fx.logged++] = c;
}
static void say_arg(void *arg) {
    say((char)(uintptr_t)arg);
}
static void stop(void *arg) {
    say('!');
    taut_loop_stop(&fx.loop);
}

static int op_run_ready(void *ctx, size_t count) {
    CHECK(ctx == &fx);
    CHECK(count > 0 && count <= taut_ring_count(&fx.loop.ready));
    fx.in_burst = 1;
    fx.batch_max = count > fx.batch_max ? count : fx.batch_max;
    while (count-- > 0 && fx.loop.interrupt_err == 0) {
        taut_entry e = taut_ring_pop(&fx.loop.ready);
        CHECK_EQ(e.kind, TAUT_ENTRY_CORE);
        taut_loop_run_core_entry(&e);
        fx.runs++;
    }
    return fx.ready_err;
}
static void op_ready_done(void *ctx) {
    CHECK(ctx == &fx);
    fx.bursts += (size_t)fx.in_burst;
    fx.in_burst = 0;
}
static void op_wait_begin(void *ctx) {
    CHECK(!fx.in_burst);
    CHECK_EQ(fx.loop.pulse.phase, TAUT_PHASE_POLLING);
    fx.waits++;
    if (fx.in_wait)
        fx.in_wait();
}
static void op_wait_end(void *ctx) {
    CHECK_EQ(fx.loop.pulse.phase, TAUT_PHASE_RUNNING);
}
static int op_check(void *ctx) {
    CHECK_EQ(fx.loop.pulse.phase, TAUT_PHASE_RUNNING);
    CHECK(!fx.in_burst);
    fx.checks++;
    return fx.check_err;
}
static void op_woken(void *ctx) {
    CHECK(ctx == &fx);
    fx.wakes++;
    say('w');
    if (fx.stop_when_woken)
        taut_loop_stop(&fx.loop);
}
static const taut_loop_ops ops = {op_run_ready, op_wait_begin, op_wait_end,
                                  op_check,     op_woken,      op_ready_done};

static int begin(void) {
    memset(&fx, 0, sizeof fx);
    return taut_loop_init(&fx.loop, &ops, &fx);
}
static void end(void) {
    taut_loop_close(&fx.loop);
}
static void soon(void (*fn)(void *), char c) {
    CHECK_EQ(taut_loop_call_soon(&fx.loop, fn, (void *)(uintptr_t)c), 0);
}
static void run(const char *expected) {
    CHECK_EQ(taut_loop_run(&fx.loop), 0);
    if (strcmp(fx.log, expected) != 0)
        fprintf(stderr, "  expected %s, got %s\n", expected, fx.log);
    CHECK(strcmp(fx.log, expected) == 0);
    memset(fx.log, 0, sizeof fx.log);
    fx.logged = 0;
}

typedef struct {
    taut_timer timer;
    char letter;
    uint64_t fired_ns;
    int dropped, stops;
} clockwork;

/* As an owner does it: firing queues the callback. */
static void on_due(taut_timer *t) {
    clockwork *c = TAUT_CONTAINER(t, clockwork, timer);
    CHECK(!fx.in_burst);
    c->fired_ns = taut_clock_now_ns();
    soon(say_arg, c->letter);
    if (c->stops)
        soon(stop, 0);
}
static void on_dropped(taut_timer *t) {
    TAUT_CONTAINER(t, clockwork, timer)->dropped++;
}
static void timer_start_at(clockwork *c, char letter, uint64_t deadline_ns) {
    *c = (clockwork){.timer = {.due = on_due, .dropped = on_dropped}, .letter = letter};
    taut_heap_node_init(&c->timer.node);
    CHECK_EQ(taut_timer_start(&fx.loop.timers, &c->timer, deadline_ns), 0);
}
static void timer_start(clockwork *c, char letter, uint64_t delay_ns) {
    timer_start_at(c, letter, taut_clock_now_ns() + delay_ns);
}

typedef struct {
    taut_watch watch;
    char letter;
    void (*then)(void *arg);
} source;

static void on_event(taut_watch *w, uint32_t events) {
    source *s = TAUT_CONTAINER(w, source, watch);
    CHECK_EQ(events, TAUT_READ);
    say(s->letter);
    if (s->then)
        s->then(s);
}
static void source_open(source *s, char letter, void (*then)(void *arg)) {
    *s = (source){.letter = letter, .then = then};
    taut_watch_init(&s->watch, eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC), on_event);
    CHECK_EQ(taut_poller_want(fx.loop.poller, &s->watch, TAUT_READ), 0);
}
static void source_close(source *s) {
    taut_poller_remove(fx.loop.poller, &s->watch, 1);
    close(s->watch.fd);
}

/* stop() before the run: exactly one iteration, in which all that is ready now still runs. */
static void one_iteration(void) {
    source io;
    clockwork t;
    CHECK_EQ(begin(), 0);
    source_open(&io, 'i', NULL);
    timer_start(&t, 't', 0);
    soon(say_arg, 'a');
    taut_loop_stop(&fx.loop);
    run("ait");
    CHECK_EQ(fx.waits, 0);
    CHECK_EQ(fx.loop.pulse.iterations, 1);
    taut_loop_stop(&fx.loop);
    run("i");
    source_close(&io);
    end();
}

static void queue_two(void *arg) {
    say('q');
    soon(say_arg, 'x');
    soon(say_arg, 'y');
}

/* What arrived before the run comes after what was queued before it; but in the same iteration, and
 * a foreign fd's readiness ahead of the timers. */
static struct {
    taut_watch own, foreign;
    int fds[2];
} arrived;
static void on_own(taut_watch *w, uint32_t events) {
    say('o');
    taut_poller_remove(fx.loop.poller, w, 1);
}
static void on_foreign(taut_watch *w, uint32_t events) {
    soon(say_arg, 'f'); /* as the owner of such a watch does it */
    CHECK_EQ(taut_poller_arm(fx.loop.poller, w, 0), 0);
}
static void queued_before_the_run_goes_first(void) {
    clockwork c;
    CHECK_EQ(begin(), 0);
    for (int i = 0; i < 2; i++)
        CHECK((arrived.fds[i] = eventfd(1, EFD_CLOEXEC)) >= 0);
    taut_watch_init(&arrived.own, arrived.fds[0], on_own);
    taut_watch_init(&arrived.foreign, arrived.fds[1], on_foreign);
    arrived.foreign.foreign = 1;
    CHECK_EQ(taut_poller_want(fx.loop.poller, &arrived.own, TAUT_READ), 0);
    CHECK_EQ(taut_poller_arm(fx.loop.poller, &arrived.foreign, TAUT_READ), 0);
    timer_start_at(&c, 't', 1);
    soon(say_arg, '1');
    soon(stop, 0);
    run("1!fot");
    taut_poller_remove(fx.loop.poller, &arrived.foreign, 1);
    end();
    close(arrived.fds[0]);
    close(arrived.fds[1]);
}

static void stop_ends_after_the_batch(void) {
    CHECK_EQ(begin(), 0);
    soon(say_arg, 'a');
    soon(stop, 0);
    soon(queue_two, 0);
    soon(say_arg, 'b');
    run("a!qb");
    CHECK_EQ(taut_ring_count(&fx.loop.ready), 2);
    soon(stop, 0);
    run("xy!"); /* and the next run goes on with them */
    CHECK_EQ(fx.loop.pulse.phase, TAUT_PHASE_STOPPED);
    CHECK_EQ(fx.loop.pulse.thread_id, 0);
    end();
}

static void chain(void *arg) {
    soon(chain, 0);
}

static void chain_of_three(void *arg) {
    say('3');
    soon(stop, 0);
}
static void chain_of_four(void *arg) {
    say('4');
    soon(chain_of_three, 0);
}

/* The owner hears of the end of a burst, not of each batch; and before anything else runs. */
static void batches_of_a_burst_end_together(void) {
    CHECK_EQ(begin(), 0);
    fx.loop.burst_ticks = UINT64_MAX;
    fx.loop.calibrate_window_ns = 0;
    soon(chain_of_four, 0);
    run("43!");
    CHECK_EQ(fx.batch_max, 1);
    CHECK_EQ(fx.bursts, 1);
    CHECK(!fx.in_burst);
    end();
}

/* An endless chain costs no poll per link, yet I/O and timers get their turn. */
static void chains_do_not_starve_others(void) {
    source io;
    clockwork t;
    CHECK_EQ(begin(), 0);
    fx.loop.burst_ticks = UINT64_MAX; /* however slow this machine is */
    fx.loop.calibrate_window_ns = 0;
    soon(chain, 0);
    timer_start(&t, 't', 5 * TAUT_NS_PER_MS);
    t.stops = 1;
    run("t!");
    CHECK(fx.loop.pulse.iterations <= fx.runs / 1024 + 2);
    CHECK(fx.batch_max <= 3);
    CHECK_EQ(fx.waits, 0);
    source_open(&io, 'i', stop);
    run("i!");
    source_close(&io);
    end();
}

static void spin_300_us(void *arg) {
    uint64_t end_ns = taut_clock_now_ns() + 300000;
    while (taut_clock_now_ns() < end_ns)
        ;
    soon(spin_300_us, 0);
}

/* Slow callbacks: one each, then a look at I/O. */
static void bursts_are_bounded_in_time(void) {
    clockwork t;
    CHECK_EQ(begin(), 0);
    fx.loop.calibrate_window_ns = 0; /* a wrong calibration is not the subject here */
    soon(spin_300_us, 0);
    timer_start(&t, 't', 20 * TAUT_NS_PER_MS);
    t.stops = 1;
    run("t!");
    CHECK(fx.loop.pulse.iterations >= fx.runs - 2);
    end();
}

/* As if the loop had begun ten seconds ago, and the counter had moved by `ticks` since. */
static uint64_t burst_after(uint64_t ticks) {
    fx.loop.calibrate_ns = taut_sys_now_ns() - 10 * TAUT_NS_PER_S;
    fx.loop.calibrate_ticks = taut_sys_ticks() - ticks;
    fx.loop.calibrate_window_ns = 1;
    taut_loop_stop(&fx.loop);
    run("");
    CHECK_EQ(fx.loop.calibrate_window_ns, 0); /* ten seconds are enough for good */
    return fx.loop.burst_ticks;
}

static void bursts_are_calibrated(void) {
    CHECK_EQ(begin(), 0);
    uint64_t burst = burst_after(10 * TAUT_NS_PER_S); /* one tick a nanosecond: 200 us */
    CHECK(burst >= 199000 && burst <= 260000);
    burst = burst_after(30 * TAUT_NS_PER_S);
    CHECK(burst >= 597000 && burst <= 780000);
    CHECK(burst_after(0) >= 1000); /* absurd counters do not make absurd bursts */
    CHECK(burst_after(UINT64_MAX / 2) <= 10000000);
    end();
}

static taut_deferred deferred[4];

static void on_deferred(void *arg) {
    size_t i = (size_t)(uintptr_t)arg;
    say((char)('0' + i));
    if (i == 1) { /* itself and another one: both in the next turn */
        taut_loop_defer(&fx.loop, &deferred[2]);
        taut_loop_undefer(&deferred[3]);
    }
    if (i == 2)
        taut_loop_defer(&fx.loop, &deferred[0]);
}
static void defer_three(void *arg) {
    say('d');
    taut_loop_defer(&fx.loop, &deferred[0]);
    taut_loop_defer(&fx.loop, &deferred[1]);
    taut_loop_defer(&fx.loop, &deferred[3]); /* taken back by 1 */
    taut_loop_defer(&fx.loop, &deferred[0]); /* once */
}

static void deferred_work(void) {
    CHECK_EQ(begin(), 0);
    for (size_t i = 0; i < 4; i++)
        taut_deferred_init(&deferred[i], on_deferred, (void *)(uintptr_t)i);
    soon(defer_three, 0);
    soon(stop, 0);
    run("d!01"); /* before the run returns */
    taut_loop_stop(&fx.loop);
    run("2"); /* not lost */
    clockwork t;
    timer_start(&t, 't', 0);
    t.stops = 1;
    run("t!0");
    taut_loop_defer(&fx.loop, &deferred[0]);
    end(); /* forgotten, but usable */
    taut_loop_undefer(&deferred[0]);
    CHECK(taut_list_empty(&deferred[0].link));
}

static void defer_and_stop(void *arg) {
    static int rounds;
    say('d');
    if (++rounds < 3)
        taut_loop_defer(&fx.loop, arg);
    else
        taut_loop_stop(&fx.loop);
}

/* Nothing else is ready: the loop must not go to sleep on deferred work. */
static void deferred_work_keeps_it_awake(void) {
    taut_deferred d;
    CHECK_EQ(begin(), 0);
    taut_deferred_init(&d, defer_and_stop, &d);
    taut_loop_defer(&fx.loop, &d);
    run("ddd");
    CHECK_EQ(fx.waits, 0);
    end();
}

static void interrupt(void *arg) {
    say('X');
    taut_loop_interrupt(&fx.loop, -ECANCELED);
}

static void interrupts(void) {
    source a, b;
    taut_deferred d;
    CHECK_EQ(begin(), 0);
    /* From the ready queue: the rest of the batch stays queued, end-of-turn work still runs. */
    taut_deferred_init(&d, say_arg, (void *)(uintptr_t)'d');
    taut_loop_defer(&fx.loop, &d);
    soon(interrupt, 0);
    soon(say_arg, 'a');
    CHECK_EQ(taut_loop_run(&fx.loop), -ECANCELED);
    CHECK(strcmp(fx.log, "Xd") == 0);
    soon(stop, 0);
    fx.logged = 0;
    run("a!");
    /* From I/O: no other callback first, and none is lost. */
    source_open(&a, 'i', interrupt);
    source_open(&b, 'i', interrupt);
    CHECK_EQ(taut_loop_run(&fx.loop), -ECANCELED);
    CHECK(strncmp(fx.log, "iX", 3) == 0);
    fx.logged = 0;
    a.then = b.then = NULL;
    taut_loop_stop(&fx.loop);
    run("ii");
    source_close(&a);
    source_close(&b);
    /* From end-of-turn work. */
    taut_deferred_init(&d, interrupt, NULL);
    taut_loop_defer(&fx.loop, &d);
    CHECK_EQ(taut_loop_run(&fx.loop), -ECANCELED);
    end();
}

static void errors_end_the_run(void) {
    CHECK_EQ(begin(), 0);
    fx.check_err = -EPROTO;
    CHECK_EQ(taut_loop_run(&fx.loop), -EPROTO);
    fx.check_err = 0;
    fx.ready_err = -EILSEQ;
    soon(say_arg, 'a');
    CHECK_EQ(taut_loop_run(&fx.loop), -EILSEQ);
    fx.ready_err = 0;
    soon(stop, 0);
    run("a!");
    CHECK(!fx.loop.running);
    end();
}

static void timers_in_order_and_never_early(void) {
    clockwork timers[3], dead, last;
    CHECK_EQ(begin(), 0);
    uint64_t start = taut_clock_now_ns();
    timer_start_at(&timers[0], 'c', start + 3 * TAUT_NS_PER_MS);
    timer_start_at(&timers[1], 'a', start + TAUT_NS_PER_MS);
    timer_start_at(&timers[2], 'b', start + 2 * TAUT_NS_PER_MS);
    timer_start_at(&dead, 'x', start);
    timer_start_at(&last, 'd', start + 4 * TAUT_NS_PER_MS);
    last.stops = 1;
    taut_timer_cancel(&fx.loop.timers, &dead.timer);
    run("abcd!");
    CHECK(timers[1].fired_ns - start >= TAUT_NS_PER_MS);
    CHECK(timers[0].fired_ns >= timers[0].timer.deadline_ns);
    CHECK(last.fired_ns >= last.timer.deadline_ns);
    CHECK_EQ(dead.dropped, 1);
    timer_start(&last, 'e', TAUT_NS_PER_S);
    end();
    CHECK_EQ(last.dropped, 1);
}

static void queue_from_another_thread(void) {
    fx.in_wait = NULL;
    for (int i = 0; i < 2000; i++) /* grows the ring while the loop sleeps */
        soon(say_arg, 'z');
    soon(stop, 0);
    taut_loop_wake(&fx.loop);
}

static void work_arrives_during_the_wait(void) {
    CHECK_EQ(begin(), 0);
    fx.in_wait = queue_from_another_thread;
    CHECK_EQ(taut_loop_run(&fx.loop), 0);
    CHECK_EQ(fx.runs, 2001);
    CHECK_EQ(fx.wakes, 1);
    CHECK_EQ(fx.waits, 1);
    end();
}

static void *wake_often(void *arg) {
    for (int i = 0; i < 1000; i++)
        taut_loop_wake(&fx.loop);
    fx.stop_when_woken = 1;
    taut_loop_wake(&fx.loop);
    return arg;
}

static pthread_t waker;
static void start_waker(void) {
    fx.in_wait = NULL;
    CHECK(pthread_create(&waker, NULL, wake_often, NULL) == 0);
}

static void woken_from_a_thread(void) {
    CHECK_EQ(begin(), 0);
    taut_loop_wake(&fx.loop); /* before the run: seen by the first poll */
    taut_loop_stop(&fx.loop);
    run("w");
    fx.in_wait = start_waker;
    CHECK_EQ(taut_loop_run(&fx.loop), 0);
    CHECK(fx.wakes >= 2);
    CHECK(pthread_join(waker, NULL) == 0);
    end();
}

static void on_alarm(int sig) {
    (void)sig;
}

static void start_alarm(void) {
    struct itimerval soon_and_often = {{0, 1000}, {0, 1000}};
    fx.in_wait = NULL;
    fx.check_err = -EINTR;
    CHECK(setitimer(ITIMER_REAL, &soon_and_often, NULL) == 0);
}

/* A signal ends the wait, and the interpreter gets to look at it. */
static void signals_are_checked(void) {
    struct sigaction act = {.sa_handler = on_alarm}, before;
    struct itimerval off = {0};
    CHECK_EQ(begin(), 0);
    CHECK(sigaction(SIGALRM, &act, &before) == 0);
    fx.in_wait = start_alarm;
    CHECK_EQ(taut_loop_run(&fx.loop), -EINTR);
    CHECK_EQ(fx.checks, 2);
    CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
    CHECK(sigaction(SIGALRM, &before, NULL) == 0);
    end();
}

static void queue_many(void *arg) {
    for (int i = 0; i < 1000; i++) /* more than the ring's first size */
        if (taut_loop_call_soon(&fx.loop, say_arg, (void *)(uintptr_t)'m') < 0)
            break;
}

static void scenario(int may_fail) {
    source io;
    taut_deferred d;
    int rc = begin();
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    if (rc < 0)
        return;
    io = (source){.letter = 'i'};
    taut_watch_init(&io.watch, eventfd(1, EFD_CLOEXEC), on_event);
    rc = taut_poller_want(fx.loop.poller, &io.watch, TAUT_READ);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    clockwork t = {.timer = {.due = on_due, .dropped = on_dropped}, .letter = 't'};
    taut_heap_node_init(&t.timer.node);
    rc = taut_timer_start(&fx.loop.timers, &t.timer, TAUT_NEVER_NS - 1);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    taut_deferred_init(&d, stop, NULL);
    taut_loop_defer(&fx.loop, &d);
    soon(queue_many, 0);
    CHECK_EQ(taut_loop_run(&fx.loop), 0);
    /* The stop may come between the batches: what is left stays queued. One entry more is the
     * dispatch of what had arrived before the run. */
    CHECK(may_fail || fx.runs + taut_ring_count(&fx.loop.ready) == 1002);
    source_close(&io);
    end();
    CHECK_EQ(t.dropped, rc == 0);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {
    CHECK_TEST(one_iteration),
    CHECK_TEST(queued_before_the_run_goes_first),
    CHECK_TEST(stop_ends_after_the_batch),
    CHECK_TEST(batches_of_a_burst_end_together),
    CHECK_TEST(chains_do_not_starve_others),
    CHECK_TEST(bursts_are_bounded_in_time),
    CHECK_TEST(bursts_are_calibrated),
    CHECK_TEST(deferred_work),
    CHECK_TEST(deferred_work_keeps_it_awake),
    CHECK_TEST(interrupts),
    CHECK_TEST(errors_end_the_run),
    CHECK_TEST(timers_in_order_and_never_early),
    CHECK_TEST(work_arrives_during_the_wait),
    CHECK_TEST(woken_from_a_thread),
    CHECK_TEST(signals_are_checked),
    CHECK_TEST(out_of_memory),
};
CHECK_MAIN(tests)
