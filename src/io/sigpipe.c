#include "io/sigpipe.h"

#include "base/list.h"
#include "io/sys.h"

static void on_event(taut_watch *w, uint32_t events) {
    taut_sigpipe_drain(TAUT_CONTAINER(w, taut_sigpipe, watch));
}

int taut_sigpipe_init(taut_sigpipe *s, taut_poller *p,
                      void (*fn)(void *ctx, const unsigned char *signums, size_t count),
                      void *ctx) {
    int fds[2];
    int rc = taut_sys_pipe(fds);
    if (rc < 0)
        return rc;
    taut_watch_init(&s->watch, fds[0], on_event);
    s->write_fd = fds[1];
    s->fn = fn;
    s->ctx = ctx;
    rc = taut_poller_want(p, &s->watch, TAUT_READ);
    if (rc < 0) {
        taut_sys_close(fds[0]);
        taut_sys_close(fds[1]);
        s->watch.fd = s->write_fd = -1;
    }
    return rc;
}

void taut_sigpipe_free(taut_sigpipe *s, taut_poller *p) {
    if (s->watch.fd < 0)
        return;
    taut_poller_remove(p, &s->watch, 1);
    taut_sys_close(s->write_fd); /* first: a write without a reader would raise SIGPIPE */
    taut_sys_close(s->watch.fd);
    s->watch.fd = s->write_fd = -1;
}

int taut_sigpipe_renew(taut_sigpipe *s) {
    int fds[2];
    int rc = taut_sys_pipe(fds);
    if (rc < 0)
        return rc;
    rc = taut_sys_move(fds[0], s->watch.fd);
    int rc_write = taut_sys_move(fds[1], s->write_fd);
    return rc < 0 ? rc : rc_write;
}

void taut_sigpipe_drain(taut_sigpipe *s) {
    unsigned char signums[256];
    ssize_t n;
    do {
        n = taut_sys_read(s->watch.fd, signums, sizeof signums);
        if (n > 0)
            s->fn(s->ctx, signums, (size_t)n);
        /* A short read has emptied the pipe; `fn` may have freed it, too. */
    } while (n == (ssize_t)sizeof signums && s->watch.fd >= 0);
}
