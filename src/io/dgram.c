/* A datagram socket's states, the queue of what is to be sent, and the ways it ends. Reading is in
 * dgram_read.c. */
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "base/mem.h"
#include "io/dgram.h"
#include "io/dgram_private.h"
#include "io/sys.h"

#define HIGH_SIZE_DEFAULT (64 * 1024)
#define LOW_SIZE_DEFAULT (16 * 1024)
#define BATCH_MAX 64            /* datagrams per sendmmsg; so many are not held back */
#define SENDS_PER_FLUSH_MAX 128 /* calls: a fast receiver must not hold the loop in one flush */
#define QUEUE_CAPACITY_MIN 8    /* kept between bursts; larger storage is given back */
#define RETRY_NS TAUT_NS_PER_MS

/* ---- the queue ---------------------------------------------------------------------------- */

static taut_datagram *datagram_at(taut_dgram *d, uint32_t i) {
    return &d->queue[(d->queue_head + i) & (d->queue_capacity - 1)];
}

static int queue_grow(taut_dgram *d) {
    uint32_t capacity = d->queue_capacity ? d->queue_capacity * 2 : QUEUE_CAPACITY_MIN;
    taut_datagram *queue = capacity ? taut_realloc_array(NULL, capacity, sizeof *queue) : NULL;
    if (!queue)
        return -ENOMEM;
    for (uint32_t i = 0; i < d->queue_count; i++)
        queue[i] = *datagram_at(d, i);
    taut_free(d->queue);
    d->queue = queue;
    d->queue_capacity = capacity;
    d->queue_head = 0;
    return 0;
}

/* 0 or -ENOMEM; then the token was not released. */
static int queue_push(taut_dgram *d, taut_datagram g, const struct sockaddr *addr) {
    if (d->queue_count == d->queue_capacity && queue_grow(d) < 0)
        return -ENOMEM;
    if (!addr)
        g.addr_size = 0;
    size_t addr_room = g.addr_size > TAUT_DATAGRAM_ADDR_MAX ? g.addr_size : 0;
    size_t copy_size = g.token ? 0 : g.size;
    if (addr_room + copy_size > 0) {
        uint8_t *block =
            copy_size > SIZE_MAX - addr_room ? NULL : taut_malloc(addr_room + copy_size);
        if (!block)
            return -ENOMEM;
        if (addr && addr_room > 0)
            memcpy(block, addr, addr_room);
        if (copy_size > 0) {
            memcpy(block + addr_room, g.bytes, copy_size);
            g.bytes = block + addr_room;
        }
        g.block = block;
    }
    if (addr && addr_room == 0)
        memcpy(g.addr, addr, g.addr_size);
    *datagram_at(d, d->queue_count++) = g;
    d->pending_size += g.size + d->header_size;
    return 0;
}

static void queue_pop(taut_dgram *d) {
    taut_datagram g = *datagram_at(d, 0);
    d->queue_head = (d->queue_head + 1) & (d->queue_capacity - 1);
    d->queue_count--;
    d->progress = 1;
    d->pending_size -= g.size + d->header_size;
    taut_free(g.block);
    if (g.token)
        d->ops->release(g.token);
}

static void queue_drop(taut_dgram *d) {
    taut_datagram *queue = d->queue;
    uint32_t head = d->queue_head, count = d->queue_count, mask = d->queue_capacity - 1;
    void (*release)(void *) = d->ops->release;
    d->queue = NULL;
    d->queue_head = d->queue_count = d->queue_capacity = 0;
    d->pending_size = 0;
    for (uint32_t i = 0; i < count; i++) {
        taut_datagram *g = &queue[(head + i) & mask];
        taut_free(g->block);
        if (g->token)
            release(g->token);
    }
    taut_free(queue);
}

/* ---- trying again ------------------------------------------------------------------------- */

/* Of its own, since a timer in the heap cannot go with its owner. */
typedef struct taut_dgram_retry {
    taut_timer timer;
    taut_dgram *owner; /* NULL: no longer there */
} retry;

static void on_retry(taut_timer *t) {
    retry *r = TAUT_CONTAINER(t, retry, timer);
    taut_dgram *d = r->owner;
    taut_free(r);
    if (!d)
        return;
    d->retry = NULL;
    taut_dgram_flush(d);
}
static void on_retry_dropped(taut_timer *t) {
    retry *r = TAUT_CONTAINER(t, retry, timer);
    if (r->owner)
        r->owner->retry = NULL;
    taut_free(r);
}

