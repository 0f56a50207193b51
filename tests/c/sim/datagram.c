/* Datagram sockets of the simulated kernel. What is on its way arrives in order and unchanged;
 * what does not fit is lost where it is received, and refused where it is sent. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"
#include "io/sys.h"

static sim_dgram *dgram_of(int fd) {
    return sim.files[fd].dgram;
}

int sim_dgram_open(int capacity, int connected) {
    SIM_CHECK(sim.dgram_count < DGRAMS_MAX && capacity <= DATAGRAMS_MAX, "too much for one run");
    int fd = sim_fd_new(DGRAM);
    SIM_CHECK(fd >= 0, "the simulation ran out of fds");
    sim_dgram *d = calloc(1, sizeof *d);
    SIM_CHECK(d, "out of memory");
    d->capacity = capacity;
    d->connected = connected;
    sim.dgrams[sim.dgram_count++] = sim.files[fd].dgram = d;
    return fd;
}
sim_dgram *sim_dgram_of(int fd) {
    return dgram_of(fd);
}

static void row_drop(sim_row *row) {
    for (int i = 0; i < row->count; i++)
        free(row->items[i].bytes);
    row->count = row->visible = 0;
}

void sim_dgrams_free(void) {
    for (int i = 0; i < sim.dgram_count; i++) {
        row_drop(&sim.dgrams[i]->in);
        row_drop(&sim.dgrams[i]->out);
        free(sim.dgrams[i]);
    }
    sim.dgram_count = 0;
}

/* What is received too late is gone; what was sent arrives all the same. */
void sim_dgram_close(sim_dgram *d) {
    d->closed = 1;
    row_drop(&d->in);
}

uint32_t sim_dgram_events(const sim_dgram *d) {
    uint32_t e = (d->capacity - d->out.count) * 2 >= d->capacity ? EPOLLOUT : 0u;
    if (d->in.visible)
        e |= EPOLLIN;
    return d->error ? e | EPOLLIN | EPOLLOUT | EPOLLERR : e;
}

static int row_deliver(sim_row *row) {
    int rest = row->count - row->visible;
    if (rest == 0)
        return 0;
    row->visible += sim_chance(sim.faults.partial) ? 1 + (int)sim_below((uint64_t)rest) : rest;
    return 1;
}

int sim_dgram_deliver(void) {
    int n = sim.dgram_count, from = (int)sim_below((uint64_t)n);
    for (int i = 0; i < n; i++) {
        sim_dgram *d = sim.dgrams[(from + i) % n];
        int first = (int)sim_below(2);
        if (row_deliver(first ? &d->in : &d->out) || row_deliver(first ? &d->out : &d->in))
            return 1;
    }
    return 0;
}

static int row_put(sim_row *row, int capacity, int peer, const uint8_t *bytes, size_t size) {
    if (row->count >= capacity)
        return 0;
    sim_datagram g = {.peer = peer, .size = size, .bytes = malloc(size + 1)};
    SIM_CHECK(g.bytes, "out of memory");
    if (size > 0)
        memcpy(g.bytes, bytes, size);
    row->items[row->count++] = g;
    return 1;
}

static ssize_t row_take(sim_row *row, int *peer, uint8_t *bytes, size_t size) {
    if (row->visible == 0)
        return -EAGAIN;
    sim_datagram g = row->items[0];
    row->count--;
    row->visible--;
    memmove(row->items, row->items + 1, (size_t)row->count * sizeof *row->items);
    SIM_CHECK(g.size <= size, "a datagram of %zu bytes was cut to %zu", g.size, size);
    memcpy(bytes, g.bytes, g.size);
    free(g.bytes);
    *peer = g.peer;
    return (ssize_t)g.size;
}

static int error_take(sim_dgram *d) {
    int err = d->error;
    d->error = 0;
    return err;
}

/* Addresses: the peer's number, for every other one with a tail that makes it long. */
static void address_fill(int peer, struct sockaddr_storage *addr, socklen_t *size) {
    memset(addr, 0x5a, sizeof *addr);
    addr->ss_family = AF_UNIX;
    ((uint8_t *)addr)[2] = (uint8_t)peer;
    *size = peer % 2 ? 40 : 8;
}
void sim_dgram_address(int peer, struct sockaddr_storage *addr, unsigned *size) {
    address_fill(peer, addr, size);
}

static int address_peer(const struct sockaddr *addr, socklen_t size) {
    struct sockaddr_storage expected;
    socklen_t expected_size;
    int peer = ((const uint8_t *)addr)[2];
    address_fill(peer, &expected, &expected_size);
    SIM_CHECK(size == expected_size && memcmp(addr, &expected, size) == 0, "a spoilt address");
    return peer;
}

/* The inside's calls. */

