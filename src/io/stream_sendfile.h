/* A stream that sends from a file by sendfile(2), after what was written before. Reading goes on
 * meanwhile, and the stream is the same before and after. Loop thread only. */
#ifndef TAUT_IO_STREAM_SENDFILE_H
#define TAUT_IO_STREAM_SENDFILE_H

#include "io/stream.h"

/* What one call of sendfile(2) sends at most, in bytes. Much smaller ones cost the kernel up to a
 * third more. */
#define TAUT_SENDFILE_CHUNK_SIZE (1024 * 1024)
/* A fast reader must not hold the loop. */
#define TAUT_SENDFILE_CHUNKS_PER_EVENT_MAX 4

/* Embedded in the caller, who keeps it and the file open until it has ended. */
struct taut_sendfile {
    int fd;          /* of a file that sendfile(2) takes */
    uint64_t offset; /* of the next byte */
    uint64_t left;   /* bytes to send; UINT64_MAX: up to the file's end, wherever it is by then */
    uint64_t size;   /* the file's as far as known: how far a call can get that finds its end */
    uint64_t sent;   /* starts at 0 */
    int warmed;      /* the next chunk is sent whether it is in memory or not; starts at 0 */
    /* The end: 0, also when the file was shorter than `left`; negative for why it broke off, which
     * leaves the stream open: TAUT_E_CLOSING when close() or abort() came between, else the error
     * of sendfile(2) or of the connection. May be called within close() and abort(). */
    void (*done)(taut_sendfile *f, int err);
    /* Sending on would wait for the disk: it pauses until taut_stream_sendfile_go_on. Somebody
     * reads the chunk at `offset` meanwhile, on another thread. Also within a call that starts it
     * or goes on. This and `done` may call anything, also detach. */
    void (*cold)(taut_sendfile *f);
};

/* One chunk to a socket. 1: all is sent. 2: the chunk is. 0: as much as the socket takes now.
 * TAUT_E_COLD: nothing, since the disk is needed. Else a negative error. `f->done` and `f->cold`
 * are not called; for files that are sent without a stream. */
int taut_sendfile_chunk(taut_sendfile *f, int fd) TAUT_MUST_USE;

/* 1: sent at once, without `done`. 0: under way, `done` will be called, not within this
 * call (unless `cold` goes on at once); until then a write is refused with TAUT_E_STATE and a
 * half-close waits. Negative, without `done`: TAUT_E_STATE while another one is under way,
 * TAUT_E_EOF_WRITTEN, TAUT_E_CLOSING, or the error of sendfile(2); f->sent bytes have left. Each
 * event sends a bounded amount. Where the kernel cannot say whether a file is in memory (preadv2(2)
 * with RWF_NOWAIT), sendfile(2) waits for the disk. */
int taut_stream_sendfile(taut_stream *s, taut_sendfile *f) TAUT_MUST_USE;
/* After `cold`. `done` may be called within. Harmless when nothing is under way. */
void taut_stream_sendfile_go_on(taut_stream *s);
/* Forgets it without `done`. Harmless when none is under way, or the loop is closed. */
void taut_stream_sendfile_cancel(taut_stream *s);

#endif
