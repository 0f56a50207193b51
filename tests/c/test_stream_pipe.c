/* io/stream on pipes: the flags plain, eager and hangup. */
#include <signal.h>
#include "base/err.h"
#include "io/stream.h"
#include "loop_fixture.h"

static struct {
    taut_stream stream;
    int fd, peer;
    char got[1 << 16];
    size_t got_size;
    int eofs, closes, pauses, resumes, released, closed_err;
} t;

static void on_data(taut_stream *s, const uint8_t *bytes, size_t size) {
    CHECK(t.got_size + size <= sizeof t.got);
    memcpy(t.got + t.got_size, bytes, size);
    t.got_size += size;
}
static int on_eof(taut_stream *s) {
    CHECK_EQ(t.eofs++, 0);
    return 0;
}
static void on_pause(taut_stream *s) {
    t.pauses++;
}
static void on_resume(taut_stream *s) {
    t.resumes++;
}
static void on_closed(taut_stream *s, int err) {
    CHECK_EQ(t.closes++, 0);
    t.closed_err = err;
}
static void on_release(void *token) {
    t.released++;
}
static const taut_stream_ops ops = {.data = on_data,
                                    .eof = on_eof,
                                    .pause_writing = on_pause,
                                    .resume_writing = on_resume,
                                    .closed = on_closed,
                                    .release = on_release};