static void retry_forget(taut_dgram *d) {
    if (d->retry)
        d->retry->owner = NULL;
    d->retry = NULL;
}

/* ---- the end ------------------------------------------------------------------------------ */

static void deliver_closed(void *arg) {
    taut_dgram *d = arg;
    int fd = d->foreign_fd ? -1 : d->watch.fd;
    d->watch.fd = -1;
    d->ops->closed(d, d->close_err);
    if (fd >= 0)
        taut_sys_close(fd);
}

static void finish(taut_dgram *d, int err) {
    taut_assert(!d->closed_scheduled);
    d->closing = d->lost = d->closed_scheduled = 1;
    d->reading = 0;
    d->close_err = err;
    /* Explicitly, although the fd is closed soon: see taut_stream_finish. */
    taut_poller_remove(d->loop->poller, &d->watch, 1);
    taut_loop_undefer(&d->flush);
    retry_forget(d);
    if (taut_loop_call_soon(d->loop, deliver_closed, d) < 0)
        taut_loop_defer(d->loop, &d->flush);
    taut_dgram_kept_drop(d);
    queue_drop(d); /* last: a release may call anything */
}

void taut_dgram_break(taut_dgram *d, int err) {
    if (!d->lost)
        finish(d, err);
}

void taut_dgram_close(taut_dgram *d) {
    if (d->closing)
        return;
    taut_dgram_read_stop(d);
    d->closing = 1;
    taut_dgram_kept_drop(d);
    if (d->queue_count == 0 && !d->flushing && !d->lost)
        finish(d, 0);
}

void taut_dgram_discard(taut_dgram *d) {
    int fd = d->foreign_fd ? -1 : d->watch.fd;
    d->watch.fd = -1;
    d->closing = d->lost = d->closed_scheduled = 1;
    d->reading = 0;
    if (d->loop->poller)
        taut_poller_remove(d->loop->poller, &d->watch, 1);
    taut_loop_undefer(&d->flush);
    retry_forget(d);
    taut_dgram_kept_drop(d);
    queue_drop(d);
    if (fd >= 0)
        taut_sys_close(fd);
}

/* ---- sending ------------------------------------------------------------------------------ */

static int want_write(taut_dgram *d, int on) {
    uint32_t want = on ? d->watch.want | TAUT_WRITE : d->watch.want & ~TAUT_WRITE;
    return want == d->watch.want ? 0 : taut_poller_want(d->loop->poller, &d->watch, want);
}

/* Writable by epoll, but full by send: so it is while the queue of one Unix socket among several
 * that we send to is full. Without memory for the timer we go on asking. */
static void retry_later(taut_dgram *d) {
    if (!d->retry) {
        retry *r = taut_malloc(sizeof *r);
        if (!r)
            return;
        *r = (retry){.timer = {.due = on_retry, .dropped = on_retry_dropped}, .owner = d};
        taut_heap_node_init(&r->timer.node);
        if (taut_timer_start(&d->loop->timers, &r->timer, taut_sys_now_ns() + RETRY_NS) < 0) {
            taut_free(r);
            return;
        }
        d->retry = r;
    }
    int rc = want_write(d, 0);
    if (rc < 0)
        taut_dgram_break(d, rc);
}

static const struct sockaddr *addr_of(const taut_datagram *g) {
    const void *addr = g->addr_size > TAUT_DATAGRAM_ADDR_MAX ? g->block : (const void *)g->addr;
    return g->addr_size > 0 ? addr : NULL;
}

/* The datagrams at the head that the kernel can be given at once: how many it took, or an error
 * of the first. An error of a later one shows when that has become the first; but one that an ICMP
 * message brought in between is lost by sendmmsg, and the datagram which met it is sent again: its
 * own ICMP message is then what ops->error hears. */
