#include <sys/resource.h>
#include "io/listener.h"
#include "loop_fixture.h"

#define FDS_MAX 64

static struct {
    taut_listener *listener; /* on the heap: the sanitizer sees a use after on_freed */
    struct sockaddr_in addr;
    int fd, clients[FDS_MAX], client_count;
    int accepted[FDS_MAX], accepted_count, accepted_expected;
    int starved, starved_err, failed, freed;
    int close_in_accepted;
} t;

static void on_freed(taut_listener *ln) {
    CHECK(ln == t.listener);
    CHECK_EQ(t.freed++, 0);
    free(ln);
}
static void on_accepted(taut_listener *ln, int fd, const struct sockaddr *peer, socklen_t size) {
    CHECK_EQ(t.freed, 0);
    CHECK_EQ(size, sizeof(struct sockaddr_in));
    CHECK_EQ(peer->sa_family, AF_INET);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    t.accepted[t.accepted_count++] = fd;
    if (t.close_in_accepted)
        taut_listener_close(ln, on_freed);
}
static void on_starved(taut_listener *ln, int err) {
    t.starved++;
    t.starved_err = err;
}
static void on_failed(taut_listener *ln, int err) {
    t.failed++;
}
static const taut_listener_ops ops = {
    .accepted = on_accepted, .starved = on_starved, .failed = on_failed};

static int begin(int own_fd, int backlog) {
    memset(&t, 0, sizeof t);
    int rc = fx_begin();
    if (rc < 0)
        return rc;
    t.fd = fx_listening_socket(&t.addr);
    t.listener = malloc(sizeof *t.listener);
    CHECK(t.listener != NULL);
    taut_listener_init(t.listener, &fx.loop, t.fd, own_fd, backlog, &ops);
    return 0;
}
static void end(void) {
    if (!t.listener->freed)
        taut_listener_close(t.listener, on_freed);
    fx_end();
    CHECK_EQ(t.freed, 1);
    for (int i = 0; i < t.client_count; i++)
        close(t.clients[i]);
    for (int i = 0; i < t.accepted_count; i++)
        close(t.accepted[i]);
}
static void dial(int count) {
    for (int i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(fd >= 0);
        CHECK_EQ(connect(fd, (struct sockaddr *)&t.addr, sizeof t.addr), 0);
        t.clients[t.client_count++] = fd;
    }
    t.accepted_expected = t.client_count;
}
static int has_accepted_all(void) {
    return t.accepted_count == t.accepted_expected;
}
static int is_starved(void) {
    return t.starved > 0;
}
static int is_freed(void) {
    return t.freed;
}

static void accept_some(int may_fail) {
    if (begin(1, 3) < 0) {
        CHECK(may_fail);
        return;
    }
    int rc = taut_listener_start(t.listener);
    CHECK(rc == 0 || may_fail);
    if (rc == 0) {
        CHECK_EQ(taut_listener_start(t.listener), 0);
        dial(10); /* more than one batch of 3 */
        fx_until(has_accepted_all);
    }
    end();
    CHECK(!fx_fd_is_open(t.fd));
    CHECK_EQ(t.starved + t.failed, 0);
}
static void accepting(void) {
    check_every_allocation(accept_some);
}

/* One connection at a time costs one accept each; a flood is taken in growing batches. */
static void batches(void) {
    CHECK_EQ(begin(1, 20), 0);
    CHECK_EQ(taut_listener_start(t.listener), 0);
    for (int i = 0; i < 5; i++) {
        dial(1);
        fx_until(has_accepted_all);
        CHECK_EQ(t.listener->batch, 1);
        fx_waits_during(1); /* iterations that have nothing to accept */
    }
    dial(12); /* fewer than the queue of the socket takes */
    fx_until(has_accepted_all);
    CHECK_EQ(t.listener->batch, 8); /* 1, 2, 4, 8: 5 are left for the last */
    end();
}

