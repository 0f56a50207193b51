#include "io/dgram.h"
#include <sys/un.h>
#include "base/err.h"
#include "loop_fixture.h"

#define COUNT 200
#define UDP_SIZE_MAX 65507

/* One socket under test and its peer, a plain one. Datagrams are numbered. */
static struct {
    taut_dgram d;
    int fd, peer;
    struct sockaddr_in peer_addr;
    uint32_t got, wanted;    /* datagrams that came, in order */
    uint32_t peer_got;       /* ... at the peer */
    int empty_got, nameless; /* datagrams without bytes, or a sender */
    size_t size_last;        /* of the last that came */
    int errors[COUNT], error_count;
    int pauses, resumes, closes, closed_err, released;
    int pause_at; /* reading is stopped by that datagram */
    int stop_at;  /* the loop is interrupted by that datagram */
    int echo, own_sent, own_rc, own_reads;
    int may_fail;
} t;

static void answer(const void *bytes, size_t size, const struct sockaddr *addr, socklen_t n) {
    int rc = taut_dgram_send(&t.d, bytes, size, addr, n, NULL);
    CHECK(rc == 0 || (t.may_fail && rc == -ENOMEM));
}

static void on_received(taut_dgram *d, const uint8_t *bytes, size_t size,
                        const struct sockaddr *from, socklen_t from_size) {
    uint32_t number = UINT32_MAX;
    CHECK_EQ(t.closes, 0);
    t.size_last = size;
    t.empty_got += size == 0;
    t.nameless += from_size == 0;
    if (size < sizeof number)
        return;
    memcpy(&number, bytes, sizeof number);
    if (!t.may_fail)
        CHECK_EQ(number, t.got);
    t.got++;
    if (t.echo)
        answer(bytes, size, from_size > 0 ? from : NULL, from_size);
    if ((int)number == t.pause_at)
        taut_dgram_read_stop(d);
    if ((int)number == t.stop_at)
        taut_loop_interrupt(&fx.loop, TAUT_E_INTERRUPTED);
}
static void on_readable(taut_dgram *d) {
    uint8_t byte;
    CHECK(taut_sys_recv(t.fd, &byte, 1) >= 0);
    t.own_reads++;
}
static int on_send_own(taut_dgram *d, void *token) {
    CHECK(token == &t.own_sent);
    if (t.own_rc == 0)
        t.own_sent++;
    return t.own_rc;
}
static void on_error(taut_dgram *d, int err) {
    CHECK(t.error_count < COUNT);
    t.errors[t.error_count++] = err;
}
static void on_pause(taut_dgram *d) {
    CHECK_EQ(t.pauses++, t.resumes);
}
static void on_resume(taut_dgram *d) {
    CHECK_EQ(++t.resumes, t.pauses);
}
static void on_closed(taut_dgram *d, int err) {
    CHECK_EQ(t.closes++, 0);
    CHECK(fx_fd_is_open(t.fd));
    t.closed_err = err;
    memset(d, 0xdd, sizeof *d); /* the owner may free it here */
}
static void on_release(void *token) {
    t.released++;
}

static const taut_dgram_ops ops = {.received = on_received,
                                   .readable = on_readable,
                                   .send_own = on_send_own,
                                   .error = on_error,
                                   .pause_writing = on_pause,
                                   .resume_writing = on_resume,
                                   .closed = on_closed,
                                   .release = on_release};

static int udp_socket(struct sockaddr_in *addr) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), room = 4 << 20;
    socklen_t size = sizeof *addr;
    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(fd >= 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)addr, size), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)addr, &size), 0);
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room), 0);
    return fd;
}
static void udp_pair(int fds[2]) {
    struct sockaddr_in addr;
    fds[0] = udp_socket(&addr);
    fds[1] = udp_socket(&t.peer_addr);
    CHECK_EQ(connect(fds[1], (struct sockaddr *)&addr, sizeof addr), 0);
}
static void unix_pair(int fds[2]) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static int made[2];
static void made_pair(int fds[2]) {
    fds[0] = made[0];
    fds[1] = made[1];
}

