/* The stream's write queue: a ring of segments, borrowed (with a token) or copied into blocks. */
#include <errno.h>
#include <string.h>
#include "base/mem.h"
#include "base/err.h"
#include "io/stream.h"
#include "io/stream_private.h"
#include "io/sys.h"

#define IOVECS_MAX 64
#define SENDS_PER_FLUSH_MAX 16 /* a fast reader must not hold the loop in one flush */
#define QUEUE_CAPACITY_MIN 8   /* kept between bursts; larger storage is given back */
#define BLOCK_SIZE_MIN 4096
/* A borrowed segment this small costs more as an iovec than as a copy, once there are several. */
#define COPY_SIZE_MAX 512
#define COPY_FROM_COUNT 4

typedef struct {
    size_t capacity;
    uint8_t bytes[];
} block;

static taut_segment *segment_at(taut_stream *s, uint32_t i) {
    return &s->queue[(s->queue_head + i) & (s->queue_capacity - 1)];
}

static int queue_push(taut_stream *s, taut_segment seg) {
    if (s->queue_count == s->queue_capacity) {
        uint32_t capacity = s->queue_capacity ? s->queue_capacity * 2 : QUEUE_CAPACITY_MIN;
        taut_segment *queue = capacity ? taut_realloc_array(NULL, capacity, sizeof *queue) : NULL;
        if (!queue)
            return -ENOMEM;
        for (uint32_t i = 0; i < s->queue_count; i++)
            queue[i] = *segment_at(s, i);
        taut_free(s->queue);
        s->queue = queue;
        s->queue_capacity = capacity;
        s->queue_head = 0;
    }
    *segment_at(s, s->queue_count++) = seg;
    s->pending_size += seg.size;
    return 0;
}

static int queue_push_copy(taut_stream *s, const uint8_t *bytes, size_t size) {
    if (s->queue_count > 0) {
        taut_segment *tail = segment_at(s, s->queue_count - 1);
        block *b = tail->block;
        if (b && size <= b->capacity - (size_t)(tail->bytes + tail->size - b->bytes)) {
            memcpy(b->bytes + (tail->bytes - b->bytes) + tail->size, bytes, size);
            tail->size += size;
            s->pending_size += size;
            return 0;
        }
    }
    size_t capacity = size > BLOCK_SIZE_MIN / 2 ? size : BLOCK_SIZE_MIN;
    if (capacity > SIZE_MAX - sizeof(block))
        return -ENOMEM;
    block *b = taut_malloc(sizeof(block) + capacity);
    if (!b)
        return -ENOMEM;
    b->capacity = capacity;
    memcpy(b->bytes, bytes, size);
    int rc = queue_push(s, (taut_segment){.bytes = b->bytes, .size = size, .block = b});
    if (rc < 0)
        taut_free(b);
    return rc;
}

/* Takes the token, or releases it on failure and when the bytes were copied. */
static int queue_add(taut_stream *s, const uint8_t *bytes, size_t size, void *token) {
    int rc;
    if (token && (size > COPY_SIZE_MAX || s->queue_count < COPY_FROM_COUNT)) {
        rc = queue_push(s, (taut_segment){.bytes = bytes, .size = size, .token = token});
        if (rc < 0)
            s->ops->release(token);
        return rc;
    }
    rc = queue_push_copy(s, bytes, size);
    if (token)
        s->ops->release(token);
    return rc;
}

/* Drops `size` sent bytes. Releases come last: by then the queue is what it will be, so that a
 * release which writes again does no harm. `size` spans at most IOVECS_MAX segments. */
static void queue_consume(taut_stream *s, size_t size) {
    void *tokens[IOVECS_MAX];
    int count = 0;
    s->pending_size -= size;
    while (size > 0) {
        taut_segment *seg = segment_at(s, 0);
        if (size < seg->size) {
            seg->bytes += size;
            seg->size -= size;
            break;
        }
        size -= seg->size;
        if (seg->token)
            tokens[count++] = seg->token;
        else
            taut_free(seg->block);
        s->queue_head = (s->queue_head + 1) & (s->queue_capacity - 1);
        s->queue_count--;
    }
    void (*release)(void *) = s->ops->release;
    for (int i = 0; i < count; i++)
        release(tokens[i]);
}

