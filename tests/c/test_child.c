/* io/child: each end is told once, with its code, and nothing is left behind. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "io/child.h"
#include "io/process.h"
#include "check.h"

#define MANY 20
#define DEADLINE_NS (20 * TAUT_NS_PER_S)

static taut_poller *poller;
static int ends;

static void on_ended(taut_child *c) {
    CHECK(c->state != TAUT_CHILD_RUNS);
    CHECK(c->poller == NULL);
    ends++;
}

static void begin(unsigned without) {
    taut_process_without = without;
    ends = 0;
    CHECK_EQ(taut_poller_new(&poller), 0);
}

static void end(void) {
    CHECK_EQ(taut_poller_count(poller), 0);
    taut_poller_free(poller);
    taut_process_without = 0;
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_EQ(errno, ECHILD);
}

static void start(taut_child *c, const char *script) {
    static const char *const paths[] = {"/bin/sh", NULL};
    char *const argv[] = {"sh", "-c", (char *)(uintptr_t)script, NULL}, *const env[] = {NULL};
    taut_process_spec spec = {.paths = paths,
                              .argv = argv,
                              .envp = env,
                              .stdio = {-1, -1, -1},
                              .process_group = -1,
                              .umask = -1};
    taut_process_step failed;
    pid_t pid;
    int pidfd;
    CHECK_EQ(taut_process_spawn(&spec, &pid, &pidfd, &failed), 0);
    taut_child_init(c, pid, pidfd);
}

static void turn_until(int wanted) {
    uint64_t deadline_ns = taut_clock_now_ns() + DEADLINE_NS;
    while (ends < wanted) {
        CHECK(taut_clock_now_ns() < deadline_ns);
        int n = taut_poller_wait(poller, TAUT_NS_PER_S);
        CHECK(n >= 0 || n == -EINTR);
        taut_poller_dispatch(poller);
    }
}

static const unsigned kernels[] = {0, TAUT_PROCESS_NO_PIDFD};

static void ends_are_told_with_their_code(void) {
    static const char *const scripts[] = {"exit 0", "exit 3", "kill -9 $$", "kill -TERM $$"};
    static const int codes[] = {0, 3, -SIGKILL, -SIGTERM};
    for (size_t k = 0; k < 2; k++) {
        begin(kernels[k]);
        for (int i = 0; i < 4; i++) {
            taut_child c;
            start(&c, scripts[i]);
            CHECK_EQ(c.pidfd >= 0, k == 0);
            CHECK_EQ(taut_child_watch(&c, poller, on_ended), 0);
            turn_until(i + 1);
            CHECK_EQ(c.state, TAUT_CHILD_ENDED);
            CHECK_EQ(c.code, codes[i]);
            CHECK_EQ(taut_child_poll(&c), 1);
            CHECK_EQ(taut_child_signal(&c, SIGKILL), 0); /* reaches nobody */
            taut_child_free(&c);
        }
        end();
    }
}

static void many_children_end_at_once(void) {
    for (size_t k = 0; k < 2; k++) {
        taut_child children[MANY];
        begin(kernels[k]);
        for (int i = 0; i < MANY; i++) {
            start(&children[i], "read x; exit 9");
            CHECK_EQ(taut_child_watch(&children[i], poller, on_ended), 0);
        }
        for (int i = 0; i < MANY; i++)
            CHECK_EQ(taut_child_signal(&children[i], SIGKILL), 0);
        turn_until(MANY);
        for (int i = 0; i < MANY; i++) {
            CHECK(children[i].code == -SIGKILL || children[i].code == 9); /* stdin may be closed */
            taut_child_free(&children[i]);
        }
        CHECK_EQ(ends, MANY);
        end();
    }
}

