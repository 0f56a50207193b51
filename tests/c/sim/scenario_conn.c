#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "io/sys.h"
#include "scenario.h"

enum { TO_INSIDE, TO_OUTSIDE };

typedef struct {
    conn *owner;
    size_t size;
    uint8_t bytes[];
} token;

static conn *conn_of(taut_stream *s) {
    return TAUT_CONTAINER(s, conn, stream);
}

uint8_t conn_byte(int id, int direction, uint64_t position) {
    uint64_t x = (position + 1) * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)(id * 2 + direction);
    return (uint8_t)((x ^ x >> 29) * UINT64_C(0xbf58476d1ce4e5b9) >> 56);
}

static void fill(uint8_t *bytes, size_t size, int id, int direction, uint64_t position) {
    for (size_t i = 0; i < size; i++)
        bytes[i] = conn_byte(id, direction, position + i);
}

void conn_fill(uint8_t *bytes, size_t size, int id, uint64_t position) {
    fill(bytes, size, id, TO_OUTSIDE, position);
}

static void check_bytes(const uint8_t *bytes, size_t size, int id, int direction,
                        uint64_t position) {
    for (size_t i = 0; i < size; i++)
        SIM_CHECK(bytes[i] == conn_byte(id, direction, position + i),
                  "conn %d: wrong byte at position %llu, %s", id,
                  (unsigned long long)(position + i), direction ? "written" : "read");
}

/* The stream's callbacks. */

static void check_callback(conn *c, const char *name) {
    sim_trace("conn %d: %s", c->id, name);
    SIM_CHECK(c->state == OPEN, "conn %d: %s after closed", c->id, name);
    SIM_CHECK(sim_fd_is_open(c->fd), "conn %d: %s with its fd closed", c->id, name);
}

static void received(conn *c, const uint8_t *bytes, size_t size) {
    SIM_CHECK(!c->close_called, "conn %d: data after close", c->id);
    SIM_CHECK(!c->eof_seen, "conn %d: data after eof", c->id);
    SIM_CHECK(!c->paused_reading, "conn %d: data while paused", c->id);
    check_bytes(bytes, size, c->id, TO_INSIDE, c->rx);
    c->rx += size;
    if (sim_below(2))
        conn_act(c);
}

static void on_data(taut_stream *s, const uint8_t *bytes, size_t size) {
    conn *c = conn_of(s);
    check_callback(c, "data");
    SIM_CHECK(!s->buffered && size > 0, "conn %d: data in buffered mode, or none", c->id);
    received(c, bytes, size);
}

static int on_get_buffer(taut_stream *s, size_t size_hint, void **bytes, size_t *size) {
    conn *c = conn_of(s);
    check_callback(c, "get_buffer");
    SIM_CHECK(!c->close_called && !c->eof_seen && !c->paused_reading,
              "conn %d: get_buffer although nothing may be read", c->id);
    if (sim_chance(2)) {
        c->lossy = c->broken_ok = 1;
        return -EINVAL;
    }
    if (sim_below(8) == 0) {
        conn_act(c);
        if (c->state != OPEN)
            return 0;
    }
    free(c->buffer);
    c->buffer_size = 1 + sim_below(sim_below(2) ? 64 : size_hint);
    c->buffer = malloc(c->buffer_size);
    SIM_CHECK(c->buffer, "out of memory");
    *bytes = c->buffer;
    *size = c->buffer_size;
    return 0;
}

static void on_filled(taut_stream *s, size_t size) {
    conn *c = conn_of(s);
    check_callback(c, "filled");
    SIM_CHECK(size > 0 && size <= c->buffer_size, "conn %d: filled %zu of %zu", c->id, size,
              c->buffer_size);
    received(c, c->buffer, size);
}

static int on_eof(taut_stream *s) {
    conn *c = conn_of(s);
    check_callback(c, "eof");
    SIM_CHECK(!c->eof_seen && !c->close_called, "conn %d: eof twice or after close", c->id);
    SIM_CHECK(c->out_fin || c->out_closed, "conn %d: eof that nobody sent", c->id);
    SIM_CHECK(c->lossy || c->rx == c->out_tx, "conn %d: eof before the data", c->id);
    c->eof_seen = 1;
    conn_act(c);
    if (!c->keep_open)
        c->close_called = 1;
    return c->keep_open;
}