static void stop_and_start(void) {
    CHECK_EQ(begin(1, 100), 0);
    CHECK_EQ(taut_listener_start(t.listener), 0);
    taut_listener_stop(t.listener);
    taut_listener_stop(t.listener);
    dial(2);
    CHECK(fx_waits_during(10) < 30);
    CHECK_EQ(t.accepted_count, 0);
    CHECK_EQ(taut_listener_start(t.listener), 0);
    fx_until(has_accepted_all);
    end();
}

static void foreign_socket(void) {
    CHECK_EQ(begin(0, 100), 0);
    CHECK_EQ(taut_listener_start(t.listener), 0);
    dial(3);
    fx_until(has_accepted_all);
    end();
    CHECK(fx_fd_is_open(t.fd));
    close(t.fd);
}

static void close_within_accepted(void) {
    CHECK_EQ(begin(1, 100), 0);
    t.close_in_accepted = 1;
    CHECK_EQ(taut_listener_start(t.listener), 0);
    dial(3);
    fx_until(is_freed);
    CHECK_EQ(t.accepted_count, 1);
    fx_end();
    close(t.accepted[0]);
    for (int i = 0; i < t.client_count; i++)
        close(t.clients[i]);
}

/* Leaves no number free for accept. */
static struct rlimit limit_fds(void) {
    struct rlimit old, tight;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    int lowest_free = fcntl(0, F_DUPFD_CLOEXEC, 0);
    CHECK(lowest_free >= 0);
    close(lowest_free);
    tight = old;
    tight.rlim_cur = (rlim_t)lowest_free;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
    return old;
}

/* Out of descriptors: it says so once a second, does not spin, and goes on by itself. Valgrind
 * keeps the limit itself: accept takes the connection, which is then closed. */
static void out_of_fds(void) {
    if (check_under_valgrind())
        return;
    CHECK_EQ(begin(1, 100), 0);
    CHECK_EQ(taut_listener_start(t.listener), 0);
    dial(2);
    struct rlimit old = limit_fds();
    fx_until(is_starved);
    CHECK_EQ(t.starved_err, -EMFILE);
    CHECK(fx_waits_during(20) < 60);
    CHECK_EQ(t.starved, 1);
    CHECK_EQ(t.accepted_count, 0);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    uint64_t from_ns = taut_sys_now_ns();
    fx_until(has_accepted_all);
    CHECK(taut_sys_now_ns() - from_ns < 2 * TAUT_NS_PER_S);
    CHECK_EQ(t.starved, 1);
    end();
}

static void close_while_backing_off(void) {
    if (check_under_valgrind())
        return;
    CHECK_EQ(begin(1, 100), 0);
    CHECK_EQ(taut_listener_start(t.listener), 0);
    dial(1);
    struct rlimit old = limit_fds();
    fx_until(is_starved);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    taut_listener_close(t.listener, on_freed);
    CHECK(!fx_fd_is_open(t.fd));
    CHECK_EQ(t.accepted_count, 0);
    fx_end(); /* the retry timer is dropped at the latest here, and the listener freed */
    CHECK_EQ(t.freed, 1);
    close(t.clients[0]);
}

/* A socket that does not listen any more has an error for every accept: no flood of reports. */
static void lasting_error(void) {
    CHECK_EQ(begin(1, 100), 0);
    CHECK_EQ(taut_listener_start(t.listener), 0);
    shutdown(t.fd, SHUT_RDWR);
    CHECK(fx_waits_during(30) < 100);
    CHECK_EQ(t.failed, 1);
    end();
}

static const check_test tests[] = {
    CHECK_TEST(accepting),      CHECK_TEST(stop_and_start),
    CHECK_TEST(foreign_socket), CHECK_TEST(close_within_accepted),
    CHECK_TEST(out_of_fds),     CHECK_TEST(close_while_backing_off),
    CHECK_TEST(lasting_error),  CHECK_TEST(batches),
};
CHECK_MAIN(tests)
