#include "load.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

/* One request and its whole answer (an echo) over a non-blocking socket. */
static int touch(taut_load_conn *c, const taut_load_request *req) {
    char back[4096];
    for (size_t sent = 0; sent < req->size;) { /* TLS takes a record at a time */
        ssize_t n = taut_load_send(c, req->bytes + sent, req->size - sent);
        if (n <= 0) {
            return -1;
        }
        sent += (size_t)n;
    }
    for (size_t got = 0; got < req->size;) {
        ssize_t n = taut_load_recv(c, back, sizeof back);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = c->fd, .events = POLLIN};
            if (poll(&p, 1, 10000) != 1) {
                return -1;
            }
            continue;
        }
        if (n <= 0) {
            return -1;
        }
        got += (size_t)n;
    }
    return 0;
}

int taut_load_idle(const taut_load_config *cfg) {
    taut_load_conn *conns = taut_load_alloc(cfg->connections * sizeof *conns);
    unsigned open_count = 0;
    int err = 0;
    /* The first connections pay for the server's one-time memory, so they come before the base
     * line and are not counted. */
    const unsigned first = cfg->connections > 100 ? 100 : 1;
    uint64_t before_kib = 0;
    while (!err && open_count < cfg->connections) {
        if (open_count == first) {
            before_kib = taut_load_rss_kib(cfg->server_pid);
        }
        taut_load_conn *c = &conns[open_count];
        err = taut_load_open(cfg, c);
        if (err) {
            break;
        }
        open_count++;
        if (touch(c, &cfg->mix[0]) != 0) {
            fprintf(stderr, "loadgen: connection %u: no answer\n", open_count);
            err = -1;
        }
    }
    if (!err) {
        uint64_t after_kib = taut_load_rss_kib(cfg->server_pid);
        double grown = ((double)after_kib - (double)before_kib) * 1024.0;
        printf("{\"mode\": \"idle\", \"connections\": %u, \"rss_before_kib\": %llu, "
               "\"rss_after_kib\": %llu, \"bytes_per_connection\": %.1f}\n",
               open_count, (unsigned long long)before_kib, (unsigned long long)after_kib,
               grown / (open_count - first));
    }
    for (unsigned i = 0; i < open_count; i++) {
        taut_load_close(&conns[i]);
    }
    free(conns);
    return err;
}