/* The stream has the end `side` of a pipe; 0, or negative when memory is out. */
static int begin(int side) {
    int fds[2];
    memset(&t, 0, sizeof t);
    int rc = fx_begin();
    if (rc < 0)
        return rc;
    CHECK_EQ(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    t.fd = fds[side];
    t.peer = fds[!side];
    taut_stream_open(&t.stream, &fx.loop, t.fd, &ops);
    t.stream.plain = t.stream.eager = 1;
    t.stream.hangup = side == 1;
    rc = taut_stream_read_start(&t.stream);
    if (rc < 0) {
        taut_stream_discard(&t.stream);
        close(t.peer);
        fx_end();
    }
    return rc;
}
static int is_closed(void) {
    return t.closes > 0;
}
static void drop_peer(void) {
    close(t.peer);
    t.peer = -1;
}
static void end(void) {
    if (t.peer >= 0)
        drop_peer();
    taut_stream_abort(&t.stream, 0);
    fx_until(is_closed);
    CHECK_EQ(t.closes, 1);
    CHECK(!fx_fd_is_open(t.fd));
    fx_end();
}

static void read_to_the_end(int may_fail) {
    if (begin(0) < 0) {
        CHECK(may_fail);
        return;
    }
    CHECK_EQ(write(t.peer, "hello", 5), 5);
    drop_peer();
    fx_until(is_closed);
    CHECK_EQ(t.got_size, 5);
    CHECK_EQ(memcmp(t.got, "hello", 5), 0);
    CHECK_EQ(t.eofs, 1);
    CHECK_EQ(t.closed_err, 0);
    end();
}
static void reading(void) {
    check_every_allocation(read_to_the_end);
}

static size_t peer_got, peer_expected;
static int peer_has_all(void) {
    char bytes[8192];
    ssize_t n;
    while ((n = read(t.peer, bytes, sizeof bytes)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            CHECK_EQ(bytes[i], (char)((peer_got + (size_t)i) % 251));
        peer_got += (size_t)n;
    }
    return peer_got >= peer_expected || t.closes;
}

static void write_much(int may_fail) {
    enum { SIZE = 500000 };
    static uint8_t bytes[SIZE];
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (uint8_t)(i % 251);
    if (begin(1) < 0) {
        CHECK(may_fail);
        return;
    }
    int tokens = 0, failed = 0;
    for (size_t at = 0, i = 0; at < SIZE && !failed; i++) {
        size_t size = i % 2 ? 100 : 60000;
        if (size > SIZE - at)
            size = SIZE - at;
        tokens += i % 2;
        failed = taut_stream_write(&t.stream, bytes + at, size, i % 2 ? &t : NULL);
        CHECK(failed == 0 || (may_fail && failed == -ENOMEM));
        at += size;
    }
    peer_got = 0;
    peer_expected = SIZE;
    if (!failed) {
        CHECK_EQ(t.pauses, 1);
        taut_stream_close(&t.stream);
        fx_until(peer_has_all);
        CHECK(peer_got == SIZE || may_fail);
        fx_until(is_closed);
        CHECK(t.closed_err == 0 || may_fail);
        CHECK(t.resumes == 1 || may_fail);
    }
    end();
    CHECK_EQ(t.released, tokens);
}
static void writing(void) {
    check_every_allocation(write_much);
}

/* Each write of a turn goes at once: a reader of packets sees each of them. */
static void eager_writes_are_not_joined(void) {
    CHECK_EQ(begin(1), 0);
    char bytes[10];
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(taut_stream_write(&t.stream, "ab", 2, NULL), 0);
        CHECK_EQ(read(t.peer, bytes, sizeof bytes), 2);
    }
    end();
}

static void reader_goes(void) {
    CHECK_EQ(begin(1), 0);
    drop_peer();
    fx_until(is_closed);
    CHECK_EQ(t.eofs, 1);
    CHECK_EQ(t.closed_err, 0);
    end();
}

static void reader_goes_while_bytes_wait(void) {
    for (int closing = 0; closing < 2; closing++) {
        static const uint8_t bytes[200000];
        CHECK_EQ(begin(1), 0);
        CHECK_EQ(taut_stream_write(&t.stream, bytes, sizeof bytes, &t), 0);
        if (closing)
            taut_stream_close(&t.stream);
        drop_peer();
        fx_until(is_closed);
        CHECK_EQ(t.eofs, 1);
        CHECK_EQ(t.closed_err, -EPIPE);
        CHECK_EQ(t.released, 1);
        end();
    }
}

static int has_all(void) {
    return t.got_size >= 10 || t.closes;
}
/* Under another number, while somebody else takes the first one. */
static void move_to_a_duplicate(int may_fail) {
    taut_watch other;
    if (begin(0) < 0) {
        CHECK(may_fail);
        return;
    }
    int old = t.fd;
    t.fd = dup(old);
    int rc = taut_stream_move(&t.stream, t.fd);
    CHECK(rc == 0 || may_fail);
    taut_watch_init(&other, old, NULL);
    if (rc == 0 && taut_poller_want(fx.loop.poller, &other, TAUT_WRITE) == 0)
        taut_poller_remove(fx.loop.poller, &other, 1);
    close(old);
    CHECK_EQ(write(t.peer, "0123456789", 10), 10);
    fx_until(has_all);
    CHECK(t.got_size == 10 || may_fail);
    end();
}
static void moving(void) {
    check_every_allocation(move_to_a_duplicate);
}

static volatile sig_atomic_t signals;
static void on_signal(int number) {
    signals++;
}

/* With SIGPIPE's default action the process would be gone. */
static void no_signal_ends_the_process(void) {
    struct sigaction old, now = {.sa_handler = SIG_DFL};
    sigset_t pending;
    CHECK_EQ(sigaction(SIGPIPE, &now, &old), 0);
    CHECK_EQ(begin(1), 0);
    drop_peer();
    CHECK_EQ(taut_stream_write(&t.stream, "x", 1, NULL), 0);
    CHECK(t.stream.lost);
    fx_until(is_closed);
    CHECK_EQ(t.closed_err, -EPIPE);
    end();
    CHECK_EQ(sigpending(&pending), 0);
    CHECK(!sigismember(&pending, SIGPIPE));
    now.sa_handler = on_signal; /* the program's own handler is not kept from it */
    CHECK_EQ(sigaction(SIGPIPE, &now, NULL), 0);
    CHECK_EQ(begin(1), 0);
    drop_peer();
    CHECK_EQ(taut_stream_write(&t.stream, "x", 1, NULL), 0);
    end();
    CHECK_EQ(signals, 1);
    CHECK_EQ(sigaction(SIGPIPE, &old, NULL), 0);
}

/* One that was blocked and pending before stays pending. */
static void a_signal_of_others_stays(void) {
    sigset_t only, old, pending;
    sigemptyset(&only);
    sigaddset(&only, SIGPIPE);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &only, &old), 0);
    CHECK_EQ(raise(SIGPIPE), 0);
    CHECK_EQ(begin(1), 0);
    drop_peer();
    CHECK_EQ(taut_stream_write(&t.stream, "x", 1, NULL), 0);
    end();
    CHECK_EQ(sigpending(&pending), 0);
    CHECK(sigismember(&pending, SIGPIPE));
    const struct timespec at_once = {0};
    CHECK_EQ(sigtimedwait(&only, NULL, &at_once), SIGPIPE);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
}

static const check_test tests[] = {
    CHECK_TEST(reading),
    CHECK_TEST(writing),
    CHECK_TEST(eager_writes_are_not_joined),
    CHECK_TEST(moving),
    CHECK_TEST(reader_goes),
    CHECK_TEST(reader_goes_while_bytes_wait),
    CHECK_TEST(no_signal_ends_the_process),
    CHECK_TEST(a_signal_of_others_stays),
};
CHECK_MAIN(tests)
