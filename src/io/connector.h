/* One non-blocking connect on an fd that the connector does not own. Loop thread only. */
#ifndef TAUT_IO_CONNECTOR_H
#define TAUT_IO_CONNECTOR_H

#include <sys/socket.h>
#include "io/loop.h"

typedef struct taut_connector taut_connector;
struct taut_connector {
    taut_watch watch;
    taut_loop *loop;
    /* err: 0 connected, negative why not. Exactly once, unless cancelled; the struct is free. */
    void (*done)(taut_connector *c, int err);
};

/* 1: connected at once (no `done` follows); 0: under way; negative: failed (no `done`). The fd is
 * treated as foreign: the user may close it while the connect is under way. A full backlog of a
 * Unix socket is -EAGAIN: nothing is under way then, and nothing would ever report it. */
int taut_connector_start(taut_connector *c, taut_loop *l, int fd, const struct sockaddr *addr,
                         socklen_t size, void (*done)(taut_connector *c, int err)) TAUT_MUST_USE;
void taut_connector_cancel(taut_connector *c); /* `done` never runs; harmless when finished */

#endif