/* 0, or negative when memory is out and there is nothing to do. */
static int begin(void (*pair)(int fds[2])) {
    int fds[2];
    memset(&t, 0, sizeof t);
    t.pause_at = t.stop_at = -1;
    int rc = fx_begin();
    if (rc < 0)
        return rc;
    pair(fds);
    t.fd = fds[0];
    t.peer = fds[1];
    taut_dgram_open(&t.d, &fx.loop, t.fd, pair == udp_pair ? AF_INET : AF_UNIX, &ops);
    rc = taut_dgram_read_start(&t.d);
    if (rc < 0) {
        taut_dgram_discard(&t.d);
        CHECK(!fx_fd_is_open(t.fd));
        close(t.peer);
        fx_end();
    }
    return rc;
}
static int is_closed(void) {
    return t.closes > 0;
}
static void end(void) {
    if (!t.closes) {
        taut_dgram_abort(&t.d, -ECONNABORTED);
        CHECK_EQ(t.closes, 0); /* never within a call */
        fx_until(is_closed);
        CHECK_EQ(t.closed_err, -ECONNABORTED);
    }
    CHECK(!fx_fd_is_open(t.fd));
    close(t.peer);
    fx_end();
}

static const struct sockaddr *to_peer(void) {
    return (struct sockaddr *)&t.peer_addr;
}
static void peer_send(uint32_t from, uint32_t count) {
    for (uint32_t i = from; i < from + count; i++)
        CHECK_EQ(send(t.peer, &i, sizeof i, 0), sizeof i);
}
static void peer_recv(void) {
    uint32_t number;
    while (recv(t.peer, &number, sizeof number, MSG_DONTWAIT) == sizeof number) {
        if (!t.may_fail)
            CHECK_EQ(number, t.peer_got);
        t.peer_got++;
    }
}
static int all_came(void) {
    return t.got == t.wanted;
}
static int peer_has_all(void) {
    peer_recv();
    return t.peer_got == t.wanted;
}
static int heard_error(void) {
    return t.error_count > 0;
}

static void one_at_a_time_and_many(void) {
    CHECK_EQ(begin(udp_pair), 0);
    for (uint32_t i = 0; i < 40; i++) { /* through single reads, and the looks for more */
        peer_send(i, 1);
        t.wanted = i + 1;
        fx_until(all_came);
    }
    peer_send(40, COUNT); /* more than one event may read */
    t.wanted += COUNT;
    fx_until(all_came);
    CHECK_EQ(t.error_count, 0);
    CHECK_EQ(send(t.peer, "", 0, 0), 0);
    peer_send(t.got, 1);
    t.wanted++;
    fx_until(all_came);
    CHECK_EQ(t.empty_got, 1);
    end();
}

static void echo(void) {
    CHECK_EQ(begin(udp_pair), 0);
    t.echo = 1;
    peer_send(0, COUNT);
    t.wanted = COUNT;
    fx_until(peer_has_all);
    CHECK_EQ(t.d.pending_size, 0);
    end();
}

static uint32_t sends_number;
static void send_some(void *arg) {
    int count = *(int *)arg;
    for (int i = 0; i < count; i++, sends_number++)
        answer(&sends_number, sizeof sends_number, to_peer(), sizeof t.peer_addr);
    CHECK(t.may_fail || t.d.pending_size == (count > 1 ? 4u * ((unsigned)(count - 1) % 64) : 0));
}
static void sends_of_a_turn(void) {
    static int counts[] = {1, 2, 64, 65, 66, 150};
    CHECK_EQ(begin(udp_pair), 0);
    sends_number = 0;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        t.wanted += (uint32_t)counts[i];
        CHECK_EQ(taut_loop_call_soon(&fx.loop, send_some, &counts[i]), 0);
        fx_until(peer_has_all);
    }
    CHECK_EQ(t.pauses, 0);
    send_some(&counts[0]); /* the loop does not run: at once, again and again */
    send_some(&counts[0]);
    peer_recv();
    CHECK_EQ(t.peer_got, t.wanted + 2);
    end();
}