static int send_batch(taut_dgram *d) {
    struct mmsghdr messages[BATCH_MAX];
    struct iovec iov[BATCH_MAX];
    int count = 0;
    for (; count < BATCH_MAX && (uint32_t)count < d->queue_count; count++) {
        taut_datagram *g = datagram_at(d, (uint32_t)count);
        if (g->own)
            break;
        iov[count] = (struct iovec){.iov_base = (void *)(uintptr_t)g->bytes, .iov_len = g->size};
        messages[count] = (struct mmsghdr){.msg_hdr = {.msg_name = (void *)(uintptr_t)addr_of(g),
                                                       .msg_namelen = g->addr_size,
                                                       .msg_iov = &iov[count],
                                                       .msg_iovlen = 1}};
    }
    if (count > 1)
        return taut_sys_sendmmsg(d->watch.fd, messages, count);
    taut_datagram *g = datagram_at(d, 0);
    ssize_t n = taut_sys_sendto(d->watch.fd, g->bytes, g->size, addr_of(g), g->addr_size);
    return n < 0 ? (int)n : 1;
}

static void queue_send(taut_dgram *d) {
    for (int sends = 0; d->queue_count > 0 && sends < SENDS_PER_FLUSH_MAX; sends++) {
        int own = datagram_at(d, 0)->own;
        int n = own ? d->ops->send_own(d, datagram_at(d, 0)->token) : send_batch(d);
        if (d->lost || taut_dgram_would_block(n))
            return;
        for (int i = own || n < 0 ? 1 : n; i > 0 && d->queue_count > 0; i--)
            queue_pop(d);
        if (n < 0 && !own && !d->lost) {
            d->telling = 1;
            d->ops->error(d, n);
            d->telling = 0;
        }
        if (d->lost)
            return;
    }
}

void taut_dgram_flush(taut_dgram *d) {
    if (d->flushing || d->lost)
        return;
    d->flushing = 1;
    queue_send(d);
    d->flushing = 0;
    if (d->lost) /* a callback ended it */
        return;
    int rc = want_write(d, d->queue_count > 0);
    if (rc < 0) {
        taut_dgram_break(d, rc);
        return;
    }
    if (d->queue_count == 0) {
        if (!d->kept_first)
            taut_loop_undefer(&d->flush);
        if (d->queue_capacity > QUEUE_CAPACITY_MIN)
            queue_drop(d);
    }
    if (d->writing_paused && d->pending_size <= d->low) {
        d->writing_paused = 0;
        d->ops->resume_writing(d);
    }
    if (d->queue_count == 0 && d->closing && !d->lost)
        finish(d, 0);
}

void taut_dgram_abort(taut_dgram *d, int err) {
    /* What ops->error() has sent before would have gone at once outside of a flush. */
    if (d->telling && !d->lost)
        queue_send(d);
    taut_dgram_break(d, err);
}

static void on_turn_end(void *arg) {
    taut_dgram *d = arg;
    if (d->closed_scheduled) {
        deliver_closed(d);
        return;
    }
    if (d->queue_count > 0)
        taut_dgram_flush(d);
    if (d->kept_first)
        taut_dgram_kept_deliver(d);
}

/* Last thing in every sender: the owner may do anything in here. */
static void pause_if_high(taut_dgram *d) {
    if (d->pending_size > d->high && !d->writing_paused && !d->lost) {
        d->writing_paused = 1;
        d->ops->pause_writing(d);
    }
}

/* Queued because the socket is full: epoll says when it is not. */
static int queue_blocked(taut_dgram *d, taut_datagram g, const struct sockaddr *addr) {
    int rc = queue_push(d, g, addr);
    if (rc < 0)
        return rc;
    rc = want_write(d, 1);
    if (rc < 0)
        taut_dgram_break(d, rc);
    else
        pause_if_high(d);
    return 0;
}

/* Queued to leave with others, or behind what waits for a full socket. */
static int queue_held(taut_dgram *d, taut_datagram g, const struct sockaddr *addr) {
    int rc = queue_push(d, g, addr);
    if (rc < 0)
        return rc;
    if (!(d->watch.want & TAUT_WRITE) && !d->flushing) {
        if (d->pending_size > d->high || d->queue_count >= BATCH_MAX)
            taut_dgram_flush(d);
        else
            taut_loop_defer(d->loop, &d->flush);
    }
    pause_if_high(d);
    return 0;
}

static void release(taut_dgram *d, void *token) {
    if (token)
        d->ops->release(token);
}

static int send_after_end(taut_dgram *d, const taut_datagram *g, const struct sockaddr *addr) {
    if (d->connected || d->watch.fd < 0) {
        d->dropped_writes++;
        return 0;
    }
    ssize_t n = taut_sys_sendto(d->watch.fd, g->bytes, g->size, addr, g->addr_size);
    return n < 0 && !taut_dgram_would_block(n) ? (int)n : 0;
}

