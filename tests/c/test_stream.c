#include <sys/mman.h>
#include "base/err.h"
#include "io/stream.h"
#include "loop_fixture.h"

/* One stream under test and its peer, a plain socket. The flags choose what the callbacks do. */
static struct {
    taut_stream stream;
    int fd, peer;
    uint8_t *got; /* what the stream received */
    size_t got_size, got_max;
    int echo, keep_open, buffered_size, get_buffer_err;
    void (*in_data)(void);
    int eofs, closes, pauses, resumes, released;
    int closed_err, fd_open_in_closed;
    uint8_t buffer[1 << 16];
    size_t peer_got, peer_expected;
    int peer_eof;
} t;

static uint8_t pattern(size_t position) {
    return (uint8_t)(position * 7 + position / 251);
}

static void note(const uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        CHECK_EQ(bytes[i], pattern(t.got_size + i));
    t.got_size += size;
    CHECK_EQ(t.closes, 0);
    CHECK_EQ(t.eofs, 0);
    if (t.echo) {
        int rc = taut_stream_write(&t.stream, bytes, size, NULL);
        CHECK(rc == 0 || rc == -ENOMEM);
        if (rc < 0)
            taut_stream_abort(&t.stream, rc);
    }
    if (t.in_data)
        t.in_data();
}
static void on_data(taut_stream *s, const uint8_t *bytes, size_t size) {
    note(bytes, size);
}
static int on_get_buffer(taut_stream *s, size_t size_hint, void **bytes, size_t *size) {
    CHECK(size_hint > 0);
    *bytes = t.buffer;
    *size = (size_t)t.buffered_size;
    return t.get_buffer_err;
}
static void on_filled(taut_stream *s, size_t size) {
    note(t.buffer, size);
}
static int on_eof(taut_stream *s) {
    CHECK_EQ(t.eofs++, 0);
    return t.keep_open;
}
static void on_pause(taut_stream *s) {
    CHECK_EQ(t.pauses++, t.resumes);
}
static void on_resume(taut_stream *s) {
    CHECK_EQ(++t.resumes, t.pauses);
}
static void on_closed(taut_stream *s, int err) {
    CHECK_EQ(t.closes++, 0);
    t.closed_err = err;
    t.fd_open_in_closed = fx_fd_is_open(t.fd);
    memset(s, 0xdd, sizeof *s); /* the owner may free it here */
}
static void on_release(void *token) {
    t.released += *(int *)token;
}

static const taut_stream_ops ops = {.data = on_data,
                                    .get_buffer = on_get_buffer,
                                    .filled = on_filled,
                                    .eof = on_eof,
                                    .pause_writing = on_pause,
                                    .resume_writing = on_resume,
                                    .closed = on_closed,
                                    .release = on_release};

