/* A datagram socket: reading one or many at a time, a queue of datagrams to be sent, water marks,
 * and exactly one `closed`.
 *
 * Ownership and order:
 *  1. taut_dgram_open takes the fd (but see foreign_fd); it is closed once, right after `closed`
 *     returned.
 *  2. `closed` comes exactly once, through the ready queue (when its ring cannot grow: from the
 *     end-of-turn work, which needs no memory), never inside a call of this API, and is the last
 *     callback. The owner frees the struct then, or later, or after taut_dgram_discard: never
 *     within another callback.
 *  3. Datagrams come in the order of arrival, never once closing has begun, never while paused.
 *     They leave in the order of the sends.
 *  4. A callback may call anything here, also close or abort its own socket.
 *  5. A datagram with a token is borrowed until `release(token)`; without one it is copied.
 * Loop thread only. */
#ifndef TAUT_IO_DGRAM_H
#define TAUT_IO_DGRAM_H

#include <sys/socket.h>
#include "io/loop.h"

typedef struct taut_dgram taut_dgram;

typedef struct {
    /* Valid during the call. from_size 0: a sender without a name. */
    void (*received)(taut_dgram *d, const uint8_t *bytes, size_t size, const struct sockaddr *from,
                     socklen_t from_size);
    /* Only with own_io: there is something to read; the owner reads one datagram. */
    void (*readable)(taut_dgram *d);
    /* A datagram of taut_dgram_send_own. 0: it left, or is given up; -EAGAIN: the socket is full;
     * other errors: given up, and passed on by taut_dgram_send_own if that called it. */
    int (*send_own)(taut_dgram *d, void *token);
    /* Reading failed (an ICMP error, say), or a queued datagram could not be sent and is dropped.
     * The socket goes on. */
    void (*error)(taut_dgram *d, int err);
    void (*pause_writing)(taut_dgram *d);
    void (*resume_writing)(taut_dgram *d);
    /* err: 0 for close(), negative for why it broke. */
    void (*closed)(taut_dgram *d, int err);
    /* May be called from within any call of this API, with the queue already consistent. */
    void (*release)(void *token);
} taut_dgram_ops;

#define TAUT_DATAGRAM_ADDR_MAX                                                                     \
    28 /* sizeof(struct sockaddr_in6); longer ones are kept in a block                             \
        */
typedef struct {
    const uint8_t *bytes;
    size_t size;
    void *token;
    void *block; /* a long address, then the bytes when they were copied */
    uint32_t addr_size;
    uint8_t own; /* sent by ops->send_own */
    _Alignas(4) uint8_t addr[TAUT_DATAGRAM_ADDR_MAX];
} taut_datagram;

struct taut_dgram_kept;
struct taut_dgram_retry;

struct taut_dgram {
    taut_watch watch;
    taut_loop *loop;
    int foreign_fd;     /* set after open: the owner closes the fd itself, within `closed` */
    size_t header_size; /* set after open: what a queued datagram counts beyond its bytes */
    const taut_dgram_ops *ops;
    taut_deferred flush;
    taut_datagram *queue; /* ring of what is to be sent */
    uint32_t queue_head, queue_count, queue_capacity;
    struct taut_dgram_kept *kept_first, *kept_last; /* read, but not delivered yet */
    struct taut_dgram_retry *retry; /* the timer of the next try, when epoll cannot tell */
    size_t pending_size;            /* bytes queued, headers included */
    size_t high, low;               /* water marks, bytes */
    uint64_t write_turn;            /* the loop turn that has seen a send already */
    uint64_t dropped_writes;        /* sends after the end */
    int close_err;
    unsigned quiet; /* looks for a second datagram in vain, then events since the last one */
    /* large: datagrams may exceed 64 KiB. connected: set after open; sends without an address are
     * dropped after the end. own_io: set after open; the owner reads itself. batch: several
     * datagrams are being delivered, whose answers leave together. bursts: many came at once. */
    unsigned large : 1, connected : 1, own_io : 1, reading : 1, batch : 1, bursts : 1, flushing : 1,
        telling : 1, progress : 1, writing_paused : 1, closing : 1, lost : 1, closed_scheduled : 1;
};

/* Fills the struct; nothing is registered until taut_dgram_read_start. Default water marks: 64 KiB
 * and 16 KiB. `family`: of the socket; Unix datagrams may be larger than those of IP. */
void taut_dgram_open(taut_dgram *d, taut_loop *l, int fd, int family, const taut_dgram_ops *ops);
/* Harmless when already so, or closing. 0 or a negative error of epoll_ctl. */
int taut_dgram_read_start(taut_dgram *d) TAUT_MUST_USE;
void taut_dgram_read_stop(taut_dgram *d);
/* Sends a datagram, to `addr` or (NULL) to the connected peer. The first one of a turn on an empty
 * queue is tried at once, and its error returned; later ones leave together at the turn's end, or
 * sooner when they are many, and their errors go to ops->error. While the loop does not run, each
 * is tried at once. `token` (may be NULL) is released on every path. 0, or a negative error:
 * nothing was sent. After the end: tried once, but dropped (counted) when connected. */
int taut_dgram_send(taut_dgram *d, const void *bytes, size_t size, const struct sockaddr *addr,
                    socklen_t addr_size, void *token) TAUT_MUST_USE;
/* A datagram that only the owner can send, by ops->send_own(token), now or in its turn. `size`
 * counts for the water marks. 0, -ENOMEM, or what send_own returned. */
int taut_dgram_send_own(taut_dgram *d, size_t size, void *token) TAUT_MUST_USE;
/* Sends now what was held back for the turn's end. */
void taut_dgram_flush(taut_dgram *d);
/* low <= high; pauses at once if the queue now lies above. A paused owner resumes when datagrams
 * have left next, as in asyncio. */
void taut_dgram_set_water_marks(taut_dgram *d, size_t low, size_t high);
/* Stops reading; `closed(0)` after the queue has been sent. */
void taut_dgram_close(taut_dgram *d);
/* Drops the queue; `closed(err)` soon. After close() it still cuts the flush short. */
void taut_dgram_abort(taut_dgram *d, int err);
/* For the owner's destructor: closes the fd and releases the queue now, without any callback but
 * `release`. Only when `closed` is not on its way, or when the loop is closed. */
void taut_dgram_discard(taut_dgram *d);

#endif
