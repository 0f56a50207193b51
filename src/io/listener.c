#include <errno.h>
#include "base/clock.h"
#include "io/listener.h"
#include "io/sys.h"

#define RETRY_DELAY_NS TAUT_NS_PER_S

/* A foreign fd's number may have been closed and reused behind our back. */
static int want(taut_listener *ln, uint32_t directions) {
    taut_poller *p = ln->loop->poller;
    return ln->own_fd ? taut_poller_want(p, &ln->watch, directions)
                      : taut_poller_arm(p, &ln->watch, directions);
}

static void free_if_unused(taut_listener *ln) {
    if (ln->freed && !ln->retry_live && !ln->in_accept)
        ln->on_freed(ln);
}

/* Stops accepting until the timer fires. Without memory for a timer (negative) nothing changes. */
static int back_off(taut_listener *ln) {
    if (!ln->retry_live) {
        uint64_t deadline_ns = taut_sys_now_ns() + RETRY_DELAY_NS;
        int rc = taut_timer_start(&ln->loop->timers, &ln->retry, deadline_ns);
        if (rc < 0)
            return rc;
        ln->retry_live = 1;
    }
    taut_poller_remove(ln->loop->poller, &ln->watch, 1);
    return 0;
}

static void on_retry(taut_timer *t) {
    taut_listener *ln = TAUT_CONTAINER(t, taut_listener, retry);
    ln->retry_live = 0;
    if (!ln->active) {
        free_if_unused(ln);
        return;
    }
    int rc = want(ln, TAUT_READ);
    if (rc < 0) {
        if (back_off(ln) < 0)
            ln->active = 0; /* nothing would ever try again: taut_listener_start may */
        ln->ops->failed(ln, rc);
    }
}

static void on_retry_dropped(taut_timer *t) {
    taut_listener *ln = TAUT_CONTAINER(t, taut_listener, retry);
    ln->retry_live = 0;
    free_if_unused(ln);
}

static void accept_failed(taut_listener *ln, int err) {
    switch (err) {
    case -EAGAIN:
    case -EINTR:
    /* accept(2): these are the new connection's own errors, which came in before we did. */
    case -ECONNABORTED:
    case -EPERM:
    case -EPROTO:
    case -ENOPROTOOPT:
    case -ENETDOWN:
    case -ENETUNREACH:
    case -EHOSTDOWN:
    case -EHOSTUNREACH:
    case -ENONET:
        return;
    case -EMFILE:
    case -ENFILE:
    case -ENOBUFS:
    case -ENOMEM:
        (void)back_off(ln);
        ln->ops->starved(ln, err);
        return;
    default:
        (void)back_off(ln);
        ln->ops->failed(ln, err);
    }
}

/* The poller is level-triggered: what is left in the queue is another event. */
static int batch_next(taut_listener *ln, uint64_t iteration) {
    if (ln->grow_at != iteration)
        return 1;
    return ln->batch < ln->backlog / 2 ? ln->batch * 2 : ln->backlog;
}

static void on_event(taut_watch *w, uint32_t events) {
    taut_listener *ln = TAUT_CONTAINER(w, taut_listener, watch);
    uint64_t iteration = atomic_load_explicit(&ln->loop->pulse.iterations, memory_order_relaxed);
    int done = 0;
    ln->batch = batch_next(ln, iteration);
    ln->in_accept = 1;
    for (; done < ln->batch && ln->active; done++) {
        struct sockaddr_storage peer;
        socklen_t size = sizeof peer;
        int fd = taut_sys_accept(w->fd, (struct sockaddr *)&peer, &size);
        if (fd < 0) {
            accept_failed(ln, fd);
            break;
        }
        ln->ops->accepted(ln, fd, (struct sockaddr *)&peer, size);
    }
    if (done == ln->batch)
        ln->grow_at = iteration + 1;
    ln->in_accept = 0;
    free_if_unused(ln);
}

void taut_listener_init(taut_listener *ln, taut_loop *l, int fd, int own_fd, int backlog,
                        const taut_listener_ops *ops) {
    *ln = (taut_listener){
        .loop = l, .ops = ops, .own_fd = own_fd, .backlog = backlog > 0 ? backlog : 1, .batch = 1};
    taut_watch_init(&ln->watch, fd, on_event);
    ln->watch.foreign = !own_fd;
    taut_heap_node_init(&ln->retry.node);
    ln->retry.due = on_retry;
    ln->retry.dropped = on_retry_dropped;
}

int taut_listener_start(taut_listener *ln) {
    if (ln->active || ln->freed)
        return 0;
    int rc = want(ln, TAUT_READ);
    if (rc == 0)
        ln->active = 1;
    return rc;
}

void taut_listener_stop(taut_listener *ln) {
    if (!ln->active)
        return;
    ln->active = 0;
    /* Not lazily: another process may accept from the same socket, and its connections must not
     * wake us. A retry timer under way finds nothing to do. */
    taut_poller_remove(ln->loop->poller, &ln->watch, 1);
}

void taut_listener_close(taut_listener *ln, void (*on_freed)(taut_listener *ln)) {
    if (ln->freed)
        return;
    taut_listener_stop(ln);
    ln->freed = 1;
    ln->on_freed = on_freed;
    if (ln->own_fd)
        taut_sys_close(ln->watch.fd);
    ln->watch.fd = -1;
    if (ln->retry_live)
        taut_timer_cancel(&ln->loop->timers, &ln->retry); /* may drop it, and free us, here */
    else
        free_if_unused(ln);
}
