/* Cross-thread wake-up by eventfd: any number of signals before the loop looks make one event and
 * one system call. */
#ifndef TAUT_IO_WAKEUP_H
#define TAUT_IO_WAKEUP_H

#include <stdatomic.h>
#include "io/poller.h"

typedef struct {
    taut_watch watch;
    _Atomic int pending;
    void (*fn)(void *ctx);
    void *ctx;
} taut_wakeup;

/* `fn` runs on the loop's thread once per batch of signals, with the pending mark already cleared,
 * so that work published before a signal is always seen by the run that follows it. */
int taut_wakeup_init(taut_wakeup *w, taut_poller *p, void (*fn)(void *ctx),
                     void *ctx) TAUT_MUST_USE;
void taut_wakeup_free(taut_wakeup *w, taut_poller *p);
/* In a forked child: an eventfd of its own under the same number, signalled; the poller must be
 * renewed after it. 0, or a negative error with nothing changed. */
int taut_wakeup_renew(taut_wakeup *w) TAUT_MUST_USE;
/* Any thread, and async-signal-safe. The caller keeps `w` alive. */
void taut_wakeup_signal(taut_wakeup *w);

#endif
