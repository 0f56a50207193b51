/* io/sigpipe: every byte once and in order. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>
#include "base/clock.h"
#include "io/sigpipe.h"
#include "check.h"

static struct {
    taut_poller *poller;
    taut_sigpipe pipe;
    unsigned char seen[1 << 17];
    size_t count, batches;
    int free_in_callback;
} fx;

static void on_signals(void *ctx, const unsigned char *signums, size_t count) {
    CHECK(ctx == &fx);
    CHECK(count > 0 && fx.count + count <= sizeof fx.seen);
    memcpy(fx.seen + fx.count, signums, count);
    fx.count += count;
    fx.batches++;
    if (fx.free_in_callback)
        taut_sigpipe_free(&fx.pipe, fx.poller);
}

static int begin(void) {
    memset(&fx, 0, sizeof fx);
    int rc = taut_poller_new(&fx.poller);
    if (rc < 0)
        return rc;
    rc = taut_sigpipe_init(&fx.pipe, fx.poller, on_signals, &fx);
    if (rc < 0)
        taut_poller_free(fx.poller);
    return rc;
}

static void end(void) {
    taut_sigpipe_free(&fx.pipe, fx.poller);
    taut_sigpipe_free(&fx.pipe, fx.poller); /* harmless */
    taut_poller_free(fx.poller);
}

static void send_bytes(size_t count) {
    unsigned char bytes[600];
    CHECK(count <= sizeof bytes);
    for (size_t i = 0; i < count; i++)
        bytes[i] = (unsigned char)(1 + i % 64);
    CHECK_EQ(write(fx.pipe.write_fd, bytes, count), count);
}

static int turn(void) {
    int n = taut_poller_wait(fx.poller, 0);
    CHECK(n >= 0);
    taut_poller_dispatch(fx.poller);
    return n;
}

static void in_order(void) {
    /* Around the size of a batch, where a read comes out just full. */
    static const size_t counts[] = {1, 2, 255, 256, 257, 512, 600};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        CHECK_EQ(begin(), 0);
        CHECK_EQ(turn(), 0);
        send_bytes(counts[k]);
        CHECK_EQ(turn(), 1);
        CHECK_EQ(fx.count, counts[k]);
        for (size_t i = 0; i < counts[k]; i++)
            CHECK_EQ(fx.seen[i], 1 + i % 64);
        CHECK_EQ(turn(), 0);
        end();
    }
}

static void drained_by_hand(void) {
    CHECK_EQ(begin(), 0);
    taut_sigpipe_drain(&fx.pipe);
    CHECK_EQ(fx.batches, 0);
    send_bytes(3);
    taut_sigpipe_drain(&fx.pipe);
    CHECK_EQ(fx.count, 3);
    CHECK_EQ(turn(), 0);
    end();
}

/* A handler writes without waiting: a full pipe refuses, and what it took arrives. */
static void full_pipe(void) {
    CHECK_EQ(begin(), 0);
    size_t sent = 0;
    while (sent < sizeof fx.seen && write(fx.pipe.write_fd, "\2", 1) == 1)
        sent++;
    CHECK(sent >= 1 << 16);
    turn();
    CHECK_EQ(fx.count, sent);
    end();
}

static void freed_by_its_callback(void) {
    CHECK_EQ(begin(), 0);
    send_bytes(600);
    fx.free_in_callback = 1;
    turn();
    CHECK_EQ(fx.batches, 1);
    CHECK_EQ(taut_poller_count(fx.poller), 0);
    end();
}

static void on_sigusr1(int sig) {
    unsigned char c = (unsigned char)sig;
    ssize_t rc = write(fx.pipe.write_fd, &c, 1);
    (void)rc;
}

static void from_a_handler(void) {
    struct sigaction act = {.sa_handler = on_sigusr1}, before;
    CHECK_EQ(begin(), 0);
    CHECK(sigaction(SIGUSR1, &act, &before) == 0);
    CHECK(raise(SIGUSR1) == 0);
    CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
    turn();
    CHECK_EQ(fx.count, 1);
    CHECK_EQ(fx.seen[0], SIGUSR1);
    end();
}

static void scenario(int may_fail) {
    int rc = begin();
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    if (rc < 0)
        return;
    send_bytes(300);
    turn();
    CHECK_EQ(fx.count, 300);
    end();
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {
    CHECK_TEST(in_order),       CHECK_TEST(drained_by_hand),
    CHECK_TEST(full_pipe),      CHECK_TEST(freed_by_its_callback),
    CHECK_TEST(from_a_handler), CHECK_TEST(out_of_memory),
};
CHECK_MAIN(tests)
