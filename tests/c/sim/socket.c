#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"
#include "io/sys.h"

static sim_socket *socket_new(size_t capacity) {
    SIM_CHECK(sim.socket_count < SOCKETS_MAX, "the simulation ran out of sockets");
    sim_socket *s = calloc(1, sizeof *s);
    SIM_CHECK(s, "out of memory");
    s->in.capacity = capacity;
    s->in.bytes = malloc(capacity);
    SIM_CHECK(s->in.bytes, "out of memory");
    sim.sockets[sim.socket_count++] = s;
    return s;
}

void sim_sockets_free(void) {
    for (int i = 0; i < sim.socket_count; i++) {
        free(sim.sockets[i]->in.bytes);
        free(sim.sockets[i]);
    }
    sim.socket_count = 0;
}

static void join(sim_socket *a, sim_socket *b) {
    a->peer = b;
    b->peer = a;
    a->state = b->state = CONNECTED;
}

static size_t pipe_put(sim_pipe *p, const uint8_t *bytes, size_t size) {
    size_t n = size < p->capacity - p->size ? size : p->capacity - p->size;
    for (size_t i = 0; i < n;) {
        size_t at = (p->head + p->size) % p->capacity, run = p->capacity - at;
        if (run > n - i)
            run = n - i;
        memcpy(p->bytes + at, bytes + i, run);
        p->size += run;
        i += run;
    }
    return n;
}

static size_t pipe_take(sim_pipe *p, uint8_t *bytes, size_t size) {
    size_t n = size < p->visible ? size : p->visible;
    for (size_t i = 0; i < n;) {
        size_t run = p->capacity - p->head;
        if (run > n - i)
            run = n - i;
        memcpy(bytes + i, p->bytes + p->head, run);
        p->head = (p->head + run) % p->capacity;
        i += run;
    }
    p->size -= n;
    p->visible -= n;
    return n;
}

static void fin(sim_socket *to) {
    to->in.fin = 1;
    to->in.fin_visible = to->in.visible == to->in.size && sim_below(2);
}

uint32_t sim_socket_events(const sim_socket *s) {
    uint32_t e = 0;
    if (s->state != CONNECTED)
        return s->error                 ? EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP
               : s->state == CONNECTING ? 0
                                        : EPOLLOUT | EPOLLHUP;
    if (s->in.visible || s->in.fin_visible)
        e |= EPOLLIN;
    const sim_pipe *out = &s->peer->in;
    if (s->write_shut || s->peer->closed || (out->capacity - out->size) * 3 >= out->capacity)
        e |= EPOLLOUT;
    if (s->error)
        e |= EPOLLERR | EPOLLIN | EPOLLOUT;
    if (s->reset || (s->in.fin_visible && s->write_shut))
        e |= EPOLLHUP | EPOLLIN | EPOLLOUT;
    return e;
}

static int deliver_to(sim_socket *s) {
    if (s->resetting) {
        s->resetting = 0;
        s->reset = 1;
        s->error = -ECONNRESET;
        s->in.fin = s->in.fin_visible = 1; /* what recv says once the error was heard */
        if (sim_below(2))
            s->in.size = s->in.visible = 0;
        else
            s->in.size = s->in.visible;
        return 1;
    }
    if (s->state == CONNECTING) {
        if (sim_chance(sim.faults.refuse)) {
            s->state = UNCONNECTED;
            s->error = -ECONNREFUSED;
        } else {
            join(s, socket_new(s->in.capacity));
        }
        return 1;
    }
    if (s->in.visible < s->in.size) {
        size_t rest = s->in.size - s->in.visible;
        s->in.visible += sim_chance(sim.faults.partial) ? 1 + sim_below(rest) : rest;
        return 1;
    }
    if (s->in.fin && !s->in.fin_visible) {
        s->in.fin_visible = 1;
        return 1;
    }
    return 0;
}