static void on_pause(taut_stream *s) {
    conn *c = conn_of(s);
    check_callback(c, "pause_writing");
    SIM_CHECK(!c->writing_paused, "conn %d: paused twice", c->id);
    SIM_CHECK(s->pending_size > s->high, "conn %d: paused below the high mark", c->id);
    c->writing_paused = 1;
    if (sim_below(4) == 0)
        conn_act(c);
}

static void on_resume(taut_stream *s) {
    conn *c = conn_of(s);
    check_callback(c, "resume_writing");
    SIM_CHECK(c->writing_paused, "conn %d: resumed without a pause", c->id);
    SIM_CHECK(s->pending_size <= s->low, "conn %d: resumed above the low mark", c->id);
    c->writing_paused = 0;
    if (sim_below(2))
        conn_act(c);
}

static void on_closed(taut_stream *s, int err) {
    conn *c = conn_of(s);
    check_callback(c, "closed");
    SIM_CHECK(c->file_fd < 0, "conn %d: closed while a file is sent", c->id);
    SIM_CHECK(c->tokens == 0, "conn %d: closed with %d segments not released", c->id, c->tokens);
    SIM_CHECK(err == 0 || c->broken_ok || sc.oom, "conn %d: closed with %d out of the blue", c->id,
              err);
    SIM_CHECK(err != 0 || c->close_called, "conn %d: closed by itself", c->id);
    c->state = GONE;
    c->closing_err = err;
    if (err != 0)
        c->lossy = 1;
    free(c->buffer);
    c->buffer = NULL;
    memset(s, 0xff, sizeof *s); /* as if freed: a later touch does not go unseen */
}

static void on_release(void *p) {
    token *t = p;
    SIM_CHECK(t->owner->state == OPEN, "conn %d: release after closed", t->owner->id);
    t->owner->tokens--;
    memset(t->bytes, 0xee, t->size);
    free(t);
}

static const taut_stream_ops stream_ops = {
    .data = on_data,
    .get_buffer = on_get_buffer,
    .filled = on_filled,
    .eof = on_eof,
    .pause_writing = on_pause,
    .resume_writing = on_resume,
    .closed = on_closed,
    .release = on_release,
};

/* What the owner does. */

void conn_open(int fd, sim_socket *outside) {
    if (sc.conn_count == CONNS_MAX) {
        taut_sys_close(fd);
        return;
    }
    conn *c = &sc.conns[sc.conn_count];
    *c = (conn){.state = OPEN, .fd = fd, .id = sc.conn_count++, .outside = outside, .file_fd = -1};
    c->out_total = sim_below(sim_below(8) ? 4000 : sc.capacity * 8);
    c->end = (enum outside_end)sim_below(END_NONE + 1);
    c->keep_open = (int)sim_below(2);
    c->actions_left = 60;
    taut_stream_open(&c->stream, &sc.loop, fd, &stream_ops);
    c->stream.plain = sim_below(4) == 0;
    c->stream.eager = sim_below(3) == 0;
    taut_stream_set_buffered(&c->stream, sim_below(3) == 0);
    if (sim_below(2)) {
        size_t high = (size_t)sim_below(5000);
        taut_stream_set_water_marks(&c->stream, (size_t)sim_below(high + 1), high);
    }
    if (taut_stream_read_start(&c->stream) < 0)
        c->paused_reading = 1;
    conn_act(c);
}