static void send_oversized(void *arg) {
    static uint8_t bytes[UDP_SIZE_MAX + 1];
    uint32_t number = 0;
    CHECK_EQ(taut_dgram_send(&t.d, bytes, sizeof bytes, to_peer(), sizeof t.peer_addr, NULL),
             -EMSGSIZE);
    for (; number < 3; number++) {
        answer(&number, sizeof number, to_peer(), sizeof t.peer_addr);
        t.d.high = SIZE_MAX / 2; /* keeps the big ones in the queue */
        answer(bytes, sizeof bytes, to_peer(), sizeof t.peer_addr);
    }
    CHECK_EQ(t.error_count, 0);
}
static void oversized(void) {
    uint8_t *bytes = calloc(1, UDP_SIZE_MAX);
    CHECK_EQ(begin(udp_pair), 0);
    CHECK_EQ(taut_loop_call_soon(&fx.loop, send_oversized, NULL), 0);
    t.wanted = 3; /* the good ones between the bad */
    fx_until(peer_has_all);
    CHECK_EQ(t.error_count, 3);
    CHECK_EQ(t.errors[2], -EMSGSIZE);
    for (int i = 0; i < 3; i++) /* the largest, read both ways */
        CHECK_EQ(send(t.peer, bytes, UDP_SIZE_MAX, 0), UDP_SIZE_MAX);
    t.got = 0;
    t.may_fail = 1; /* no numbers in them */
    t.wanted = 3;
    fx_until(all_came);
    CHECK_EQ(t.size_last, UDP_SIZE_MAX);
    end();
    free(bytes);
}

static void refused(void) {
    CHECK_EQ(begin(udp_pair), 0);
    CHECK_EQ(connect(t.fd, to_peer(), sizeof t.peer_addr), 0);
    close(t.peer);
    t.peer = -1;
    answer("abcd", 4, NULL, 0);
    fx_until(heard_error);
    CHECK_EQ(t.errors[0], -ECONNREFUSED);
    taut_dgram_read_stop(&t.d); /* then an error must not keep the loop busy */
    answer("abcd", 4, NULL, 0);
    CHECK(fx_waits_during(10) <= 12);
    CHECK_EQ(taut_dgram_read_start(&t.d), 0);
    t.error_count = 0;
    fx_until(heard_error);
    end();
}

/* A Unix socket takes a few datagrams only, and says so. */
static void full(void) {
    static char bytes[1000];
    int token = 0, sent = 0;
    CHECK_EQ(begin(unix_pair), 0);
    t.d.header_size = 8;
    taut_dgram_set_water_marks(&t.d, 1000, 5000);
    for (; t.pauses == 0; sent++) {
        memcpy(bytes, &sent, sizeof sent);
        CHECK_EQ(taut_dgram_send(&t.d, bytes, sizeof bytes, NULL, 0, sent % 2 ? &token : NULL), 0);
        CHECK(sent < COUNT * 10);
        if (sent % 2) /* borrowed: is read when it is sent */
            memcpy(bytes, &sent, sizeof sent);
    }
    CHECK_EQ(t.d.pending_size, 5 * 1008);
    CHECK(t.released < sent / 2);
    t.may_fail = 1; /* the borrowed ones share their bytes */
    taut_dgram_close(&t.d);
    CHECK_EQ(taut_dgram_read_start(&t.d), 0);
    answer(bytes, sizeof bytes, NULL, 0); /* still queued */
    CHECK_EQ(t.closes, 0);
    t.wanted = (uint32_t)sent + 1;
    int n = 0;
    while (!t.closes) {
        fx_waits_during(1);
        n += recv(t.peer, bytes, sizeof bytes, MSG_DONTWAIT) > 0;
    }
    while (recv(t.peer, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        n++;
    CHECK_EQ(n, sent + 1);
    CHECK_EQ(t.closed_err, 0);
    CHECK_EQ(t.resumes, 1);
    CHECK_EQ(t.released, sent / 2);
    end();
}

/* From then on all that waits is read at once. */
static void burst(void) {
    peer_send(t.got, 10);
    t.wanted = t.got + 10;
    fx_until(all_came);
    CHECK(t.d.bursts);
}

/* A Unix socket that is not connected is writable for epoll, however full its peer's queue is. */
static void full_peer_does_not_spin(void) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int length =
        snprintf(addr.sun_path + 1, sizeof addr.sun_path - 1, "taut-test-%d", (int)getpid());
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    int fds[2], sent = 0, got = 0;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 2; i++)
            CHECK((fds[i] = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) >= 0);
        CHECK_EQ(bind(fds[1], (struct sockaddr *)&addr, size), 0);
        made[0] = fds[0];
        made[1] = fds[1];
        CHECK_EQ(begin(made_pair), 0);
        for (sent = got = 0; t.d.queue_count < 5; sent++)
            answer("abcd", 4, (struct sockaddr *)&addr, size);
        CHECK(fx_waits_during(10) < 150); /* thousands, if it did */
        CHECK_EQ(t.d.queue_count, 5);
        if (round == 1)
            break; /* ends with the timer under way */
        while (t.d.queue_count > 0) {
            got += recv(t.peer, fds, 4, MSG_DONTWAIT) == 4;
            fx_waits_during(1);
        }
        while (recv(t.peer, fds, 4, MSG_DONTWAIT) == 4)
            got++;
        CHECK_EQ(got, sent);
        end();
    }
    end();
}

