/* The stream's states, reading, and the ways it ends. Writing is in stream_write.c. */
#include <errno.h>
#include "base/err.h"
#include "io/stream.h"
#include "io/stream_private.h"
#include "io/sys.h"

#define HIGH_SIZE_DEFAULT (64 * 1024)
#define LOW_SIZE_DEFAULT (16 * 1024)
/* A peer that sends faster than we read must not starve the others: at most this many full
 * buffers per readiness event, the rest after everybody else had a turn. */
#define READS_PER_EVENT_MAX 4

static int would_block(ssize_t rc) {
    return rc == -EAGAIN || rc == -EINTR;
}

static void on_eof(taut_stream *s) {
    s->read_eof = 1;
    taut_stream_read_stop(s); /* an EOF stays readable for ever */
    if (s->lost)
        return;
    int keep_open = 0;
    if (TAUT_STREAM_CALL(s, keep_open = s->ops->eof(s)))
        return;
    if (!keep_open)
        taut_stream_close(s);
}

/* One recv and its callbacks. 1: the buffer was filled and more may be there; 0: enough. */
static int read_once(taut_stream *s, void *bytes, size_t size) {
    ssize_t n = s->plain ? taut_sys_read(s->watch.fd, bytes, size)
                         : taut_sys_recv(s->watch.fd, bytes, size);
    if (TAUT_UNLIKELY(n <= 0)) {
        if (n == 0)
            on_eof(s);
        else if (!would_block(n))
            taut_stream_break(s, (int)n);
        return 0;
    }
    int gone = s->buffered ? TAUT_STREAM_CALL(s, s->ops->filled(s, (size_t)n))
                           : TAUT_STREAM_CALL(s, s->ops->data(s, bytes, (size_t)n));
    /* A short read has emptied the socket: no call just to hear EAGAIN. */
    return !gone && (size_t)n == size && s->reading;
}

static int read_buffered(taut_stream *s) {
    void *bytes = NULL;
    size_t size = 0;
    int rc = 0;
    if (TAUT_STREAM_CALL(s, rc = s->ops->get_buffer(s, TAUT_SCRATCH_SIZE, &bytes, &size)))
        return 0;
    if (rc < 0) {
        taut_stream_break(s, rc);
        return 0;
    }
    if (!s->reading || !s->buffered) /* the callback changed its mind */
        return 0;
    if (size == 0) { /* recv would say 0, which means EOF */
        taut_stream_break(s, TAUT_E_RANGE);
        return 0;
    }
    return read_once(s, bytes, size);
}

static void on_readable(taut_stream *s) {
    for (int i = 0; i < READS_PER_EVENT_MAX; i++) {
        int more =
            s->buffered ? read_buffered(s) : read_once(s, s->loop->scratch, TAUT_SCRATCH_SIZE);
        if (!more)
            return;
    }
}

static void on_reader_gone(taut_stream *s) {
    int err = s->pending_size > 0 ? -EPIPE : 0;
    if (!TAUT_STREAM_CALL(s, (void)s->ops->eof(s)))
        taut_stream_break(s, err);
}

static void on_event(taut_watch *w, uint32_t events) {
    taut_stream *s = TAUT_CONTAINER(w, taut_stream, watch);
    if (events & TAUT_READ && s->reading) {
        if (TAUT_STREAM_CALL(s, s->hangup ? on_reader_gone(s) : on_readable(s)))
            return;
    }
    if (events & TAUT_WRITE && !s->lost) {
        if (taut_stream_flush(s))
            return;
    }
    /* Nobody reads or writes, but epoll reports a hang-up even so: out of the set it goes, until
     * reading is resumed. What the kernel holds for us stays there. */
    if (events & TAUT_HUP && !s->lost && s->watch.want == 0)
        taut_poller_remove(s->loop->poller, w, 1);
}

void taut_stream_open(taut_stream *s, taut_loop *l, int fd, const taut_stream_ops *ops) {
    *s = (taut_stream){.loop = l,
                       .ops = ops,
                       .high = HIGH_SIZE_DEFAULT,
                       .low = LOW_SIZE_DEFAULT,
                       .write_turn = UINT64_MAX};
    taut_watch_init(&s->watch, fd, on_event);
    taut_deferred_init(&s->flush, taut_stream_turn_end, s);
}

