/* Sending from a file, on real sockets and files. test_sim plays the rest. */
#include <signal.h>
#include "base/err.h"
#include "io/stream_sendfile.h"
#include "loop_fixture.h"

enum { BIG = 5000000 };

static struct {
    taut_stream stream;
    taut_sendfile file;
    int peer;
    int dones, done_err, closes, closed_err;
    int done_before_closed;
    size_t got, junk; /* bytes of the file that the peer read, after `junk` written ones */
    size_t first;     /* position in the file of the first */
    size_t expected;
    int eof;
} t;

static uint8_t pattern(size_t position) {
    return (uint8_t)(position * 7 + position / 251);
}

static int file_of(size_t size) {
    FILE *f = tmpfile();
    CHECK(f != NULL);
    for (size_t i = 0; i < size; i++)
        putc(pattern(i), f);
    CHECK_EQ(fflush(f), 0);
    int fd = dup(fileno(f));
    fclose(f);
    CHECK(fd >= 0);
    return fd;
}

static void on_data(taut_stream *s, const uint8_t *bytes, size_t size) {}
static int on_eof(taut_stream *s) {
    return 1;
}
static void on_water(taut_stream *s) {}
static void on_closed(taut_stream *s, int err) {
    t.closes++;
    t.closed_err = err;
    t.done_before_closed = t.dones;
    memset(s, 0xdd, sizeof *s);
}
static void on_release(void *token) {}
static const taut_stream_ops ops = {.data = on_data,
                                    .eof = on_eof,
                                    .pause_writing = on_water,
                                    .resume_writing = on_water,
                                    .closed = on_closed,
                                    .release = on_release};

static void on_done(taut_sendfile *f, int err) {
    CHECK_EQ(t.dones++, 0);
    CHECK_EQ(t.closes, 0);
    t.done_err = err;
}

static int begin(size_t file_size) {
    int fds[2];
    memset(&t, 0, sizeof t);
    int rc = fx_begin();
    if (rc < 0)
        return rc;
    fx_tcp_pair(fds);
    t.peer = fds[1];
    taut_stream_open(&t.stream, &fx.loop, fds[0], &ops);
    t.file = (taut_sendfile){
        .fd = file_of(file_size), .left = UINT64_MAX, .size = file_size, .done = on_done};
    return 0;
}
static int is_closed(void) {
    return t.closes > 0;
}
static void end(void) {
    if (t.peer >= 0)
        close(t.peer);
    if (!t.closes)
        taut_stream_abort(&t.stream, 0);
    fx_until(is_closed);
    close(t.file.fd);
    fx_end();
}

static void drain(size_t most) {
    uint8_t bytes[65536];
    ssize_t n = 1;
    while (most > 0 &&
           (n = recv(t.peer, bytes, sizeof bytes < most ? sizeof bytes : most, 0)) > 0) {
        for (ssize_t i = 0; i < n; i++, t.got++) {
            uint8_t want = t.got < t.junk ? 0xaa : pattern(t.first + t.got - t.junk);
            CHECK_EQ(bytes[i], want);
        }
        most -= (size_t)n;
    }
    if (n == 0)
        t.eof = 1;
}
static int has_all(void) {
    drain(SIZE_MAX);
    return t.got >= t.expected;
}
static int has_all_and_done(void) {
    return has_all() && (t.dones || t.closes);
}
static int sees_eof(void) {
    drain(SIZE_MAX);
    return t.eof;
}
static int is_done(void) {
    return t.dones > 0 || t.closes;
}

static void write_junk(size_t size) {
    static uint8_t junk[1000000];
    memset(junk, 0xaa, sizeof junk);
    CHECK(size <= sizeof junk);
    t.junk += size;
    int rc = taut_stream_write(&t.stream, junk, size, NULL);
    CHECK(rc == 0 || rc == -ENOMEM);
}

/* More than the socket takes, behind what was written. */
static void big(void) {
    CHECK_EQ(begin(BIG), 0);
    write_junk(1000000);
    t.expected = t.junk + BIG;
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 0);
    CHECK_EQ(taut_stream_write(&t.stream, "x", 1, NULL), TAUT_E_STATE);
    CHECK_EQ(taut_stream_detach(&t.stream), TAUT_E_STATE);
    taut_sendfile other = t.file;
    CHECK_EQ(taut_stream_sendfile(&t.stream, &other), TAUT_E_STATE);
    fx_until(has_all_and_done);
    CHECK_EQ(t.dones, 1);
    CHECK_EQ(t.done_err, 0);
    CHECK_EQ(t.file.sent, BIG);
    CHECK_EQ(t.got, t.expected);
    CHECK_EQ(taut_stream_write(&t.stream, "x", 1, NULL), 0);
    end();
}

/* The walk needs no waiting for a peer: what was queued is dropped with the stream. */
static void walk_once(int may_fail) {
    if (begin(100) < 0) {
        CHECK(may_fail);
        return;
    }
    for (int i = 0; i < 8; i++)
        write_junk(1000000);
    int rc = taut_stream_sendfile(&t.stream, &t.file);
    CHECK(rc == 0 || (may_fail && rc == TAUT_E_CLOSING) || (may_fail && rc == 1));
    end();
}
static void allocations(void) {
    check_every_allocation(walk_once);
}

