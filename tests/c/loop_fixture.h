/* One loop for tests on real sockets. Single-threaded: `until` runs the loop until a condition of
 * the test holds, which it also uses to play the peer; a tick keeps the loop turning meanwhile. */
#ifndef TAUT_TESTS_LOOP_FIXTURE_H
#define TAUT_TESTS_LOOP_FIXTURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include "check.h"
#include "io/loop.h"
#include "io/sys.h"

#define TICK_NS (2 * TAUT_NS_PER_MS)
#define DEADLINE_NS (20 * TAUT_NS_PER_S)

static struct {
    taut_loop loop;
    taut_timer tick;
    int (*until)(void);
    uint64_t deadline_ns;
    unsigned ticks, waits;
} fx;

static int fx_run_ready(void *ctx, size_t count) {
    while (count-- > 0) {
        taut_entry e = taut_ring_pop(&fx.loop.ready);
        CHECK_EQ(e.kind, TAUT_ENTRY_CORE);
        taut_loop_run_core_entry(&e);
    }
    return 0;
}
static void fx_wait_begin(void *ctx) {
    fx.waits++;
}
static void fx_wait_end(void *ctx) {}
static int fx_check(void *ctx) {
    if (fx.until && fx.until()) {
        fx.until = NULL;
        taut_loop_stop(&fx.loop);
    }
    CHECK(taut_sys_now_ns() < fx.deadline_ns);
    return 0;
}
static void fx_woken(void *ctx) {}
static const taut_loop_ops fx_ops = {.run_ready = fx_run_ready,
                                     .wait_begin = fx_wait_begin,
                                     .wait_end = fx_wait_end,
                                     .check = fx_check,
                                     .woken = fx_woken};

static void fx_tick(taut_timer *t) {
    fx.ticks++;
    /* Its place in the heap was given up a moment ago: memory cannot be short. */
    CHECK_EQ(taut_timer_start(&fx.loop.timers, t, taut_sys_now_ns() + TICK_NS), 0);
}
static void fx_dropped(taut_timer *t) {}

/* 0, or negative with nothing left open when memory is out. */
static inline int fx_begin(void) {
    memset(&fx, 0, sizeof fx);
    int rc = taut_loop_init(&fx.loop, &fx_ops, NULL);
    if (rc < 0)
        return rc;
    taut_heap_node_init(&fx.tick.node);
    fx.tick.due = fx_tick;
    fx.tick.dropped = fx_dropped;
    rc = taut_timer_start(&fx.loop.timers, &fx.tick, 0);
    if (rc < 0)
        taut_loop_close(&fx.loop);
    return rc;
}
static inline void fx_end(void) {
    CHECK_EQ(taut_ring_count(&fx.loop.ready), 0);
    taut_loop_close(&fx.loop);
}
static void fx_until(int (*until)(void)) {
    fx.until = until;
    fx.deadline_ns = taut_sys_now_ns() + DEADLINE_NS;
    CHECK_EQ(taut_loop_run(&fx.loop), 0);
}

static unsigned fx_ticks_wanted;
static int fx_ticked(void) {
    return fx.ticks >= fx_ticks_wanted;
}
/* Lets the loop idle for `ticks` ticks and says how many waits that took. */
static inline unsigned fx_waits_during(unsigned ticks) {
    unsigned before = fx.waits;
    fx_ticks_wanted = fx.ticks + ticks;
    fx_until(fx_ticked);
    return fx.waits - before;
}

static int fx_listening_socket(struct sockaddr_in *addr) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof *addr;
    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(fd >= 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)addr, size), 0);
    CHECK_EQ(listen(fd, 16), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)addr, &size), 0);
    return fd;
}

/* Connected and non-blocking: fds[0] for the stream, fds[1] for the test. */
static inline void fx_tcp_pair(int fds[2]) {
    struct sockaddr_in addr;
    int listening = fx_listening_socket(&addr);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(fds[0], (struct sockaddr *)&addr, sizeof addr), 0);
    CHECK_EQ(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    fds[1] = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(fds[1] >= 0);
    close(listening);
}
static inline void fx_unix_pair(int fds[2]) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}
static inline int fx_fd_is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

#endif