static void write_some(conn *c, int append) {
    size_t size = (size_t)sim_below(sim_below(4) ? sc.write_max / 6 : sc.write_max);
    void *borrowed = NULL;
    token *t = malloc(sizeof *t + size);
    SIM_CHECK(t, "out of memory");
    t->owner = c;
    t->size = size;
    fill(t->bytes, size, c->id, TO_OUTSIDE, c->tx);
    if (sim_below(2)) {
        borrowed = t;
        c->tokens++;
    }
    uint64_t dropped = c->stream.dropped_writes;
    /* Before the call: pause_writing, called within, may write the bytes that follow. */
    int eof_before = c->wrote_eof, lost_before = (int)c->stream.lost, file_before = c->file_fd >= 0;
    uint64_t tx = c->tx;
    if (!eof_before && !lost_before && !file_before)
        c->tx += size;
    int rc = append ? taut_stream_append(&c->stream, t->bytes, size, borrowed)
                    : taut_stream_write(&c->stream, t->bytes, size, borrowed);
    sim_trace("conn %d: %s %zu -> %d", c->id, append ? "append" : "write", size, rc);
    if (!borrowed) {
        memset(t->bytes, 0xee, size);
        free(t);
    }
    if (eof_before)
        SIM_CHECK(rc == TAUT_E_EOF_WRITTEN, "conn %d: write after write_eof: %d", c->id, rc);
    else if (file_before)
        SIM_CHECK(rc == TAUT_E_STATE, "conn %d: write beside a file: %d", c->id, rc);
    else if (rc < 0) {
        SIM_CHECK(rc == -ENOMEM && sc.oom, "conn %d: write: %d", c->id, rc);
        SIM_CHECK(c->tx == tx + size, "conn %d: a failed write called back", c->id);
        c->tx = tx; /* nothing left, or the stream is aborted */
        if (c->stream.lost)
            c->lossy = 1;
    } else if (lost_before && size > 0) {
        SIM_CHECK(c->stream.dropped_writes == dropped + 1, "conn %d: a drop not counted", c->id);
    }
}

static void half_close(conn *c) {
    int nothing_to_do = c->stream.closing || c->wrote_eof;
    if (!c->stream.closing)
        c->wrote_eof = 1;
    int rc = taut_stream_write_eof(&c->stream);
    sim_trace("conn %d: write_eof -> %d", c->id, rc);
    SIM_CHECK(rc == 0 || (c->broken_ok && !nothing_to_do), "conn %d: write_eof: %d", c->id, rc);
}

static void cut_off(conn *c) {
    static const int errors[] = {0, -ECONNABORTED};
    int err = errors[sim_below(2)];
    sim_trace("conn %d: abort %d", c->id, err);
    c->close_called = c->lossy = c->broken_ok = 1;
    taut_stream_abort(&c->stream, err);
    SIM_CHECK(c->state == OPEN, "conn %d: closed within abort", c->id);
}

void conn_give_up(conn *c) {
    int closing = c->stream.closing, pending = c->stream.queue_count > 0 || c->file_fd >= 0;
    int fd = taut_stream_detach(&c->stream);
    sim_trace("conn %d: detach -> %d", c->id, fd);
    if (closing || pending) {
        SIM_CHECK(fd == (closing ? TAUT_E_CLOSING : TAUT_E_STATE), "conn %d: detach: %d", c->id,
                  fd);
        return;
    }
    SIM_CHECK(fd == c->fd, "conn %d: detach gave %d for %d", c->id, fd, c->fd);
    c->state = GONE;
    c->close_called = 1;
    c->lossy |= c->rx < c->out_total;
    memset(&c->stream, 0xff, sizeof c->stream);
    free(c->buffer);
    c->buffer = NULL;
    taut_sys_close(fd);
}

static void conn_close(conn *c) {
    sim_trace("conn %d: close", c->id);
    c->close_called = 1;
    taut_stream_close(&c->stream);
    SIM_CHECK(c->state == OPEN, "conn %d: closed within close", c->id);
}

void conn_resume(conn *c) {
    if (taut_stream_read_start(&c->stream) == 0)
        c->paused_reading = 0;
    else
        SIM_CHECK(sc.oom, "conn %d: reading did not resume", c->id);
}

static void set_marks(conn *c) {
    if (sim_below(2))
        write_some(c, 1);
    if (c->state != OPEN)
        return;
    size_t high = (size_t)sim_below(3000);
    taut_stream_set_water_marks(&c->stream, (size_t)sim_below(high + 1), high);
}

void conn_act(conn *c) {
    if (c->state != OPEN || c->actions_left <= 0)
        return;
    c->actions_left--;
    switch (sim_below(40)) {
    case 0:
        if (!c->stream.plain)
            half_close(c);
        break;
    case 1:
        conn_close(c);
        break;
    case 2:
        if (sim_below(3) == 0)
            cut_off(c);
        break;
    case 3:
        if (sim_below(2))
            conn_give_up(c);
        break;
    case 11: /* a stale event of the one must not reach the other */
    case 12: {
        conn *other = &sc.conns[sim_below((uint64_t)sc.conn_count)];
        if (other->state == OPEN)
            conn_give_up(other);
        connect_some((int)sim_below(2));
        break;
    }
    case 4:
    case 5:
        taut_stream_read_stop(&c->stream);
        c->paused_reading = 1;
        break;
    case 6:
    case 7:
    case 8:
        conn_resume(c);
        break;
    case 9:
        taut_stream_set_buffered(&c->stream, (int)sim_below(2));
        break;
    case 10:
        set_marks(c);
        break;
    case 13:
    case 14:
    case 15:
        conn_send_file(c);
        break;
    case 16:
        conn_cancel_file(c);
        break;
    case 17:
        conn_warm_file(c);
        break;
    default:
        for (uint64_t i = sim_below(sim_below(4) ? 3 : 150); i > 0 && c->state == OPEN; i--)
            if (!c->writing_paused || sim_below(20) == 0)
                write_some(c, sim_below(4) == 0);
    }
}