static sim_dgram *inside(enum sim_call call, int fd, const char *name) {
    sim_file *f = sim_enter(call, fd, name);
    SIM_CHECK(!f || f->kind == DGRAM, "%s of fd %d, which is no datagram socket", name, fd);
    return f ? f->dgram : NULL;
}

static ssize_t receive(sim_dgram *d, void *data, size_t size, struct sockaddr *addr,
                       socklen_t *addr_size) {
    struct sockaddr_storage from;
    int peer;
    if (d->error)
        return error_take(d);
    ssize_t n = row_take(&d->in, &peer, data, size);
    if (n < 0)
        return n;
    SIM_CHECK(*addr_size >= sizeof from, "no room for an address");
    address_fill(peer, &from, addr_size);
    memcpy(addr, &from, sizeof from);
    return n;
}

static ssize_t transmit(sim_dgram *d, const void *data, size_t size, const struct sockaddr *addr,
                        socklen_t addr_size) {
    if (d->error)
        return error_take(d);
    if (size > SIM_DATAGRAM_MAX)
        return -EMSGSIZE;
    SIM_CHECK(addr || d->connected, "a datagram to nobody");
    int peer = addr ? address_peer(addr, addr_size) : 0;
    return row_put(&d->out, d->capacity, peer, data, size) ? (ssize_t)size : -EAGAIN;
}

ssize_t taut_sys_recvfrom(int fd, void *data, size_t size, struct sockaddr *addr,
                          socklen_t *addr_size) {
    sim_dgram *d = inside(SIM_RECVFROM, fd, "recvfrom");
    if (!d)
        return -EBADF;
    ssize_t n = sim_chance(sim.faults.again) ? -EAGAIN : receive(d, data, size, addr, addr_size);
    sim_trace("  recvfrom -> %zd", n);
    sim_interject();
    return n;
}

ssize_t taut_sys_sendto(int fd, const void *data, size_t size, const struct sockaddr *addr,
                        socklen_t addr_size) {
    sim_dgram *d = inside(SIM_SENDTO, fd, "sendto");
    if (!d)
        return -EBADF;
    ssize_t n = sim_chance(sim.faults.again) ? -EAGAIN : transmit(d, data, size, addr, addr_size);
    sim_trace("  sendto %zu -> %zd", size, n);
    sim_interject();
    return n;
}

/* Later than the first, an error ends the row: when receiving it is kept, when sending it is lost.
 */
int taut_sys_recvmmsg(int fd, struct mmsghdr *messages, int count) {
    sim_dgram *d = inside(SIM_RECVMMSG, fd, "recvmmsg");
    if (!d)
        return -EBADF;
    SIM_CHECK(count > 1 && count <= 1024, "recvmmsg of %d", count);
    if (sim_chance(sim.faults.again))
        return -EAGAIN;
    int done = 0;
    for (; done < count && !(done > 0 && sim_chance(sim.faults.partial)); done++) {
        struct msghdr *m = &messages[done].msg_hdr;
        if (done > 0 && d->error)
            break;
        ssize_t n =
            receive(d, m->msg_iov->iov_base, m->msg_iov->iov_len, m->msg_name, &m->msg_namelen);
        if (n < 0 && done == 0)
            return (int)n;
        if (n < 0)
            break;
        messages[done].msg_len = (unsigned)n;
    }
    sim_trace("  recvmmsg -> %d", done);
    sim_interject();
    return done;
}

int taut_sys_sendmmsg(int fd, struct mmsghdr *messages, int count) {
    sim_dgram *d = inside(SIM_SENDMMSG, fd, "sendmmsg");
    if (!d)
        return -EBADF;
    SIM_CHECK(count > 1 && count <= 1024, "sendmmsg of %d", count);
    if (sim_chance(sim.faults.again))
        return -EAGAIN;
    int done = 0;
    for (; done < count && !(done > 0 && sim_chance(sim.faults.partial)); done++) {
        struct msghdr *m = &messages[done].msg_hdr;
        ssize_t n =
            transmit(d, m->msg_iov->iov_base, m->msg_iov->iov_len, m->msg_name, m->msg_namelen);
        if (n < 0 && done == 0)
            return (int)n;
        if (n < 0)
            break;
    }
    sim_trace("  sendmmsg %d -> %d", count, done);
    sim_interject();
    return done;
}

/* The outside's. */

int sim_dgram_out_send(sim_dgram *d, int peer, const void *bytes, size_t size) {
    return !d->closed && row_put(&d->in, d->capacity, peer, bytes, size);
}
ssize_t sim_dgram_out_recv(sim_dgram *d, int *peer, void *bytes, size_t size) {
    return row_take(&d->out, peer, bytes, size);
}
void sim_dgram_out_error(sim_dgram *d, int err) {
    if (!d->closed)
        d->error = err;
}