static void paused_within_a_batch(void) {
    CHECK_EQ(begin(udp_pair), 0);
    burst();
    t.pause_at = 13;
    peer_send(10, 10);
    fx_waits_during(3);
    CHECK_EQ(t.got, 14);
    CHECK(t.d.kept_first != NULL);
    peer_send(20, 5);
    CHECK_EQ(taut_dgram_read_start(&t.d), 0);
    CHECK_EQ(t.got, 14);
    t.wanted = 25;
    fx_until(all_came);
    burst();
    t.pause_at = 37;
    peer_send(35, 10);
    fx_waits_during(3);
    CHECK_EQ(t.got, 38);
    CHECK(t.d.kept_first != NULL);
    taut_dgram_close(&t.d); /* what was kept goes */
    fx_until(is_closed);
    CHECK_EQ(t.got, 38);
    CHECK_EQ(t.closed_err, 0);
    end();
}

static void interrupted_within_a_batch(void) {
    CHECK_EQ(begin(udp_pair), 0);
    burst();
    t.stop_at = 13;
    peer_send(10, 10);
    fx.deadline_ns = taut_sys_now_ns() + DEADLINE_NS;
    CHECK_EQ(taut_loop_run(&fx.loop), TAUT_E_INTERRUPTED);
    CHECK_EQ(t.got, 14);
    CHECK(t.d.kept_first != NULL);
    t.wanted = 20;
    fx_until(all_came);
    end();
}

static void own(void) {
    CHECK_EQ(begin(unix_pair), 0);
    CHECK_EQ(taut_dgram_send_own(&t.d, 10, &t.own_sent), 0); /* at once */
    CHECK_EQ(t.own_sent, 1);
    CHECK_EQ(t.released, 1);
    t.own_rc = -EPIPE;
    CHECK_EQ(taut_dgram_send_own(&t.d, 10, &t.own_sent), -EPIPE);
    CHECK_EQ(t.released, 2);
    t.own_rc = -EAGAIN;
    CHECK_EQ(taut_dgram_send_own(&t.d, 10, &t.own_sent), 0);
    answer("abcd", 4, NULL, 0);
    CHECK_EQ(taut_dgram_send_own(&t.d, 10, &t.own_sent), 0);
    CHECK_EQ(t.d.pending_size, 24);
    t.own_rc = 0;
    taut_dgram_close(&t.d);
    fx_until(is_closed);
    CHECK_EQ(t.own_sent, 3);
    CHECK_EQ(t.released, 4);
    CHECK_EQ(t.error_count, 0);
    CHECK_EQ(recv(t.peer, t.errors, 8, 0), 4);
    end();

    CHECK_EQ(begin(unix_pair), 0);
    t.d.own_io = 1;
    CHECK_EQ(send(t.peer, "a", 1, 0), 1);
    fx_waits_during(2);
    CHECK_EQ(t.own_reads, 1);
    end();
}

/* Addresses that do not fit into the queue's entries. */
static void long_addresses(void) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int token = 0, named = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int length = snprintf(addr.sun_path + 1, sizeof addr.sun_path - 1,
                          "taut-test-dgram-%d-with-a-name-that-is-rather-long", (int)getpid());
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    uint32_t number;
    CHECK_EQ(bind(named, (struct sockaddr *)&addr, size), 0);
    CHECK_EQ(begin(unix_pair), 0);
    for (number = 0; t.d.pending_size < 40; number++)
        CHECK_EQ(taut_dgram_send(&t.d, &number, sizeof number, (struct sockaddr *)&addr, size,
                                 number % 2 ? &token : NULL),
                 0);
    memset(addr.sun_path, 0, sizeof addr.sun_path);
    while (t.d.pending_size > 0) {
        uint32_t bytes[2];
        fx_waits_during(1);
        CHECK_EQ(recv(named, bytes, sizeof bytes, 0), sizeof number);
    }
    CHECK_EQ(t.error_count, 0);
    close(named);
    end();
}

