/* A connected byte stream on a socket that the stream owns: reading into the loop's scratch buffer
 * or the owner's, a write queue, half-close, water marks, and exactly one `closed`. With the flag
 * `plain` it is one on a pipe or a character device.
 *
 * Ownership and order:
 *  1. taut_stream_open takes the fd (but see foreign_fd); it is closed once, right after `closed`
 *     returned (asyncio closes the socket after connection_lost).
 *  2. `closed` comes exactly once, through the ready queue (when its ring cannot grow: from the
 *     end-of-turn work, which needs no memory), never inside a call of this API, and is the last
 *     callback. When it returns the owner may have freed the struct (taut_stream is embedded):
 *     the core touches it no more.
 *  3. Data comes in order, never after `eof` or once closing has begun, never while paused.
 *  4. A callback may call anything here, also close or abort its own stream.
 *  5. A written segment with a token is borrowed until `release(token)`; without one it is copied.
 * Loop thread only. */
#ifndef TAUT_IO_STREAM_H
#define TAUT_IO_STREAM_H

#include "io/loop.h"

typedef struct taut_stream taut_stream;
typedef struct taut_sendfile taut_sendfile; /* stream_sendfile.h */

typedef struct {
    /* Bytes from the scratch buffer, valid during the call. */
    void (*data)(taut_stream *s, const uint8_t *bytes, size_t size);
    /* Only in buffered mode: where to read to. Negative: abort the stream with that error (the
     * owner keeps the details). `filled` says how much came. */
    int (*get_buffer)(taut_stream *s, size_t size_hint, void **bytes, size_t *size);
    void (*filled)(taut_stream *s, size_t size);
    /* The peer sent its FIN. Non-zero: keep the write side open; 0: close. With `hangup`: the
     * reader is gone; the stream ends whatever is returned. */
    int (*eof)(taut_stream *s);
    void (*pause_writing)(taut_stream *s);
    void (*resume_writing)(taut_stream *s);
    /* err: 0 for a clean end, negative for why it broke. */
    void (*closed)(taut_stream *s, int err);
    /* May be called from within any call of this API, with the queue already consistent: it may
     * write or close, but not detach. */
    void (*release)(void *token);
} taut_stream_ops;

typedef struct {
    const uint8_t *bytes;
    size_t size;
    void *token; /* NULL: `block` was copied and is ours */
    void *block;
} taut_segment;

struct taut_stream {
    taut_watch watch;
    taut_loop *loop;
    int foreign_fd; /* set after open: the owner closes the fd itself, within `closed` */
    const taut_stream_ops *ops;
    taut_deferred flush;
    taut_segment *queue; /* ring of pending segments */
    uint32_t queue_head, queue_count, queue_capacity;
    size_t pending_size;       /* bytes not yet accepted by the kernel */
    size_t high, low;          /* water marks, bytes */
    taut_sendfile *file;       /* sent once the queue is; borrowed; NULL: none */
    uint64_t write_turn;       /* the loop turn that has seen a write already */
    uint32_t unflushed_writes; /* queued since the last flush at a turn's end */
    int *gone; /* on the stack of a running callback: detach says there that the struct may be gone
                */
    uint64_t dropped_writes; /* writes after the connection was lost */
    int close_err;
    /* lost: nothing can be sent any more. write_failed: that is why. file_paused: `file` waits for
     * the disk.
     * coalesce: this owner tends to write more than once a turn, so that even a first write waits
     * for the others. */
    unsigned buffered : 1, reading : 1, read_eof : 1, writing_paused : 1, eof_requested : 1,
        eof_sent : 1, closing : 1, lost : 1, closed_scheduled : 1, coalesce : 1, write_failed : 1,
        file_paused : 1;
    /* Set after open. plain: no socket, so read(2) and writev(2); no taut_stream_write_eof.
     * eager: each write on an empty queue is tried at once, since where it begins and ends may
     * matter to the other side. hangup: nothing is read; to become readable is to have lost the
     * reader, which ends the stream with 0, or with -EPIPE while bytes are queued. */
    unsigned plain : 1, eager : 1, hangup : 1;
};

/* Fills the struct; nothing is registered until taut_stream_read_start. Default water marks:
 * 64 KiB and 16 KiB. The fd must be non-blocking. */
void taut_stream_open(taut_stream *s, taut_loop *l, int fd, const taut_stream_ops *ops);
void taut_stream_set_buffered(taut_stream *s, int buffered);
/* Harmless when already so, or closing. 0 or a negative error of epoll_ctl. */
int taut_stream_read_start(taut_stream *s) TAUT_MUST_USE;
void taut_stream_read_stop(taut_stream *s);
/* Writes in order. The first write of a turn on an empty queue is tried at once; what remains, and
 * later writes of the turn, leave in one sendmsg at the turn's end, or at once when they pass the
 * high-water mark. An owner that wrote several times in its last turn has its first write wait,
 * too, so that all leave together. `token` (may be NULL) is released when the bytes are no longer
 * needed; on a negative return it was released too. A write after the connection was lost, or
 * after close() has flushed, is dropped (returns 0, counts in dropped_writes).
 * TAUT_E_EOF_WRITTEN; TAUT_E_STATE while a file is sent; -ENOMEM with nothing written - or, when a
 * part had left already, with the stream aborted, since the rest can never follow. */
int taut_stream_write(taut_stream *s, const void *bytes, size_t size, void *token) TAUT_MUST_USE;
/* As taut_stream_write, but never tried at once: for a run of writes known to belong together. */
int taut_stream_append(taut_stream *s, const void *bytes, size_t size, void *token) TAUT_MUST_USE;
/* Half-close once the queue is sent. Idempotent; nothing when closing. 0, or the negative error of
 * shutdown(2) when it is called at once. */
int taut_stream_write_eof(taut_stream *s) TAUT_MUST_USE;
/* low <= high; pauses at once if the queue now lies above. A paused owner resumes when bytes have
 * left next, as in asyncio. */
void taut_stream_set_water_marks(taut_stream *s, size_t low, size_t high);
/* Sends now what was held back for the turn's end. Returns 1 when a callback gave the struct away
 * (taut_stream_detach): do not touch it; else 0. */
int taut_stream_flush(taut_stream *s) TAUT_MUST_USE;
/* Stops reading; `closed(0)` after the queue has been sent. */
void taut_stream_close(taut_stream *s);
/* Drops the queue; `closed(err)` soon. After close() it still cuts the flush short. */
void taut_stream_abort(taut_stream *s, int err);
static inline int taut_stream_is_closing(const taut_stream *s) {
    return s->closing;
}
/* Goes on under `fd`, another number of the same file; the old one is the owner's. 0, or the
 * negative error of epoll_ctl, which has ended the stream. */
int taut_stream_move(taut_stream *s, int fd) TAUT_MUST_USE;
/* Gives the fd up (registration removed, not closed) and returns it. The owner may free the struct
 * at once, even within a callback. TAUT_E_CLOSING; TAUT_E_STATE while bytes are still queued, or a
 * file is sent. */
int taut_stream_detach(taut_stream *s);
/* For the owner's destructor: closes the fd and releases the queue now, without any callback but
 * `release`. Only when `closed` is not on its way, or when the loop is closed. */
void taut_stream_discard(taut_stream *s);

#endif
