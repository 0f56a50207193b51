/* The signal pipe, whose write end is given to the interpreter's C signal handler (one byte per
 * signal number). It holds 65536 signals, where a socket pair has room for less than 300 single
 * bytes: with a timer that interrupts often, one long callback could lose a SIGTERM. Loop thread
 * only. */
#ifndef TAUT_IO_SIGPIPE_H
#define TAUT_IO_SIGPIPE_H

#include <stddef.h>
#include "io/poller.h"

typedef struct {
    taut_watch watch; /* the read end */
    int write_fd;     /* for signal.set_wakeup_fd; non-blocking; owned here */
    void (*fn)(void *ctx, const unsigned char *signums, size_t count);
    void *ctx;
} taut_sigpipe;

/* `fn` gets every byte in order, in batches. 0 or negative error with nothing left open. */
int taut_sigpipe_init(taut_sigpipe *s, taut_poller *p,
                      void (*fn)(void *ctx, const unsigned char *signums, size_t count),
                      void *ctx) TAUT_MUST_USE;
void taut_sigpipe_free(taut_sigpipe *s, taut_poller *p);
/* In a forked child: a pair of its own under the same numbers; the poller must be renewed after it.
 * 0 or negative error. */
int taut_sigpipe_renew(taut_sigpipe *s) TAUT_MUST_USE;
/* Reads what is there now and calls `fn`, without waiting for the poller. */
void taut_sigpipe_drain(taut_sigpipe *s);

#endif
