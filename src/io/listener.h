/* A listening socket that accepts in batches: of one, as long as connections come one by one, so
 * that no accept finds nothing; of twice as many each iteration in which they keep coming. Out of
 * fds or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM) it stops accepting for a second, says so through
 * `starved`, and recovers by itself; so it does after any error that is not just one connection's,
 * since a listening socket with a lasting error stays readable. The listener owns its fd when
 * `own_fd`. Loop thread only. */
#ifndef TAUT_IO_LISTENER_H
#define TAUT_IO_LISTENER_H

#include <sys/socket.h>
#include "io/loop.h"

typedef struct taut_listener taut_listener;
typedef struct {
    /* Takes the fd: non-blocking, close-on-exec. `peer` is valid during the call. */
    void (*accepted)(taut_listener *ln, int fd, const struct sockaddr *peer, socklen_t size);
    void (*starved)(taut_listener *ln, int err); /* accept failed with err; retried after 1 s */
    void (*failed)(taut_listener *ln, int err);  /* any other lasting error; retried after 1 s */
} taut_listener_ops;

struct taut_listener {
    taut_watch watch;
    taut_timer retry;
    taut_loop *loop;
    const taut_listener_ops *ops;
    int backlog;      /* accepts per readiness event at most (asyncio: the backlog) */
    int batch;        /* accepts at this readiness event at most: 1 to backlog */
    uint64_t grow_at; /* the iteration right after one whose batch was filled; they count from 1 */
    int own_fd, active, retry_live, in_accept, freed; /* retry_live: the timer is in the heap */
    void (*on_freed)(taut_listener *ln);
};

/* The socket already listens and is non-blocking. */
void taut_listener_init(taut_listener *ln, taut_loop *l, int fd, int own_fd, int backlog,
                        const taut_listener_ops *ops);
int taut_listener_start(taut_listener *ln) TAUT_MUST_USE; /* 0 or negative error; idempotent */
void taut_listener_stop(taut_listener *ln);               /* keeps the fd open; idempotent */
/* Stops, closes the fd if owned, and calls on_freed once the struct may go (the retry timer may
 * still be in the heap). May be called from within `accepted`. */
void taut_listener_close(taut_listener *ln, void (*on_freed)(taut_listener *ln));

#endif