void taut_stream_queue_drop(taut_stream *s) {
    taut_segment *queue = s->queue;
    uint32_t head = s->queue_head, count = s->queue_count, mask = s->queue_capacity - 1;
    void (*release)(void *) = s->ops->release;
    s->queue = NULL;
    s->queue_head = s->queue_count = s->queue_capacity = 0;
    s->pending_size = 0;
    for (uint32_t i = 0; i < count; i++) {
        taut_segment *seg = &queue[(head + i) & mask];
        if (seg->token)
            release(seg->token);
        else
            taut_free(seg->block);
    }
    taut_free(queue);
}

/* The signal's action is asked for once per burst: the question is a tenth of a small write, and
 * one that is changed matters only when the reader goes, unnoticed by epoll, just after that. */
static ssize_t write_plain(taut_stream *s, const struct iovec *iov, int count) {
    taut_loop *l = s->loop;
    uint64_t now = taut_sys_ticks();
    if (now - l->sigpipe_ticks > l->burst_ticks) {
        l->sigpipe_ticks = now;
        l->sigpipe_ends = taut_sys_sigpipe_ends();
    }
    return taut_sys_writev(s->watch.fd, iov, count, l->sigpipe_ends);
}

/* 0: sent all, or as much as the kernel takes now; negative: the connection is broken. */
static int queue_send(taut_stream *s) {
    for (int sends = 0; s->queue_count > 0 && sends < SENDS_PER_FLUSH_MAX; sends++) {
        struct iovec iov[IOVECS_MAX];
        int count = s->queue_count < IOVECS_MAX ? (int)s->queue_count : IOVECS_MAX;
        size_t asked = 0;
        for (int i = 0; i < count; i++) {
            taut_segment *seg = segment_at(s, (uint32_t)i);
            iov[i] =
                (struct iovec){.iov_base = (void *)(uintptr_t)seg->bytes, .iov_len = seg->size};
            asked += seg->size;
        }
        ssize_t n = s->plain     ? write_plain(s, iov, count)
                    : count == 1 ? taut_sys_send(s->watch.fd, iov[0].iov_base, iov[0].iov_len)
                                 : taut_sys_sendv(s->watch.fd, iov, count);
        if (n == -EAGAIN || n == -EINTR)
            return 0;
        if (n < 0)
            return (int)n;
        queue_consume(s, (size_t)n);
        if ((size_t)n < asked) /* the socket is full: no call just to hear EAGAIN */
            return 0;
    }
    return 0;
}

int taut_stream_want_write(taut_stream *s, int on) {
    uint32_t want = on ? s->watch.want | TAUT_WRITE : s->watch.want & ~TAUT_WRITE;
    return want == s->watch.want ? 0 : taut_poller_want(s->loop->poller, &s->watch, want);
}

void taut_stream_drained(taut_stream *s) {
    int rc = taut_stream_want_write(s, 0);
    if (rc < 0) {
        taut_stream_break(s, rc);
    } else if (s->closing) {
        taut_stream_finish(s, 0);
    } else if (s->eof_requested && !s->eof_sent) {
        s->eof_sent = 1;
        /* Fails only when the peer is gone, and then reading or closing tells. */
        (void)taut_sys_shutdown_write(s->watch.fd);
    }
}

int taut_stream_flush(taut_stream *s) {
    int rc = queue_send(s);
    if (s->lost) /* a release closed it */
        return 0;
    if (rc == 0)
        rc = taut_stream_want_write(s, s->queue_count > 0 || (s->file && !s->file_paused));
    if (rc < 0) {
        s->write_failed = 1;
        taut_stream_break(s, rc);
        return 0;
    }
    if (s->queue_count == 0) {
        taut_loop_undefer(&s->flush);
        s->unflushed_writes = 0;
        if (s->queue_capacity > QUEUE_CAPACITY_MIN)
            taut_stream_queue_drop(s);
    }
    if (s->writing_paused && s->pending_size <= s->low) {
        s->writing_paused = 0;
        if (TAUT_STREAM_CALL(s, s->ops->resume_writing(s)))
            return 1;
    }
    if (s->queue_count > 0 || s->lost)
        return 0;
    if (s->file)
        return taut_stream_sendfile_go(s);
    taut_stream_drained(s);
    return 0;
}