int sim_deliver(void) {
    int n = sim.socket_count, from = (int)sim_below((uint64_t)n);
    for (int i = 0; i < n; i++) {
        sim_socket *s = sim.sockets[(from + i) % n];
        if (!s->closed && deliver_to(s))
            return 1;
    }
    for (int fd = FD_FIRST; fd < FDS_MAX; fd++) {
        sim_file *f = &sim.files[fd];
        if (f->kind == LISTENER && f->backlog_visible < f->backlog_size) {
            f->backlog_visible++;
            return 1;
        }
    }
    return 0;
}

static ssize_t socket_send(sim_socket *s, const uint8_t *bytes, size_t size) {
    if (s->error) {
        int err = s->error;
        s->error = 0;
        return err;
    }
    if (s->state != CONNECTED)
        return -ENOTCONN;
    if (s->write_shut || s->reset)
        return -EPIPE;
    if (s->peer->closed) { /* nobody is there: it vanishes, and a reset comes back */
        s->resetting = 1;
        return (ssize_t)size;
    }
    size_t n = pipe_put(&s->peer->in, bytes, size);
    return n == 0 && size > 0 ? -EAGAIN : (ssize_t)n;
}

static ssize_t socket_recv(sim_socket *s, uint8_t *bytes, size_t size) {
    if (s->in.visible)
        return (ssize_t)pipe_take(&s->in, bytes, size);
    if (s->error) {
        int err = s->error;
        s->error = 0;
        return err;
    }
    if (s->state != CONNECTED)
        return -ENOTCONN;
    return s->in.fin_visible ? 0 : -EAGAIN;
}

void sim_socket_close(sim_socket *s) {
    s->closed = 1;
    if (s->peer && !s->peer->closed)
        fin(s->peer);
}

/* The inside's calls. */

static sim_socket *inside(enum sim_call call, int fd, const char *name) {
    sim_file *f = sim_enter(call, fd, name);
    SIM_CHECK(!f || f->kind == SOCKET, "%s of fd %d, which is no socket", name, fd);
    return f ? f->socket : NULL;
}

static int spurious(void) {
    return sim_chance(sim.faults.again) ? (sim_below(4) ? -EAGAIN : -EINTR) : 0;
}
static size_t curtail(size_t size) {
    return size > 1 && sim_chance(sim.faults.partial) ? 1 + (size_t)sim_below(size) : size;
}

ssize_t taut_sys_recv(int fd, void *data, size_t size) {
    sim_socket *s = inside(SIM_RECV, fd, "recv");
    if (!s)
        return -EBADF;
    SIM_CHECK(size > 0, "recv of nothing from fd %d", fd);
    int err = spurious();
    ssize_t n = err ? err : socket_recv(s, data, curtail(size));
    sim_trace("  recv %zu -> %zd", size, n);
    sim_interject();
    return n;
}

ssize_t taut_sys_send(int fd, const void *data, size_t size) {
    sim_socket *s = inside(SIM_SEND, fd, "send");
    if (!s)
        return -EBADF;
    int err = spurious();
    ssize_t n = err ? err : socket_send(s, data, curtail(size));
    sim_trace("  send %zu -> %zd", size, n);
    sim_interject();
    return n;
}

static ssize_t gather(sim_socket *s, const struct iovec *iov, int count, const char *name) {
    int err = spurious();
    if (err)
        return err;
    SIM_CHECK(count > 0 && count <= 1024, "%s of %d pieces", name, count);
    size_t total = 0, sent = 0;
    for (int i = 0; i < count; i++)
        total += iov[i].iov_len;
    size_t limit = curtail(total);
    ssize_t n = 0;
    for (int i = 0; i < count && sent < limit; i++) {
        size_t size = iov[i].iov_len < limit - sent ? iov[i].iov_len : limit - sent;
        n = socket_send(s, iov[i].iov_base, size);
        if (n < 0)
            break;
        sent += (size_t)n;
        if ((size_t)n < size)
            break;
    }
    sim_trace("  %s %d pieces, %zu -> %zu", name, count, total, sent);
    sim_interject();
    return sent > 0 ? (ssize_t)sent : n;
}