void taut_stream_set_buffered(taut_stream *s, int buffered) {
    s->buffered = buffered != 0;
}

int taut_stream_read_start(taut_stream *s) {
    if (s->reading || s->closing || s->read_eof)
        return 0;
    int rc = taut_poller_want(s->loop->poller, &s->watch, s->watch.want | TAUT_READ);
    if (rc == 0)
        s->reading = 1;
    taut_loop_touch(s->loop);
    return rc;
}

void taut_stream_read_stop(taut_stream *s) {
    if (!s->reading)
        return;
    s->reading = 0;
    /* Asks nothing of the kernel, unless someone has put another file behind our fd number. */
    int rc = taut_poller_want(s->loop->poller, &s->watch, s->watch.want & ~TAUT_READ);
    if (rc < 0)
        taut_stream_break(s, rc);
}

void taut_stream_closed_deliver(void *arg) {
    taut_stream *s = arg;
    int fd = s->foreign_fd ? -1 : s->watch.fd;
    s->watch.fd = -1;
    taut_loop_touch(s->loop);
    s->ops->closed(s, s->close_err);
    if (fd >= 0)
        taut_sys_close(fd);
}

void taut_stream_finish(taut_stream *s, int err) {
    taut_assert(!s->closed_scheduled);
    s->closing = s->lost = s->closed_scheduled = 1;
    s->reading = 0;
    s->close_err = err;
    /* Taken out of epoll explicitly, although the fd is closed soon: were it duplicated (a fork, a
     * dup), closing ours would leave a registration behind that nothing can remove. */
    taut_poller_remove(s->loop->poller, &s->watch, 1);
    taut_loop_undefer(&s->flush);
    if (taut_loop_call_soon(s->loop, taut_stream_closed_deliver, s) < 0)
        taut_loop_defer(s->loop, &s->flush);
    taut_stream_sendfile_fail(s, err ? err : TAUT_E_CLOSING);
    taut_stream_queue_drop(s); /* last: a release may call anything */
}

void taut_stream_break(taut_stream *s, int err) {
    if (!s->lost)
        taut_stream_finish(s, err);
}

void taut_stream_close(taut_stream *s) {
    if (s->closing)
        return;
    if (!s->hangup) /* what is queued is in vain when the reader goes */
        taut_stream_read_stop(s);
    s->closing = 1;
    if (s->queue_count == 0 && !s->lost)
        taut_stream_finish(s, 0);
    else
        taut_stream_sendfile_fail(s, TAUT_E_CLOSING);
}

void taut_stream_abort(taut_stream *s, int err) {
    taut_stream_break(s, err);
}

int taut_stream_move(taut_stream *s, int fd) {
    uint32_t want = s->watch.want;
    taut_poller_remove(s->loop->poller, &s->watch, 1);
    s->watch.fd = fd;
    int rc = want ? taut_poller_want(s->loop->poller, &s->watch, want) : 0;
    if (rc < 0)
        taut_stream_break(s, rc);
    return rc;
}

int taut_stream_detach(taut_stream *s) {
    if (s->closing)
        return TAUT_E_CLOSING;
    if (s->queue_count > 0 || s->file)
        return TAUT_E_STATE;
    int fd = s->watch.fd;
    taut_poller_remove(s->loop->poller, &s->watch, 1);
    taut_loop_undefer(&s->flush);
    taut_stream_queue_drop(s);
    s->watch.fd = -1;
    s->closing = s->lost = s->closed_scheduled = 1;
    s->reading = 0;
    if (s->gone)
        *s->gone = 1;
    return fd;
}

void taut_stream_discard(taut_stream *s) {
    int fd = s->foreign_fd ? -1 : s->watch.fd;
    s->watch.fd = -1;
    s->closing = s->lost = s->closed_scheduled = 1;
    s->reading = 0;
    s->file = NULL;
    if (s->loop->poller)
        taut_poller_remove(s->loop->poller, &s->watch, 1);
    taut_loop_undefer(&s->flush);
    taut_stream_queue_drop(s);
    if (fd >= 0)
        taut_sys_close(fd);
}