static void after_the_end(void) {
    CHECK_EQ(begin(udp_pair), 0);
    taut_dgram_close(&t.d);
    answer("abcd", 4, to_peer(), sizeof t.peer_addr); /* as asyncio: the socket is there still */
    CHECK_EQ(t.d.dropped_writes, 0);
    t.d.connected = 1;
    answer("abcd", 4, NULL, 0);
    CHECK_EQ(taut_dgram_send_own(&t.d, 1, &t.own_sent), 0);
    CHECK_EQ(t.d.dropped_writes, 2);
    CHECK_EQ(t.released, 1);
    taut_dgram_close(&t.d);
    taut_dgram_abort(&t.d, -EPIPE);
    fx_until(is_closed);
    CHECK_EQ(t.closed_err, 0);
    t.may_fail = 1; /* no number in it */
    peer_recv();
    CHECK_EQ(t.peer_got, 1);
    end();
}

static void discarded(void) {
    int token = 0;
    CHECK_EQ(begin(unix_pair), 0);
    t.own_rc = -EAGAIN;
    CHECK_EQ(taut_dgram_send_own(&t.d, 1, &t.own_sent), 0);
    CHECK_EQ(taut_dgram_send(&t.d, "a", 1, NULL, 0, &token), 0);
    fx_end(); /* the loop goes first */
    taut_dgram_discard(&t.d);
    CHECK(!fx_fd_is_open(t.fd));
    CHECK_EQ(t.released, 2);
    CHECK_EQ(t.closes, 0);
    close(t.peer);
}

static void idle_sockets(void) {
    enum { SOCKETS = 200 };
    static taut_dgram many[SOCKETS];
    struct sockaddr_in addr;
    CHECK_EQ(begin(udp_pair), 0);
    for (int i = 0; i < SOCKETS; i++) {
        taut_dgram_open(&many[i], &fx.loop, udp_socket(&addr), AF_INET, &ops);
        CHECK_EQ(taut_dgram_read_start(&many[i]), 0);
    }
    CHECK(fx_waits_during(20) <= 22);
    for (int i = 0; i < SOCKETS; i++)
        taut_dgram_discard(&many[i]);
    end();
}

static int gave_up;
static int settled(void) {
    peer_recv();
    return ++gave_up > 20;
}
static void scenario(int may_fail) {
    static int count = 70;
    if (begin(udp_pair) < 0)
        return;
    t.d.bursts = 1; /* which a pause and memory for what was read then need */
    t.may_fail = 1; /* echoes and others: no order of numbers at the peer */
    t.echo = 1;
    t.pause_at = 5;
    sends_number = 0;
    gave_up = 0;
    peer_send(0, 30);
    (void)!taut_loop_call_soon(&fx.loop, send_some, &count);
    fx_until(settled);
    (void)!taut_dgram_read_start(&t.d);
    gave_up = 0;
    fx_until(settled);
    if (!may_fail)
        CHECK_EQ(t.got, 30);
    if (!t.closes) {
        taut_dgram_close(&t.d);
        fx_until(is_closed);
    }
    end();
}
static void every_allocation(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {
    CHECK_TEST(one_at_a_time_and_many),
    CHECK_TEST(echo),
    CHECK_TEST(sends_of_a_turn),
    CHECK_TEST(oversized),
    CHECK_TEST(refused),
    CHECK_TEST(full),
    CHECK_TEST(full_peer_does_not_spin),
    CHECK_TEST(paused_within_a_batch),
    CHECK_TEST(interrupted_within_a_batch),
    CHECK_TEST(own),
    CHECK_TEST(long_addresses),
    CHECK_TEST(after_the_end),
    CHECK_TEST(discarded),
    CHECK_TEST(idle_sockets),
    CHECK_TEST(every_allocation),
};
CHECK_MAIN(tests)