ssize_t taut_sys_sendv(int fd, struct iovec *iov, int count) {
    sim_socket *s = inside(SIM_SENDV, fd, "sendmsg");
    return s ? gather(s, iov, count, "sendmsg") : -EBADF;
}

int taut_sys_sigpipe_ends(void) {
    return 0;
}

ssize_t taut_sys_writev(int fd, const struct iovec *iov, int count, int guard) {
    sim_socket *s = inside(SIM_WRITEV, fd, "writev");
    return s ? gather(s, iov, count, "writev") : -EBADF;
}

ssize_t taut_sys_sendfile(int fd, int file, uint64_t offset, size_t size) {
    sim_socket *s = inside(SIM_SENDFILE, fd, "sendfile");
    if (!s)
        return -EBADF;
    SIM_CHECK(sim_fd_is_open(file) && sim.files[file].kind == REGULAR, "%d is no file", file);
    const sim_file *f = &sim.files[file];
    SIM_CHECK(size > 0, "sendfile of nothing to fd %d", fd);
    size_t at = offset < f->size ? (size_t)offset : f->size, rest = f->size - at;
    ssize_t n = spurious();
    if (n == 0 && rest > 0 && at >= f->bad_at)
        n = -EIO;
    else if (n == 0 && rest > 0)
        n = socket_send(s, f->bytes + at, curtail(size < rest ? size : rest));
    sim_trace("  sendfile %zu from %zu -> %zd", size, at, n);
    sim_interject();
    return n;
}

int taut_sys_file_in_memory(int fd, uint64_t offset) {
    SIM_CHECK(sim_fd_is_open(fd) && sim.files[fd].kind == REGULAR, "%d is no file", fd);
    SIM_CHECK(offset < sim.files[fd].size, "a look beyond the end of file %d", fd);
    return !sim_chance(sim.faults.cold);
}

int taut_sys_shutdown_write(int fd) {
    sim_socket *s = inside(SIM_SHUTDOWN, fd, "shutdown");
    if (!s)
        return -EBADF;
    if (s->state != CONNECTED || s->reset)
        return -ENOTCONN;
    s->write_shut = 1;
    if (!s->peer->closed)
        fin(s->peer);
    sim_interject();
    return 0;
}

int taut_sys_so_error(int fd) {
    sim_file *f = sim_fd_is_open(fd) ? &sim.files[fd] : NULL;
    if (!f)
        return -EBADF;
    int err = f->socket->error;
    f->socket->error = 0;
    return err;
}

int taut_sys_sockname(int fd, struct sockaddr *addr, socklen_t *size) {
    *addr = (struct sockaddr){.sa_family = AF_UNIX};
    *size = sizeof addr->sa_family;
    return sim_fd_is_open(fd) ? 0 : -EBADF;
}
int taut_sys_nodelay(int fd) {
    return sim_fd_is_open(fd) ? 0 : -EBADF;
}

int taut_sys_connect(int fd, const struct sockaddr *addr, socklen_t size) {
    sim_socket *s = inside(SIM_CONNECT, fd, "connect");
    if (!s)
        return -EBADF;
    if (s->asked) { /* a second call tells how the first one fared */
        int err = s->error;
        s->error = 0;
        s->asked = !err;
        return err ? err : s->state == CONNECTED ? 0 : -EALREADY;
    }
    SIM_CHECK(s->state == UNCONNECTED, "connect of fd %d, which is connected", fd);
    s->asked = 1;
    s->state = CONNECTING;
    if (sim_below(4) == 0) {
        deliver_to(s);
        int err = s->error;
        s->error = 0;
        return err;
    }
    sim_interject();
    return sim_chance(sim.faults.again) ? -EINTR : -EINPROGRESS;
}

