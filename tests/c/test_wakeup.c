/* io/wakeup: no signal is lost, many make one event. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include "base/clock.h"
#include "io/wakeup.h"
#include "check.h"
#include "soon.h"

#define THREADS 4
#define SIGNALS 20000

static struct {
    taut_poller *poller;
    taut_wakeup wakeup;
    _Atomic uint64_t published;
    uint64_t seen, calls;
} fx;

static void on_wakeup(void *ctx) {
    CHECK(ctx == &fx);
    fx.calls++;
    fx.seen = fx.published;
}

static void begin(void) {
    memset(&fx, 0, sizeof fx);
    CHECK_EQ(taut_poller_new(&fx.poller), 0);
    CHECK_EQ(taut_wakeup_init(&fx.wakeup, fx.poller, on_wakeup, &fx), 0);
}

static void end(void) {
    taut_wakeup_free(&fx.wakeup, fx.poller);
    taut_poller_free(fx.poller);
}

static int turn(uint64_t timeout_ns) {
    int n = taut_poller_wait(fx.poller, timeout_ns);
    CHECK(n >= 0 || n == -EINTR);
    taut_poller_dispatch(fx.poller);
    return n;
}

static void many_signals_make_one_event(void) {
    begin();
    CHECK_EQ(turn(0), 0);
    for (int i = 0; i < 10; i++)
        taut_wakeup_signal(&fx.wakeup);
    CHECK_EQ(turn(TAUT_NEVER_NS), 1);
    CHECK_EQ(fx.calls, 1);
    CHECK_EQ(turn(0), 0);
    taut_wakeup_signal(&fx.wakeup);
    CHECK_EQ(turn(TAUT_NEVER_NS), 1);
    CHECK_EQ(fx.calls, 2);
    end();
}

static void *publish(void *arg) {
    for (int i = 0; i < SIGNALS; i++) {
        atomic_fetch_add(&fx.published, 1);
        taut_wakeup_signal(&fx.wakeup);
    }
    return arg;
}

/* The loop's thread sleeps without a timeout: a lost signal would hang it here. */
static void none_is_lost(void) {
    pthread_t threads[THREADS];
    begin();
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, publish, NULL) == 0);
    uint64_t end_ns = taut_clock_now_ns() + 20 * TAUT_NS_PER_S;
    while (fx.seen < THREADS * SIGNALS) {
        CHECK(turn(20 * TAUT_NS_PER_S) != 0);
        CHECK(taut_clock_now_ns() < end_ns);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(fx.calls <= fx.published);
    end();
}

static void on_signal(int sig) {
    (void)sig;
    atomic_fetch_add(&fx.published, 1);
    taut_wakeup_signal(&fx.wakeup);
}

static void from_a_signal_handler(void) {
    struct sigaction act = {.sa_handler = on_signal}, before;
    begin();
    CHECK(sigaction(SIGUSR1, &act, &before) == 0);
    uint64_t full = UINT64_MAX - 1; /* so that the handler's write fails with EAGAIN */
    CHECK(write(fx.wakeup.watch.fd, &full, sizeof full) == sizeof full);
    errno = 1234;
    CHECK(raise(SIGUSR1) == 0);
    CHECK_EQ(errno, 1234);
    CHECK_EQ(turn(TAUT_NEVER_NS), 1);
    CHECK_EQ(fx.seen, 1);
    CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
    end();
}

static void again(void *ctx) {
    if (++fx.calls < 5)
        taut_wakeup_signal(&fx.wakeup);
}

static void signalled_by_its_own_callback(void) {
    begin();
    fx.wakeup.fn = again;
    taut_wakeup_signal(&fx.wakeup);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(turn(TAUT_NEVER_NS), 1);
    CHECK_EQ(turn(0), 0);
    CHECK_EQ(fx.calls, 5);
    end();
}

static void scenario(int may_fail) {
    memset(&fx, 0, sizeof fx);
    int rc = taut_poller_new(&fx.poller);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    if (rc < 0)
        return;
    rc = taut_wakeup_init(&fx.wakeup, fx.poller, on_wakeup, &fx);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    if (rc == 0) {
        taut_wakeup_signal(&fx.wakeup);
        CHECK_EQ(turn(TAUT_NEVER_NS), 1);
        CHECK_EQ(fx.calls, 1);
    }
    taut_wakeup_free(&fx.wakeup, fx.poller); /* harmless after a failed init */
    taut_poller_free(fx.poller);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {
    CHECK_TEST(many_signals_make_one_event),
    CHECK_TEST(none_is_lost),
    CHECK_TEST(from_a_signal_handler),
    CHECK_TEST(signalled_by_its_own_callback),
    CHECK_TEST(out_of_memory),
};
CHECK_MAIN(tests)