void taut_stream_turn_end(void *arg) {
    taut_stream *s = arg;
    if (s->closed_scheduled) {
        taut_stream_closed_deliver(s);
        return;
    }
    if (s->unflushed_writes == 1)
        s->coalesce = 0; /* it waited for nobody: the next first write goes at once */
    s->unflushed_writes = 0;
    int gone = taut_stream_flush(s);
    (void)gone; /* nothing follows that would touch it */
}

/* Last thing in every writer: the owner may do anything in here. */
static void pause_if_high(taut_stream *s) {
    if (s->pending_size > s->high && !s->writing_paused && !s->lost) {
        s->writing_paused = 1;
        s->ops->pause_writing(s);
    }
}

/* 1: go on and write; 0: nothing to do (dropped, or empty); negative: refused. Unless 1, the token
 * was released. */
static int write_check(taut_stream *s, size_t size, void *token) {
    int rc = 1;
    if (s->eof_requested) {
        rc = TAUT_E_EOF_WRITTEN;
    } else if (s->file) {
        rc = TAUT_E_STATE;
    } else if (s->lost) {
        s->dropped_writes++;
        rc = 0;
    } else if (size == 0) {
        rc = 0;
    }
    if (rc != 1 && token)
        s->ops->release(token);
    return rc;
}

/* The first write of a turn, with nothing queued before it. */
static int write_now(taut_stream *s, const uint8_t *bytes, size_t size, void *token) {
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    taut_loop_touch(s->loop);
    ssize_t n = s->plain ? write_plain(s, &iov, 1) : taut_sys_send(s->watch.fd, bytes, size);
    if (TAUT_LIKELY(n == (ssize_t)size)) {
        if (token)
            s->ops->release(token);
        return 0;
    }
    if (n == -EAGAIN || n == -EINTR)
        n = 0;
    if (n < 0) {
        s->write_failed = 1;
        taut_stream_break(s, (int)n);
        if (token)
            s->ops->release(token);
        return 0;
    }
    int rc = queue_add(s, bytes + n, size - (size_t)n, token);
    if (rc < 0) {
        if (n > 0)
            taut_stream_break(s, rc);
        return rc;
    }
    rc = taut_stream_want_write(s, 1);
    if (rc < 0)
        taut_stream_break(s, rc);
    else
        pause_if_high(s);
    return 0;
}

static int write_later(taut_stream *s, const uint8_t *bytes, size_t size, void *token) {
    int rc = queue_add(s, bytes, size, token);
    if (rc < 0 || s->lost) /* lost: the release of a copied token closed the stream */
        return rc;
    s->unflushed_writes++;
    if (!(s->watch.want & TAUT_WRITE)) {
        if (s->pending_size <= s->high)
            taut_loop_defer(s->loop, &s->flush);
        else if (taut_stream_flush(s))
            return 0;
    }
    pause_if_high(s);
    return 0;
}

int taut_stream_write(taut_stream *s, const void *bytes, size_t size, void *token) {
    int rc = write_check(s, size, token);
    if (rc != 1)
        return rc;
    int first = s->write_turn != s->loop->turn;
    s->write_turn = s->loop->turn;
    if (!first)
        s->coalesce = 1;
    if (s->queue_count == 0 && (s->eager || (first && !s->coalesce)))
        return write_now(s, bytes, size, token);
    return write_later(s, bytes, size, token);
}

int taut_stream_append(taut_stream *s, const void *bytes, size_t size, void *token) {
    int rc = write_check(s, size, token);
    return rc != 1 ? rc : write_later(s, bytes, size, token);
}

int taut_stream_write_eof(taut_stream *s) {
    if (s->closing || s->eof_requested)
        return 0;
    s->eof_requested = 1;
    if (s->queue_count > 0 || s->file)
        return 0;
    s->eof_sent = 1;
    taut_loop_touch(s->loop);
    return taut_sys_shutdown_write(s->watch.fd);
}

void taut_stream_set_water_marks(taut_stream *s, size_t low, size_t high) {
    taut_assert(low <= high);
    s->low = low;
    s->high = high;
    pause_if_high(s);
}