/* 0, or negative when memory is out and there is nothing to do. */
static int begin(void (*pair)(int fds[2])) {
    int fds[2];
    memset(&t, 0, sizeof t);
    int rc = fx_begin();
    if (rc < 0)
        return rc;
    pair(fds);
    t.fd = fds[0];
    t.peer = fds[1];
    taut_stream_open(&t.stream, &fx.loop, t.fd, &ops);
    rc = taut_stream_read_start(&t.stream);
    if (rc < 0) {
        taut_stream_discard(&t.stream);
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
    if (t.peer >= 0)
        close(t.peer);
    if (!t.closes) {
        taut_stream_abort(&t.stream, 0);
        CHECK_EQ(t.closes, 0); /* never within a call */
    }
    fx_until(is_closed);
    CHECK_EQ(t.closes, 1);
    CHECK(t.fd_open_in_closed);
    CHECK(!fx_fd_is_open(t.fd));
    fx_end();
}

static void peer_send(size_t from, size_t size) {
    uint8_t bytes[4096];
    CHECK(size <= sizeof bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(from + i);
    CHECK_EQ(send(t.peer, bytes, size, MSG_NOSIGNAL), size);
}
/* Reads what is there and checks it. */
static void peer_drain(void) {
    uint8_t bytes[8192];
    ssize_t n;
    while ((n = recv(t.peer, bytes, sizeof bytes, 0)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            CHECK_EQ(bytes[i], pattern(t.peer_got + (size_t)i));
        t.peer_got += (size_t)n;
    }
    if (n == 0)
        t.peer_eof = 1;
}
static int peer_has_all(void) {
    peer_drain();
    return t.peer_got >= t.peer_expected || t.closes;
}
static int peer_sees_eof(void) {
    peer_drain();
    return t.peer_eof || t.closes;
}
static int has_eof(void) {
    return t.eofs || t.closes;
}
static int has_some(void) {
    return t.got_size > 0 || t.closes;
}
static void peer_reset(void) {
    struct linger hard = {.l_onoff = 1};
    CHECK_EQ(setsockopt(t.peer, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    close(t.peer);
    t.peer = -1;
}

static uint8_t *patterned(size_t size) {
    uint8_t *bytes = malloc(size);
    CHECK(bytes != NULL);
    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(i);
    return bytes;
}

static void echo_and_close(int may_fail) {
    if (begin(fx_tcp_pair) < 0) {
        CHECK(may_fail);
        return;
    }
    t.echo = 1;
    for (int i = 0; i < 5 && !t.closes; i++) {
        peer_send(t.peer_expected, 100);
        t.peer_expected += 100;
        fx_until(peer_has_all);
    }
    shutdown(t.peer, SHUT_WR);
    fx_until(is_closed);
    if (!may_fail) {
        CHECK_EQ(t.closed_err, 0);
        CHECK_EQ(t.peer_got, 500);
    }
    CHECK(t.closed_err == 0 || t.closed_err == -ENOMEM);
    end();
}
static void echo(void) {
    check_every_allocation(echo_and_close);
}

/* Far more than the socket takes, from borrowed and copied pieces, to a peer that reads late. */
static void write_much(int may_fail) {
    enum { SIZE = 3000000 };
    if (begin(fx_unix_pair) < 0) {
        CHECK(may_fail);
        return;
    }
    uint8_t *bytes = patterned(SIZE);
    int one = 1, tokens = 0, failed = 0;
    for (size_t at = 0, i = 0; at < SIZE && !failed; i++) {
        size_t size = i % 3 == 0 ? 40 : i % 3 == 1 ? 3000 : 90000;
        if (size > SIZE - at)
            size = SIZE - at;
        tokens += i % 2;
        failed = taut_stream_write(&t.stream, bytes + at, size, i % 2 ? &one : NULL);
        CHECK(failed == 0 || (may_fail && failed == -ENOMEM));
        at += size;
    }
    if (!failed) {
        CHECK_EQ(t.pauses, 1);
        t.peer_expected = SIZE;
        fx_until(peer_has_all);
        CHECK(t.peer_got == SIZE || may_fail);
        CHECK(t.resumes == 1 || may_fail);
        if (!t.closes)
            taut_stream_close(&t.stream);
        fx_until(is_closed);
    }
    end();
    CHECK_EQ(t.released, tokens);
    free(bytes);
}
static void backpressure(void) {
    check_every_allocation(write_much);
}

static void half_close(int may_fail) {
    enum { SIZE = 500000 };
    if (begin(fx_tcp_pair) < 0) {
        CHECK(may_fail);
        return;
    }
    uint8_t *bytes = patterned(SIZE);
    int one = 1, rc = taut_stream_write(&t.stream, bytes, SIZE, &one);
    CHECK(rc == 0 || may_fail);
    CHECK_EQ(rc || t.closes ? 0 : taut_stream_write_eof(&t.stream), 0);
    CHECK_EQ(rc ? 0 : taut_stream_write_eof(&t.stream), 0);
    if (rc == 0) {
        CHECK_EQ(taut_stream_write(&t.stream, bytes, 1, &one), TAUT_E_EOF_WRITTEN);
        fx_until(peer_sees_eof);
        CHECK(t.peer_got == SIZE || may_fail);
    }
    if (!t.closes && rc == 0) {
        peer_send(0, 77); /* the other direction still works */
        fx_until(has_some);
        CHECK_EQ(t.got_size, 77);
        shutdown(t.peer, SHUT_WR);
        fx_until(is_closed);
        CHECK_EQ(t.closed_err, 0);
    }
    end();
    CHECK(rc != 0 || t.released == 2);
    free(bytes);
}
static void half_closing(void) {
    check_every_allocation(half_close);
}

static void eof_kept_open_does_not_spin(void) {
    CHECK_EQ(begin(fx_tcp_pair), 0);
    t.keep_open = 1;
    shutdown(t.peer, SHUT_WR);
    fx_until(has_eof);
    CHECK(fx_waits_during(20) < 60);
    uint8_t *bytes = patterned(10);
    CHECK_EQ(taut_stream_write(&t.stream, bytes, 10, NULL), 0);
    t.peer_expected = 10;
    fx_until(peer_has_all);
    CHECK_EQ(t.closes, 0);
    taut_stream_close(&t.stream);
    fx_until(is_closed);
    CHECK_EQ(t.closed_err, 0);
    end();
    free(bytes);
}

/* A hang-up is reported by epoll even to those who want nothing. */
static void hang_up_while_paused(void) {
    CHECK_EQ(begin(fx_unix_pair), 0);
    taut_stream_read_stop(&t.stream);
    peer_send(0, 1000);
    close(t.peer);
    t.peer = -1;
    CHECK(fx_waits_during(20) < 60);
    CHECK_EQ(t.got_size, 0);
    CHECK_EQ(t.closes, 0);
    CHECK_EQ(taut_stream_read_start(&t.stream), 0);
    fx_until(is_closed);
    CHECK_EQ(t.got_size, 1000); /* the kernel had kept it */
    CHECK_EQ(t.eofs, 1);
    CHECK_EQ(t.closed_err, 0);
    end();
}

static void reset_by_peer(void) {
    CHECK_EQ(begin(fx_tcp_pair), 0);
    peer_reset();
    fx_until(is_closed);
    CHECK_EQ(t.closed_err, -ECONNRESET);
    CHECK_EQ(t.eofs, 0);
    end();
}

static void reset_while_writing(void) {
    enum { SIZE = 8000000 };
    CHECK_EQ(begin(fx_tcp_pair), 0);
    uint8_t *bytes = patterned(SIZE);
    int one = 1;
    taut_stream_read_stop(&t.stream);
    CHECK_EQ(taut_stream_write(&t.stream, bytes, SIZE, &one), 0);
    CHECK_EQ(t.pauses, 1);
    CHECK_EQ(t.released, 0);
    peer_reset();
    fx_until(is_closed);
    CHECK(t.closed_err == -ECONNRESET || t.closed_err == -EPIPE);
    CHECK_EQ(t.released, 1);
    CHECK_EQ(t.resumes, 0);
    end();
    free(bytes);
}

static void writes_after_loss_are_dropped(void) {
    int one = 1;
    CHECK_EQ(begin(fx_unix_pair), 0);
    taut_stream_abort(&t.stream, -ECONNABORTED);
    CHECK(taut_stream_is_closing(&t.stream));
    for (int i = 0; i < 7; i++)
        CHECK_EQ(taut_stream_write(&t.stream, "x", 1, &one), 0);
    CHECK_EQ(taut_stream_write(&t.stream, "", 0, &one), 0);
    CHECK(t.stream.dropped_writes >= 7);
    CHECK_EQ(t.released, 8);
    CHECK_EQ(taut_stream_write_eof(&t.stream), 0);
    CHECK_EQ(taut_stream_read_start(&t.stream), 0);
    CHECK_EQ(taut_stream_detach(&t.stream), TAUT_E_CLOSING);
    taut_stream_close(&t.stream);
    fx_until(is_closed);
    CHECK_EQ(t.closed_err, -ECONNABORTED);
    end();
}

static void abort_it(void) {
    taut_stream_abort(&t.stream, 0);
}
static void abort_within_data(void) {
    CHECK_EQ(begin(fx_unix_pair), 0);
    t.in_data = abort_it;
    t.buffered_size = 10;
    taut_stream_set_buffered(&t.stream, 1);
    peer_send(0, 100);
    fx_until(is_closed);
    CHECK_EQ(t.got_size, 10);
    CHECK_EQ(t.closed_err, 0);
    end();
}

static void write_twice_and_close(void) {
    uint8_t *bytes = patterned(300000);
    CHECK_EQ(taut_stream_write(&t.stream, bytes, 10, NULL), 0);
    CHECK_EQ(taut_stream_write(&t.stream, bytes + 10, 300000 - 10, NULL), 0);
    taut_stream_close(&t.stream);
    free(bytes);
}
static void close_flushes(void) {
    CHECK_EQ(begin(fx_unix_pair), 0);
    t.in_data = write_twice_and_close;
    peer_send(0, 1);
    t.peer_expected = 300000;
    fx_until(peer_has_all);
    fx_until(is_closed);
    peer_drain();
    CHECK_EQ(t.peer_got, 300000);
    CHECK(t.peer_eof);
    CHECK_EQ(t.closed_err, 0);
    end();
}

static void stop_reading(void) {
    taut_stream_read_stop(&t.stream);
}
static void buffered_reading(void) {
    CHECK_EQ(begin(fx_unix_pair), 0);
    t.buffered_size = 16;
    taut_stream_set_buffered(&t.stream, 1);
    t.in_data = stop_reading;
    peer_send(0, 1000);
    fx_until(has_some);
    CHECK_EQ(t.got_size, 16); /* paused after the first buffer, although more was there */
    t.in_data = NULL;
    CHECK_EQ(taut_stream_read_start(&t.stream), 0);
    shutdown(t.peer, SHUT_WR);
    fx_until(is_closed);
    CHECK_EQ(t.got_size, 1000);
    end();
}

static void buffer_refused(void) {
    CHECK_EQ(begin(fx_unix_pair), 0);
    t.get_buffer_err = -EINVAL;
    taut_stream_set_buffered(&t.stream, 1);
    peer_send(0, 10);
    fx_until(is_closed);
    CHECK_EQ(t.closed_err, -EINVAL);
    end();
    CHECK_EQ(begin(fx_unix_pair), 0);
    taut_stream_set_buffered(&t.stream, 1); /* buffered_size 0: an empty buffer */
    peer_send(0, 10);
    fx_until(is_closed);
    CHECK_EQ(t.closed_err, TAUT_E_RANGE);
    end();
}

static int detached_fd;
static void detach_it(void) {
    detached_fd = taut_stream_detach(&t.stream);
    memset(&t.stream, 0xdd, sizeof t.stream);
    t.closes = 1;
}
static void detach_within_data(void) {
    char byte;
    CHECK_EQ(begin(fx_unix_pair), 0);
    t.in_data = detach_it;
    peer_send(0, 100);
    fx_until(is_closed);
    CHECK_EQ(detached_fd, t.fd);
    CHECK_EQ(send(t.peer, "z", 1, 0), 1);
    CHECK_EQ(recv(detached_fd, &byte, 1, 0), 1);    /* still ours to use */
    CHECK_EQ(taut_poller_count(fx.loop.poller), 1); /* the loop's own wake-up */
    close(detached_fd);
    close(t.peer);
    fx_end();
}

static void water_marks(void) {
    int one = 1;
    uint8_t *bytes = patterned(1000);
    CHECK_EQ(begin(fx_unix_pair), 0);
    CHECK_EQ(taut_stream_append(&t.stream, bytes, 1000, &one), 0);
    CHECK_EQ(t.pauses, 0);
    CHECK_EQ(taut_stream_detach(&t.stream), TAUT_E_STATE);
    taut_stream_set_water_marks(&t.stream, 100, 999);
    CHECK_EQ(t.pauses, 1);
    taut_stream_set_water_marks(&t.stream, 100, 999);
    CHECK_EQ(t.pauses, 1);
    taut_stream_set_water_marks(&t.stream, 999, 999);
    CHECK_EQ(t.resumes, 0);
    taut_stream_set_water_marks(&t.stream, 1000, 1000);
    CHECK_EQ(t.resumes, 0); /* not before bytes have left */
    t.peer_expected = 1000;
    fx_until(peer_has_all);
    CHECK_EQ(t.resumes, 1);
    CHECK_EQ(t.released, 1);
    CHECK_EQ(t.stream.pending_size, 0);
    end();
    free(bytes);
}

static void foreign_fd_stays_open(void) {
    CHECK_EQ(begin(fx_unix_pair), 0);
    t.stream.foreign_fd = 1;
    taut_stream_close(&t.stream);
    fx_until(is_closed);
    CHECK(fx_fd_is_open(t.fd));
    close(t.fd);
    close(t.peer);
    fx_end();
}

/* The user put a regular file behind our fd number, while the socket lives on in a duplicate. */
static void fd_replaced_behind_our_back(void) {
    enum { SIZE = 1000000 };
    int one = 1, fds = check_fd_count();
    uint8_t *bytes = patterned(SIZE);
    CHECK_EQ(begin(fx_unix_pair), 0);
    CHECK_EQ(taut_stream_write(&t.stream, bytes, SIZE, &one), 0);
    taut_stream_read_stop(&t.stream);
    int duplicate = dup(t.fd), file = memfd_create("stream", MFD_CLOEXEC);
    CHECK(duplicate >= 0 && file >= 0);
    CHECK_EQ(dup2(file, t.fd), t.fd);
    close(file);
    peer_send(0, 100);
    CHECK(fx_waits_during(10) < 40);
    CHECK_EQ(t.got_size, 0);
    fx_until(is_closed); /* the write found out */
    CHECK_EQ(t.closed_err, -ENOTSOCK);
    CHECK_EQ(t.released, 1);
    fx_end();
    close(duplicate);
    close(t.peer);
    CHECK_EQ(check_fd_count(), fds);
    free(bytes);
}

/* Many small borrowed writes of one turn: none lost, all released, in order. */
static void many_small_writes(void) {
    enum { COUNT = 2000 };
    int one = 1;
    uint8_t *bytes = patterned(COUNT * 10);
    CHECK_EQ(begin(fx_unix_pair), 0);
    for (size_t i = 0; i < COUNT; i++)
        CHECK_EQ(taut_stream_write(&t.stream, bytes + i * 10, 10, &one), 0);
    CHECK(t.stream.queue_count < 20); /* copied together, not one iovec each */
    t.peer_expected = COUNT * 10;
    fx_until(peer_has_all);
    CHECK_EQ(t.released, COUNT);
    end();
    free(bytes);
}

static void discard_open_stream(void) {
    int one = 1;
    CHECK_EQ(begin(fx_unix_pair), 0);
    CHECK_EQ(taut_stream_append(&t.stream, "abc", 3, &one), 0);
    fx_end(); /* the loop goes first */
    CHECK(fx_fd_is_open(t.fd));
    taut_stream_discard(&t.stream);
    CHECK(!fx_fd_is_open(t.fd));
    CHECK_EQ(t.released, 1);
    CHECK_EQ(t.closes, 0);
    close(t.peer);
}

static const check_test tests[] = {
    CHECK_TEST(echo),
    CHECK_TEST(backpressure),
    CHECK_TEST(half_closing),
    CHECK_TEST(eof_kept_open_does_not_spin),
    CHECK_TEST(hang_up_while_paused),
    CHECK_TEST(reset_by_peer),
    CHECK_TEST(reset_while_writing),
    CHECK_TEST(writes_after_loss_are_dropped),
    CHECK_TEST(abort_within_data),
    CHECK_TEST(close_flushes),
    CHECK_TEST(buffered_reading),
    CHECK_TEST(buffer_refused),
    CHECK_TEST(detach_within_data),
    CHECK_TEST(water_marks),
    CHECK_TEST(foreign_fd_stays_open),
    CHECK_TEST(fd_replaced_behind_our_back),
    CHECK_TEST(many_small_writes),
    CHECK_TEST(discard_open_stream),
};
CHECK_MAIN(tests)