static void part_of_a_file(void) {
    CHECK_EQ(begin(1000), 0);
    t.file.offset = t.first = 100;
    t.file.left = t.expected = 500;
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 1);
    CHECK_EQ(t.file.sent, 500);
    CHECK_EQ(t.file.offset, 600);
    fx_until(has_all);
    CHECK_EQ(t.dones, 0);
    CHECK_EQ(lseek(t.file.fd, 0, SEEK_CUR), 1000); /* where writing it has left it */
    end();
}

static void file_shorter_than_asked(void) {
    CHECK_EQ(begin(1000), 0);
    t.file.left = 5000;
    t.expected = 1000;
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 1);
    CHECK_EQ(t.file.sent, 1000);
    fx_until(has_all);
    t.file.sent = 0; /* once more, from its end */
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 1);
    CHECK_EQ(t.file.sent, 0);
    end();
}

static void half_close_waits(void) {
    CHECK_EQ(begin(BIG), 0);
    t.expected = BIG;
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 0);
    CHECK_EQ(taut_stream_write_eof(&t.stream), 0);
    fx_until(sees_eof);
    CHECK_EQ(t.got, BIG);
    CHECK_EQ(t.done_err, 0);
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), TAUT_E_EOF_WRITTEN);
    end();
}

/* close() cuts the file off, also while it waits for the queue, which is sent. */
static void close_ends_it(void) {
    for (int queued = 0; queued < 2; queued++) {
        CHECK_EQ(begin(BIG), 0);
        for (int i = 0; queued && i < 8; i++)
            write_junk(1000000);
        CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 0);
        taut_stream_close(&t.stream);
        CHECK_EQ(t.dones, 1);
        CHECK_EQ(t.done_err, TAUT_E_CLOSING);
        CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), TAUT_E_CLOSING);
        fx_until(sees_eof);
        CHECK_EQ(t.got, t.junk + t.file.sent);
        CHECK(!queued || t.file.sent == 0);
        CHECK_EQ(t.closed_err, 0);
        end();
    }
}

static void abort_ends_it(void) {
    CHECK_EQ(begin(BIG), 0);
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 0);
    taut_stream_abort(&t.stream, -ECONNABORTED);
    CHECK_EQ(t.done_err, -ECONNABORTED);
    fx_until(is_closed);
    CHECK_EQ(t.done_before_closed, 1);
    end();
}

/* The peer is gone: an error, and no SIGPIPE although nobody ignores it; the stream stays. */
static void peer_goes(void) {
    struct linger hard = {.l_onoff = 1};
    CHECK_EQ(begin(BIG), 0);
    signal(SIGPIPE, SIG_DFL);
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 0);
    drain(1000);
    CHECK_EQ(setsockopt(t.peer, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    close(t.peer);
    t.peer = -1;
    fx_until(is_done);
    CHECK(t.done_err == -ECONNRESET || t.done_err == -EPIPE);
    CHECK_EQ(t.closes, 0);
    t.file.sent = 0;
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), -EPIPE);
    end();
}

static void cancelled(void) {
    CHECK_EQ(begin(BIG), 0);
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 0);
    taut_stream_sendfile_cancel(&t.stream);
    taut_stream_sendfile_cancel(&t.stream);
    t.expected = t.file.sent;
    fx_until(has_all);
    CHECK_EQ(t.dones, 0);
    t.first = t.got = 0; /* from here on the peer reads what is written */
    write_junk(1000);
    t.expected = 1000;
    fx_until(has_all);
    end();
}

static void not_a_file(void) {
    int fds[2];
    CHECK_EQ(begin(0), 0);
    CHECK_EQ(taut_stream_sendfile(&t.stream, &t.file), 1); /* empty */
    CHECK_EQ(pipe(fds), 0);
    taut_sendfile from_pipe = {.fd = fds[0], .left = UINT64_MAX, .done = on_done};
    int rc = taut_stream_sendfile(&t.stream, &from_pipe);
    CHECK(rc == -EINVAL || rc == -ESPIPE);
    close(fds[0]);
    close(fds[1]);
    from_pipe.fd = -1;
    CHECK_EQ(taut_stream_sendfile(&t.stream, &from_pipe), -EBADF);
    t.expected = 10;
    write_junk(10); /* and it works as before */
    fx_until(has_all);
    end();
}

static const check_test tests[] = {
    CHECK_TEST(big),
    CHECK_TEST(allocations),
    CHECK_TEST(part_of_a_file),
    CHECK_TEST(file_shorter_than_asked),
    CHECK_TEST(half_close_waits),
    CHECK_TEST(close_ends_it),
    CHECK_TEST(abort_ends_it),
    CHECK_TEST(peer_goes),
    CHECK_TEST(cancelled),
    CHECK_TEST(not_a_file),
};
CHECK_MAIN(tests)