void conn_shut_down(conn *c) {
    if (c->state != OPEN)
        return;
    if (sim_below(4))
        conn_close(c);
    else
        cut_off(c);
}

/* The outside. */

static int outside_send(conn *c) {
    uint8_t bytes[2048];
    if (c->out_fin || c->out_closed)
        return 0;
    uint64_t rest = c->out_total - c->out_tx;
    if (rest > 0) {
        size_t size = 1 + (size_t)sim_below(rest < sizeof bytes ? rest : sizeof bytes);
        fill(bytes, size, c->id, TO_INSIDE, c->out_tx);
        size_t n = sim_out_send(c->outside, bytes, size);
        c->out_tx += n;
        return n > 0;
    }
    switch (c->end) {
    case END_FIN:
        c->out_fin = 1;
        sim_out_shutdown(c->outside);
        return 1;
    case END_CLOSE:
        c->out_fin = c->out_closed = c->lossy = c->broken_ok = 1;
        sim_out_close(c->outside);
        return 1;
    case END_RESET:
        c->out_fin = c->out_closed = c->lossy = c->broken_ok = 1;
        sim_out_reset(c->outside);
        return 1;
    default:
        return 0;
    }
}

static int outside_recv(conn *c) {
    uint8_t bytes[4096];
    if (c->out_eof || c->out_closed)
        return 0;
    ssize_t n = sim_out_recv(c->outside, bytes, 1 + (size_t)sim_below(sizeof bytes));
    if (n == -EAGAIN)
        return 0;
    if (n <= 0) {
        sim_trace("conn %d: outside got its end, %zd", c->id, n);
        c->out_eof = 1;
        SIM_CHECK(c->wrote_eof || c->close_called || c->lossy || sc.oom,
                  "conn %d: an EOF that the inside did not send", c->id);
        return 1;
    }
    sim_trace("conn %d: outside got %zd", c->id, n);
    check_bytes(bytes, (size_t)n, c->id, TO_OUTSIDE, c->out_rx);
    c->out_rx += (uint64_t)n;
    SIM_CHECK(c->out_rx <= c->tx || c->lossy, "conn %d: more came out than went in", c->id);
    return 1;
}

int conn_outside_step(conn *c) {
    if (c->state == UNUSED)
        return 0;
    if (sim_below(2))
        return outside_send(c) || outside_recv(c);
    return outside_recv(c) || outside_send(c);
}

void conn_check_quiet(conn *c) {
    unsigned long long rx = c->rx, tx = c->tx, out_rx = c->out_rx, out_tx = c->out_tx;
    if (c->lossy)
        return;
    if (c->file_cold)
        return;
    SIM_CHECK(out_rx == tx, "conn %d: %llu bytes written, %llu arrived", c->id, tx, out_rx);
    if (c->state == GONE) {
        SIM_CHECK(c->out_eof, "conn %d: closed, but its peer saw no EOF", c->id);
        return;
    }
    SIM_CHECK(!c->close_called, "conn %d: close() without closed", c->id);
    SIM_CHECK(c->file_fd < 0, "conn %d: a file was not sent", c->id);
    SIM_CHECK(c->stream.pending_size == 0 && !c->writing_paused, "conn %d: stuck writing", c->id);
    SIM_CHECK(!c->wrote_eof || c->out_eof, "conn %d: write_eof() did not arrive", c->id);
    if (!c->paused_reading) {
        SIM_CHECK(rx == out_tx, "conn %d: %llu bytes sent, %llu came", c->id, out_tx, rx);
        SIM_CHECK(c->eof_seen == c->out_fin, "conn %d: eof did not come", c->id);
    }
}