/* 1: it is the first of its turn, with nothing before it. */
static int is_first(taut_dgram *d) {
    int first = d->write_turn != d->loop->turn || !d->loop->running;
    d->write_turn = d->loop->turn;
    return first && d->queue_count == 0 && !d->flushing && !d->batch;
}

int taut_dgram_send(taut_dgram *d, const void *bytes, size_t size, const struct sockaddr *addr,
                    socklen_t addr_size, void *token) {
    taut_datagram g = {.bytes = bytes, .size = size, .token = token, .addr_size = addr_size};
    int rc;
    if (TAUT_UNLIKELY(d->lost)) {
        rc = send_after_end(d, &g, addr);
    } else if (!is_first(d)) {
        rc = queue_held(d, g, addr);
        if (rc == 0)
            return 0;
    } else {
        taut_loop_touch(d->loop);
        ssize_t n = taut_sys_sendto(d->watch.fd, bytes, size, addr, addr_size);
        rc = n < 0 ? (int)n : 0;
        if (TAUT_UNLIKELY(taut_dgram_would_block(rc))) {
            rc = queue_blocked(d, g, addr);
            if (rc == 0)
                return 0;
        }
    }
    release(d, token);
    return rc;
}

int taut_dgram_send_own(taut_dgram *d, size_t size, void *token) {
    taut_datagram g = {.size = size, .token = token, .own = 1};
    int rc = 0;
    if (d->lost && (d->connected || d->watch.fd < 0)) {
        d->dropped_writes++;
    } else if (!d->lost && (d->queue_count > 0 || d->flushing)) {
        rc = queue_held(d, g, NULL);
        if (rc == 0)
            return 0;
    } else {
        taut_loop_touch(d->loop);
        rc = d->ops->send_own(d, token);
        if (taut_dgram_would_block(rc) && d->lost) {
            rc = 0;
        } else if (taut_dgram_would_block(rc)) {
            rc = queue_blocked(d, g, NULL);
            if (rc == 0)
                return 0;
        }
    }
    release(d, token);
    return rc;
}

void taut_dgram_set_water_marks(taut_dgram *d, size_t low, size_t high) {
    taut_assert(low <= high);
    d->low = low;
    d->high = high;
    pause_if_high(d);
}

/* ---- opening and reading ------------------------------------------------------------------ */

static void on_event(taut_watch *w, uint32_t events) {
    taut_dgram *d = TAUT_CONTAINER(w, taut_dgram, watch);
    if (events & TAUT_READ && d->reading)
        taut_dgram_read_event(d);
    if (events & TAUT_WRITE && !d->lost) {
        d->progress = 0;
        taut_dgram_flush(d);
        if (!d->lost && !d->progress && d->queue_count > 0)
            retry_later(d);
    }
    /* Nobody reads or writes, but epoll reports an error even so: out of the set it goes, until
     * reading is resumed. */
    if (events & TAUT_HUP && !d->lost && w->want == 0)
        taut_poller_remove(d->loop->poller, w, 1);
}

void taut_dgram_open(taut_dgram *d, taut_loop *l, int fd, int family, const taut_dgram_ops *ops) {
    *d = (taut_dgram){.loop = l,
                      .ops = ops,
                      .large = family == AF_UNIX,
                      .high = HIGH_SIZE_DEFAULT,
                      .low = LOW_SIZE_DEFAULT,
                      .write_turn = UINT64_MAX};
    taut_watch_init(&d->watch, fd, on_event);
    taut_deferred_init(&d->flush, on_turn_end, d);
}

int taut_dgram_read_start(taut_dgram *d) {
    if (d->reading || d->closing)
        return 0;
    int rc = taut_poller_want(d->loop->poller, &d->watch, d->watch.want | TAUT_READ);
    taut_loop_touch(d->loop);
    if (rc == 0) {
        d->reading = 1;
        if (d->kept_first)
            taut_loop_defer(d->loop, &d->flush);
    }
    return rc;
}

void taut_dgram_read_stop(taut_dgram *d) {
    if (!d->reading)
        return;
    d->reading = 0;
    /* Asks nothing of the kernel, unless someone has put another file behind our fd number. */
    int rc = taut_poller_want(d->loop->poller, &d->watch, d->watch.want & ~TAUT_READ);
    if (rc < 0)
        taut_dgram_break(d, rc);
}
