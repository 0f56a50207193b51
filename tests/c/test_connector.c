#include <sys/un.h>
#include "io/connector.h"
#include "loop_fixture.h"

static struct {
    taut_connector *connector; /* on the heap: the sanitizer sees a use after `done` */
    int fd, done, err;
} t;

static void on_done(taut_connector *c, int err) {
    CHECK(c == t.connector);
    CHECK_EQ(t.done++, 0);
    t.err = err;
    free(c);
}
static int is_done(void) {
    return t.done;
}

static int begin(int family) {
    memset(&t, 0, sizeof t);
    int rc = fx_begin();
    if (rc < 0)
        return rc;
    t.fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(t.fd >= 0);
    t.connector = malloc(sizeof *t.connector);
    CHECK(t.connector != NULL);
    return 0;
}
static void end(void) {
    close(t.fd);
    CHECK_EQ(taut_poller_count(fx.loop.poller), 1); /* the loop's own wake-up */
    fx_end();
}
static int start(const void *addr, socklen_t size) {
    int rc = taut_connector_start(t.connector, &fx.loop, t.fd, addr, size, on_done);
    if (rc != 0)
        free(t.connector); /* no `done` follows */
    return rc;
}

static void connect_to_listener(int may_fail) {
    struct sockaddr_in addr;
    if (begin(AF_INET) < 0) {
        CHECK(may_fail);
        return;
    }
    int listening = fx_listening_socket(&addr);
    int rc = start(&addr, sizeof addr);
    CHECK(rc >= 0 || (may_fail && rc == -ENOMEM));
    if (rc == 0) {
        fx_until(is_done);
        CHECK_EQ(t.err, 0);
    }
    if (rc >= 0) {
        int accepted = accept(listening, NULL, NULL);
        CHECK(accepted >= 0);
        CHECK_EQ(send(accepted, "hello", 5, 0), 5);
        CHECK_EQ(send(t.fd, "x", 1, 0), 1);
        close(accepted);
    }
    close(listening);
    end();
}
static void connected(void) {
    check_every_allocation(connect_to_listener);
}

static void refused(void) {
    struct sockaddr_in addr;
    CHECK_EQ(begin(AF_INET), 0);
    close(fx_listening_socket(&addr)); /* a port where nobody listens */
    int rc = start(&addr, sizeof addr);
    CHECK(rc == 0 || rc == -ECONNREFUSED);
    if (rc == 0) {
        fx_until(is_done);
        CHECK_EQ(t.err, -ECONNREFUSED);
    }
    end();
}

static void cancelled(void) {
    struct sockaddr_in addr;
    CHECK_EQ(begin(AF_INET), 0);
    int listening = fx_listening_socket(&addr);
    int rc = start(&addr, sizeof addr);
    CHECK(rc >= 0);
    if (rc == 0) {
        taut_connector_cancel(t.connector);
        taut_connector_cancel(t.connector);
        fx_waits_during(5);
        CHECK_EQ(t.done, 0);
        free(t.connector);
    }
    close(listening);
    end();
}

/* The user closed the fd meanwhile, and its number went to somebody else. */
static void fd_reused_under_way(void) {
    struct sockaddr_in addr;
    int others[2];
    CHECK_EQ(begin(AF_INET), 0);
    int listening = fx_listening_socket(&addr);
    int rc = start(&addr, sizeof addr);
    CHECK(rc >= 0);
    close(t.fd);
    fx_unix_pair(others);
    CHECK(others[0] == t.fd || others[1] == t.fd);
    if (rc == 0) {
        taut_connector_cancel(t.connector);
        free(t.connector);
        CHECK_EQ(t.done, 0);
    }
    close(others[0] == t.fd ? others[1] : others[0]);
    close(listening);
    end();
}

static void unix_backlog_full(void) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    socklen_t size = sizeof addr.sun_family; /* an abstract name of the kernel's choice */
    int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 1, fds[20], count = 0;
    CHECK_EQ(bind(listening, (struct sockaddr *)&addr, size), 0);
    size = sizeof addr;
    CHECK_EQ(getsockname(listening, (struct sockaddr *)&addr, &size), 0);
    CHECK_EQ(listen(listening, 2), 0);
    while (rc == 1 && count < 20) {
        CHECK_EQ(begin(AF_UNIX), 0);
        rc = start(&addr, size);
        fds[count++] = fcntl(t.fd, F_DUPFD_CLOEXEC, 0); /* stays in the backlog */
        end();
    }
    CHECK_EQ(rc, -EAGAIN);
    CHECK(count > 2);
    CHECK_EQ(t.done, 0);
    while (count > 0)
        close(fds[--count]);
    close(listening);
}

static const check_test tests[] = {
    CHECK_TEST(connected),           CHECK_TEST(refused),           CHECK_TEST(cancelled),
    CHECK_TEST(fd_reused_under_way), CHECK_TEST(unix_backlog_full),
};
CHECK_MAIN(tests)
