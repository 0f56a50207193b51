/* Streams of the scenario that send from files. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "io/sys.h"
#include "scenario.h"

static void ended(conn *c) {
    int fd = c->file_fd;
    c->file_fd = -1;
    c->file_cold = 0;
    c->tx = c->file_base + c->file.sent;
    SIM_CHECK(c->file.sent <= c->file_total, "conn %d: more than the file was sent", c->id);
    taut_sys_close(fd);
}

static void check_error(const conn *c, int err) {
    if (err == -EIO)
        SIM_CHECK(c->file_bad, "conn %d: a file went bad by itself", c->id);
    else if (err == TAUT_E_CLOSING)
        SIM_CHECK(c->close_called || c->broken_ok, "conn %d: a file ended by itself", c->id);
    else if (err < 0)
        SIM_CHECK(c->broken_ok || sc.oom, "conn %d: a file ended with %d", c->id, err);
    else
        SIM_CHECK(c->file.sent == c->file_total, "conn %d: %llu of %llu bytes of a file were sent",
                  c->id, (unsigned long long)c->file.sent, (unsigned long long)c->file_total);
}

static void on_done(taut_sendfile *f, int err) {
    conn *c = TAUT_CONTAINER(f, conn, file);
    sim_trace("conn %d: file done, %d", c->id, err);
    SIM_CHECK(c->state == OPEN, "conn %d: a file was done after closed", c->id);
    SIM_CHECK(c->file_fd >= 0, "conn %d: a file was done twice, or not under way", c->id);
    check_error(c, err);
    ended(c);
    if (sim_below(2))
        conn_act(c);
}

static void on_cold(taut_sendfile *f) {
    conn *c = TAUT_CONTAINER(f, conn, file);
    sim_trace("conn %d: file is cold", c->id);
    SIM_CHECK(c->state == OPEN && c->file_fd >= 0 && !c->file_cold,
              "conn %d: cold twice, or after the end", c->id);
    c->file_cold = 1;
    if (sc.phase > 0 || sim_below(2))
        conn_warm_file(c);
    else if (sim_below(2))
        conn_act(c);
}

void conn_warm_file(conn *c) {
    if (c->state != OPEN || !c->file_cold)
        return;
    c->file_cold = 0;
    taut_stream_sendfile_go_on(&c->stream);
}

/* `skip` bytes that must not be sent, then what comes next on the connection. */
static int make_file(const conn *c, size_t skip, size_t size, size_t bad_at) {
    uint8_t *bytes = malloc(skip + size + 1);
    SIM_CHECK(bytes, "out of memory");
    memset(bytes, 0xee, skip);
    conn_fill(bytes + skip, size, c->id, c->tx);
    int fd = sim_file_open(bytes, skip + size, bad_at);
    free(bytes);
    return fd;
}

static int expected_refusal(const conn *c) {
    return c->stream.closing        ? TAUT_E_CLOSING
           : c->wrote_eof           ? TAUT_E_EOF_WRITTEN
           : c->stream.file != NULL ? TAUT_E_STATE
                                    : 0;
}

static void refuse(conn *c, int refusal) {
    taut_sendfile other = {.fd = -1, .left = 1};
    int rc = taut_stream_sendfile(&c->stream, &other);
    SIM_CHECK(rc == refusal, "conn %d: sendfile gave %d for %d", c->id, rc, refusal);
}

void conn_send_file(conn *c) {
    int refusal = expected_refusal(c);
    if (refusal != 0) {
        refuse(c, refusal);
        return;
    }
    size_t skip = (size_t)sim_below(100), size = (size_t)sim_below(4 * sc.write_max);
    c->file_bad = sim_below(8) == 0;
    c->file_fd = make_file(c, skip, size, c->file_bad ? sim_below(skip + size + 1) : SIZE_MAX);
    c->file_base = c->tx;
    c->file = (taut_sendfile){.fd = c->file_fd,
                              .offset = skip,
                              .left = UINT64_MAX,
                              .size = skip + size,
                              .done = on_done,
                              .cold = on_cold};
    c->file_total = size;
    if (sim_below(2)) {
        c->file.left = 1 + sim_below(size + 10);
        c->file_total = c->file.left < size ? c->file.left : size;
    }
    c->tx += c->file_total; /* before the call, as with a write */
    int rc = taut_stream_sendfile(&c->stream, &c->file);
    sim_trace("conn %d: sendfile %zu -> %d", c->id, size, rc);
    if (rc == 0)
        return;
    check_error(c, rc < 0 ? rc : 0);
    ended(c);
}

void conn_cancel_file(conn *c) {
    taut_stream_sendfile_cancel(&c->stream);
    if (c->file_fd >= 0)
        ended(c);
}