int taut_sys_accept(int fd, struct sockaddr *peer, socklen_t *size) {
    sim_file *f = sim_enter(SIM_ACCEPT, fd, "accept");
    if (!f)
        return -EBADF;
    SIM_CHECK(f->kind == LISTENER, "accept from fd %d, which does not listen", fd);
    if (sim_chance(sim.faults.accept)) {
        static const int errors[] = {-EMFILE, -ENFILE, -ENOBUFS, -ECONNABORTED, -EINTR, -EIO};
        return errors[sim_below(6)];
    }
    if (f->backlog_visible == 0)
        return -EAGAIN;
    int accepted = sim_fd_new(SOCKET);
    if (accepted < 0)
        return accepted;
    sim.files[accepted].socket = f->backlog[0];
    f->backlog_size--;
    f->backlog_visible--;
    memmove(f->backlog, f->backlog + 1, (size_t)f->backlog_size * sizeof f->backlog[0]);
    *peer = (struct sockaddr){.sa_family = AF_UNIX};
    *size = sizeof peer->sa_family;
    sim_interject();
    return accepted;
}

int taut_sys_pipe(int fds[2]) {
    sim_socket *a = socket_new(4096), *b = socket_new(4096);
    join(a, b);
    fds[0] = sim_fd_new(SOCKET);
    if (fds[0] < 0)
        return fds[0];
    sim.files[fds[0]].socket = a;
    fds[1] = sim_fd_new(SOCKET);
    if (fds[1] < 0) {
        sim.files[fds[0]] = (sim_file){.kind = FREE};
        return fds[1];
    }
    sim.files[fds[1]].socket = b;
    return 0;
}

/* Set-up and the outside's calls. */

int sim_unconnected(size_t capacity) {
    int fd = sim_fd_new(SOCKET);
    SIM_CHECK(fd >= 0, "the simulation ran out of fds");
    sim.files[fd].socket = socket_new(capacity);
    return fd;
}

int sim_pair(sim_socket **outside, size_t capacity) {
    int fd = sim_unconnected(capacity);
    *outside = socket_new(capacity);
    join(sim.files[fd].socket, *outside);
    return fd;
}

int sim_listen(void) {
    int fd = sim_fd_new(LISTENER);
    SIM_CHECK(fd >= 0, "the simulation ran out of fds");
    return fd;
}

int sim_file_open(const void *bytes, size_t size, size_t bad_at) {
    int fd = sim_fd_new(REGULAR);
    SIM_CHECK(fd >= 0, "the simulation ran out of fds");
    sim_file *f = &sim.files[fd];
    f->bytes = malloc(size + 1);
    SIM_CHECK(f->bytes, "out of memory");
    memcpy(f->bytes, bytes, size);
    f->size = size;
    f->bad_at = bad_at;
    return fd;
}

sim_socket *sim_dial(int listen_fd, size_t capacity) {
    sim_file *f = &sim.files[listen_fd];
    if (f->kind != LISTENER || f->backlog_size == BACKLOG_MAX)
        return NULL;
    sim_socket *s = socket_new(capacity), *outside = socket_new(capacity);
    join(s, outside);
    f->backlog[f->backlog_size++] = s;
    return outside;
}

sim_socket *sim_outside_of(int fd) {
    return sim.files[fd].socket->peer;
}

size_t sim_out_send(sim_socket *s, const void *bytes, size_t size) {
    /* No reset comes back to the outside, which shall see all that the inside has flushed. */
    if (s->peer->closed)
        return size;
    ssize_t n = socket_send(s, bytes, size);
    return n < 0 ? 0 : (size_t)n;
}

ssize_t sim_out_recv(sim_socket *s, void *bytes, size_t size) {
    return socket_recv(s, bytes, size);
}

void sim_out_shutdown(sim_socket *s) {
    s->write_shut = 1;
    if (!s->peer->closed)
        fin(s->peer);
}

void sim_out_close(sim_socket *s) {
    sim_socket_close(s);
}

void sim_out_reset(sim_socket *s) {
    s->closed = 1;
    if (!s->peer->closed)
        s->peer->resetting = 1;
}