/* Whoever asks first reaps; the poller still tells, and the same. */
static void asking_takes_nothing_away(void) {
    for (size_t k = 0; k < 2; k++) {
        taut_child c;
        begin(kernels[k]);
        start(&c, "exit 4");
        CHECK_EQ(taut_child_watch(&c, poller, on_ended), 0);
        while (!taut_child_poll(&c))
            ;
        CHECK_EQ(c.code, 4);
        CHECK_EQ(ends, 0);
        turn_until(1);
        CHECK_EQ(c.code, 4);
        taut_child_free(&c);
        end();
    }
}

static void a_stolen_child_is_lost(void) {
    for (size_t k = 0; k < 2; k++) {
        taut_child c;
        begin(kernels[k]);
        start(&c, "exit 4");
        CHECK_EQ(waitpid(c.pid, NULL, 0), c.pid);
        CHECK_EQ(taut_child_watch(&c, poller, on_ended), 0);
        turn_until(1);
        CHECK_EQ(c.state, TAUT_CHILD_LOST);
        CHECK_EQ(c.code, TAUT_CHILD_LOST_CODE);
        taut_child_free(&c);
        end();
    }
}

static void signals_are_sent_and_refused(void) {
    taut_child c;
    begin(0);
    start(&c, "read x < /dev/zero; :");
    CHECK_EQ(taut_child_poll(&c), 0);
    CHECK_EQ(taut_child_signal(&c, 12345), -EINVAL);
    CHECK_EQ(taut_child_signal(&c, 0), 0);
    CHECK_EQ(taut_child_watch(&c, poller, on_ended), 0);
    CHECK_EQ(taut_child_signal(&c, SIGTERM), 0);
    turn_until(1);
    CHECK_EQ(c.code, -SIGTERM);
    taut_child_free(&c);
    end();
}

/* A child that nobody watches any more is neither killed nor reaped. */
static void unwatched_it_goes_on(void) {
    for (size_t k = 0; k < 2; k++) {
        taut_child c;
        int fds = check_fd_count();
        begin(kernels[k]);
        start(&c, "exit 6");
        CHECK_EQ(taut_child_watch(&c, poller, on_ended), 0);
        taut_child_unwatch(&c);
        taut_child_unwatch(&c);
        siginfo_t info;
        CHECK_EQ(waitid(P_PID, (id_t)c.pid, &info, WEXITED | WNOWAIT), 0);
        CHECK_EQ(taut_poller_wait(poller, 0), 0);
        CHECK_EQ(ends, 0);
        CHECK_EQ(taut_child_poll(&c), 1);
        CHECK_EQ(c.code, 6);
        taut_child_free(&c);
        end();
        while (check_fd_count() != fds) /* the waiting thread's end of the pipe */
            ;
    }
}

static void memory_walk(int may_fail) {
    taut_child c;
    taut_mem_stats before, after;
    taut_mem_stats_get(&before);
    if (taut_poller_new(&poller) < 0) {
        CHECK(may_fail);
        return;
    }
    pid_t pid = fork(); /* the walk is about the watching */
    if (pid == 0)
        _exit(2);
    taut_process_without = TAUT_PROCESS_NO_PIDFD;
    ends = 0;
    taut_child_init(&c, pid, -1);
    if (taut_child_watch(&c, poller, on_ended) < 0) {
        CHECK(may_fail);
        CHECK(c.poller == NULL);
        while (!taut_child_poll(&c))
            ;
    } else {
        turn_until(1);
    }
    CHECK_EQ(c.code, 2);
    taut_child_free(&c);
    end();
    do
        taut_mem_stats_get(&after);
    while (after.live_blocks != before.live_blocks);
}

static void memory_may_be_short(void) {
    check_every_allocation(memory_walk);
}

static const check_test tests[] = {
    CHECK_TEST(ends_are_told_with_their_code), CHECK_TEST(many_children_end_at_once),
    CHECK_TEST(asking_takes_nothing_away),     CHECK_TEST(a_stolen_child_is_lost),
    CHECK_TEST(signals_are_sent_and_refused),  CHECK_TEST(unwatched_it_goes_on),
    CHECK_TEST(memory_may_be_short),
};
CHECK_MAIN(tests)
