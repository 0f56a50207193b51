#include <errno.h>
#include "io/connector.h"
#include "io/sys.h"

static void on_event(taut_watch *w, uint32_t events) {
    taut_connector *c = TAUT_CONTAINER(w, taut_connector, watch);
    int err = taut_sys_so_error(w->fd);
    taut_poller_remove(c->loop->poller, w, 1);
    c->done(c, err);
}

int taut_connector_start(taut_connector *c, taut_loop *l, int fd, const struct sockaddr *addr,
                         socklen_t size, void (*done)(taut_connector *c, int err)) {
    *c = (taut_connector){.loop = l, .done = done};
    taut_watch_init(&c->watch, fd, on_event);
    c->watch.foreign = 1;
    taut_loop_touch(l);
    int rc = taut_sys_connect(fd, addr, size);
    /* On this machine a peer has answered by now, but only a second call says so: cheaper than two
     * epoll_ctl, a wait and getsockopt. EALREADY: it has not. EINTR: it goes on even so. */
    if (rc == -EINPROGRESS)
        rc = taut_sys_connect(fd, addr, size);
    if (rc == 0 || rc == -EISCONN)
        return 1;
    if (rc != -EALREADY && rc != -EINTR)
        return rc;
    return taut_poller_arm(l->poller, &c->watch, TAUT_WRITE);
}

void taut_connector_cancel(taut_connector *c) {
    taut_poller_remove(c->loop->poller, &c->watch, 1);
}
