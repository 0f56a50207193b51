#include "io/wakeup.h"

#include <errno.h>
#include "base/list.h"
#include "io/sys.h"

static void on_event(taut_watch *watch, uint32_t events) {
    taut_wakeup *w = TAUT_CONTAINER(watch, taut_wakeup, watch);
    uint64_t count;
    /* The counter is emptied before the mark is cleared. The other way round, a signal in between
     * would be swallowed by the read and leave its mark set: no signal would ever write again. */
    if (taut_sys_read(watch->fd, &count, sizeof count) < 0)
        count = 0;
    atomic_exchange(&w->pending, 0);
    w->fn(w->ctx);
}

int taut_wakeup_init(taut_wakeup *w, taut_poller *p, void (*fn)(void *ctx), void *ctx) {
    int fd = taut_sys_eventfd();
    if (fd < 0)
        return fd;
    taut_watch_init(&w->watch, fd, on_event);
    atomic_init(&w->pending, 0);
    w->fn = fn;
    w->ctx = ctx;
    int rc = taut_poller_want(p, &w->watch, TAUT_READ);
    if (rc < 0) {
        taut_sys_close(fd);
        w->watch.fd = -1;
    }
    return rc;
}

void taut_wakeup_free(taut_wakeup *w, taut_poller *p) {
    if (w->watch.fd < 0)
        return;
    taut_poller_remove(p, &w->watch, 1);
    taut_sys_close(w->watch.fd);
    w->watch.fd = -1;
}

int taut_wakeup_renew(taut_wakeup *w) {
    int fd = taut_sys_eventfd();
    int rc = fd < 0 ? fd : taut_sys_move(fd, w->watch.fd);
    if (rc < 0)
        return rc;
    atomic_store(&w->pending, 0); /* what was signalled so far went to the parent */
    taut_wakeup_signal(w);
    return 0;
}

void taut_wakeup_signal(taut_wakeup *w) {
    if (atomic_exchange(&w->pending, 1))
        return;
    int saved = errno; /* we may be in a signal handler */
    uint64_t one = 1;
    ssize_t rc = taut_sys_write(w->watch.fd, &one, sizeof one);
    (void)rc; /* EAGAIN: the counter is full, so the loop wakes anyway */
    errno = saved;
}
