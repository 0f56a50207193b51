/* See stream_sendfile.h. */
#include "io/stream_sendfile.h"
#include <errno.h>
#include "base/err.h"
#include "io/stream_private.h"
#include "io/sys.h"

/* Both ends stand for the whole: what lies between has mostly come and gone with them. */
static int in_memory(const taut_sendfile *f, size_t size) {
    uint64_t rest = f->offset < f->size ? f->size - f->offset : 0;
    if (rest == 0)
        return 1;
    uint64_t last = f->offset + (size < rest ? size : rest) - 1;
    return taut_sys_file_in_memory(f->fd, last) && taut_sys_file_in_memory(f->fd, f->offset);
}

int taut_sendfile_chunk(taut_sendfile *f, int fd) {
    size_t size = f->left < TAUT_SENDFILE_CHUNK_SIZE ? (size_t)f->left : TAUT_SENDFILE_CHUNK_SIZE;
    if (!f->warmed && !in_memory(f, size))
        return TAUT_E_COLD;
    ssize_t n = taut_sys_sendfile(fd, f->fd, f->offset, size);
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    if (n < 0)
        return (int)n;
    f->warmed = 0;
    f->offset += (uint64_t)n;
    f->sent += (uint64_t)n;
    if (f->left != UINT64_MAX)
        f->left -= (uint64_t)n;
    if (n == 0 || f->left == 0)
        return 1;
    /* A short one has filled the socket, or has come to the file's end: the next call tells. */
    return (size_t)n < size && f->offset < f->size ? 0 : 2;
}

/* 1: all is sent; 0: as much as the socket takes now; negative error. */
static int send_some(taut_stream *s, taut_sendfile *f) {
    int rc = 2;
    for (int i = 0; rc == 2 && i < TAUT_SENDFILE_CHUNKS_PER_EVENT_MAX; i++)
        rc = taut_sendfile_chunk(f, s->watch.fd);
    return rc == 2 ? 0 : rc;
}

/* s->file cannot go on. Returns 1 when the struct is gone. */
static int pause_for_disk(taut_stream *s) {
    taut_sendfile *f = s->file;
    s->file_paused = 1;
    int rc = taut_stream_want_write(s, 0);
    if (rc < 0) {
        taut_stream_break(s, rc);
        return 0;
    }
    return TAUT_STREAM_CALL(s, f->cold(f));
}

int taut_stream_sendfile(taut_stream *s, taut_sendfile *f) {
    if (s->closing || s->lost)
        return TAUT_E_CLOSING;
    if (s->eof_requested)
        return TAUT_E_EOF_WRITTEN;
    if (s->file)
        return TAUT_E_STATE;
    int rc = 0;
    if (s->queue_count == 0) {
        rc = send_some(s, f);
        if (rc == 0)
            rc = taut_stream_want_write(s, 1);
        if (rc != 0 && rc != TAUT_E_COLD)
            return rc;
    }
    s->file = f;
    s->file_paused = 0;
    if (rc == TAUT_E_COLD)
        (void)pause_for_disk(s);
    return 0;
}

int taut_stream_sendfile_go(taut_stream *s) {
    taut_sendfile *f = s->file;
    if (s->file_paused)
        return 0;
    int rc = send_some(s, f);
    if (rc == 0)
        rc = taut_stream_want_write(s, 1);
    if (rc == 0)
        return 0;
    if (rc == TAUT_E_COLD)
        return pause_for_disk(s);
    s->file = NULL;
    taut_stream_drained(s);
    return TAUT_STREAM_CALL(s, f->done(f, rc < 0 ? rc : 0));
}

void taut_stream_sendfile_go_on(taut_stream *s) {
    if (!s->file || !s->file_paused)
        return;
    s->file_paused = 0;
    s->file->warmed = 1;
    int gone = s->queue_count == 0 ? taut_stream_sendfile_go(s) : 0;
    (void)gone; /* nothing follows that would touch it */
}

void taut_stream_sendfile_fail(taut_stream *s, int err) {
    taut_sendfile *f = s->file;
    s->file = NULL;
    if (f)
        f->done(f, err);
}

void taut_stream_sendfile_cancel(taut_stream *s) {
    int under_way = s->file != NULL;
    s->file = NULL;
    if (under_way && s->queue_count == 0 && !s->lost && s->loop->poller)
        taut_stream_drained(s);
}
