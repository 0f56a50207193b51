#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"
#include "io/sys.h"

sim_kernel sim;

/* A simulation that calls the kernel this often without end does not make progress. */
#define CALLS_MAX 400000

void sim_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "simulation failed, seed %llu: ", (unsigned long long)sim.seed);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\nreplay: test_sim %llu\n", (unsigned long long)sim.seed);
    va_end(args);
    fflush(NULL);
    _Exit(1);
}

void sim_trace(const char *format, ...) {
    if (!sim.verbose)
        return;
    va_list args;
    va_start(args, format);
    printf("%12llu ", (unsigned long long)sim.now_ns);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

/* splitmix64 */
uint64_t sim_random(void) {
    uint64_t z = sim.state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
uint64_t sim_below(uint64_t n) {
    return n ? sim_random() % n : 0;
}
int sim_chance(unsigned permille) {
    return permille && sim_below(1000) < permille;
}
uint64_t sim_clock_ns(void) {
    return sim.now_ns;
}
unsigned sim_count(enum sim_call call) {
    return sim.counts[call];
}

int sim_fd_is_open(int fd) {
    return fd >= 0 && fd < FDS_MAX && sim.files[fd].kind != FREE;
}

void sim_begin(uint64_t seed, int verbose) {
    sim = (sim_kernel){.seed = seed, .state = seed, .verbose = verbose};
    sim.now_ns = 1 + sim_below(UINT64_C(1) << 40);
}

void sim_set_world(const sim_world *w) {
    sim.world = *w;
}
void sim_set_faults(const sim_faults *f) {
    sim.faults = *f;
}

void sim_end(void) {
    for (int fd = 0; fd < FDS_MAX; fd++)
        SIM_CHECK(sim.files[fd].kind == FREE, "fd %d was left open", fd);
    sim_sockets_free();
    sim_dgrams_free();
}

/* One thing happens outside: a delivery, or an action of the test's world. */
static int world_step(void) {
    if (sim.in_world)
        return 0;
    sim.in_world = 1;
    int done;
    if (sim_below(2))
        done = sim_deliver() || sim_dgram_deliver() ||
               (sim.world.step && sim.world.step(sim.world.ctx));
    else
        done = (sim.world.step && sim.world.step(sim.world.ctx)) || sim_deliver() ||
               sim_dgram_deliver();
    sim.in_world = 0;
    return done;
}

void sim_interject(void) {
    if (sim.in_world)
        return;
    while (sim_chance(sim.faults.interject) && world_step())
        ;
}

sim_file *sim_enter(enum sim_call call, int fd, const char *name) {
    if (!sim.in_world) {
        sim.counts[call]++;
        SIM_CHECK(++sim.calls < CALLS_MAX, "no end after %u system calls", sim.calls);
        sim_interject();
        sim_trace("%s %d", name, fd);
    }
    return sim_fd_is_open(fd) ? &sim.files[fd] : NULL;
}

/* The lowest free number, as the kernel does: a closed fd's number is back at once. */
int sim_fd_new(enum sim_kind kind) {
    for (int fd = FD_FIRST; fd < FDS_MAX; fd++) {
        if (sim.files[fd].kind == FREE) {
            sim.files[fd] = (sim_file){.kind = kind};
            return fd;
        }
    }
    return -EMFILE;
}

uint64_t taut_sys_now_ns(void) {
    return sim.now_ns += sim_below(2000);
}
uint64_t taut_sys_ticks(void) {
    return sim.now_ns += sim_below(200);
}
int taut_sys_epoll_create(void) {
    return sim_fd_new(EPOLL);
}
int taut_sys_eventfd(void) {
    return sim_fd_new(EVENTFD);
}

/* Nothing forks here. */
int taut_sys_move(int from, int to) {
    sim_fail("unexpected move of fd %d to %d", from, to);
    return -ENOSYS;
}

int taut_sys_epoll_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data) {
    sim_file *f = sim_enter(SIM_EPOLL_CTL, fd, "epoll_ctl");
    SIM_CHECK(sim_fd_is_open(epfd) && sim.files[epfd].kind == EPOLL, "%d is no epoll fd", epfd);
    if (!f)
        return -EBADF;
    if (op == EPOLL_CTL_ADD && f->registered)
        return -EEXIST;
    if (op != EPOLL_CTL_ADD && !f->registered)
        return -ENOENT;
    if (op == EPOLL_CTL_ADD && sim_chance(sim.faults.ctl))
        return sim_below(2) ? -ENOMEM : -ENOSPC;
    sim_trace("  op %d events %x", op, events);
    f->registered = op != EPOLL_CTL_DEL;
    f->events = events;
    f->data = data;
    return 0;
}

static uint32_t events_of(const sim_file *f) {
    switch (f->kind) {
    case EVENTFD:
        return (f->counter ? EPOLLIN : 0u) | EPOLLOUT;
    case LISTENER:
        return f->backlog_visible ? EPOLLIN : 0u;
    case SOCKET:
        return sim_socket_events(f->socket);
    case DGRAM:
        return sim_dgram_events(f->dgram);
    default:
        return 0;
    }
}

/* Ready registrations in random order; sometimes not all of them. */
static int collect(struct epoll_event *events, int events_max) {
    int n = 0, ready[FDS_MAX];
    for (int fd = FD_FIRST; fd < FDS_MAX; fd++) {
        sim_file *f = &sim.files[fd];
        if (f->registered && events_of(f) & (f->events | EPOLLERR | EPOLLHUP))
            ready[n++] = fd;
    }
    for (int i = n - 1; i > 0; i--) {
        int j = (int)sim_below((uint64_t)i + 1), fd = ready[i];
        ready[i] = ready[j];
        ready[j] = fd;
    }
    if (n > 1 && sim_chance(sim.faults.partial))
        n = 1 + (int)sim_below((uint64_t)n);
    if (n > events_max)
        n = events_max;
    for (int i = 0; i < n; i++) {
        sim_file *f = &sim.files[ready[i]];
        events[i].events = events_of(f) & (f->events | EPOLLERR | EPOLLHUP);
        events[i].data.u64 = f->data;
        sim_trace("  fd %d ready %x", ready[i], events[i].events);
    }
    return n;
}

int taut_sys_epoll_wait(int epfd, struct epoll_event *events, int events_max, uint64_t timeout_ns) {
    sim_enter(SIM_EPOLL_WAIT, epfd, "epoll_wait");
    SIM_CHECK(sim_fd_is_open(epfd) && sim.files[epfd].kind == EPOLL, "%d is no epoll fd", epfd);
    uint64_t deadline_ns =
        timeout_ns > UINT64_MAX - sim.now_ns ? UINT64_MAX : sim.now_ns + timeout_ns;
    for (;;) {
        int n = collect(events, events_max);
        if (n > 0)
            sim.idle_vain = 0;
        if (n > 0 || timeout_ns == 0 || sim.now_ns >= deadline_ns)
            return n;
        if (sim_chance(sim.faults.again / 4))
            return -EINTR;
        if (world_step()) {
            sim.idle_vain = 0;
            sim.now_ns += sim_below(sim_below(8) ? 20000 : 3000000);
        } else if (deadline_ns != UINT64_MAX) {
            sim.now_ns = deadline_ns + sim_below(100000);
        } else {
            SIM_CHECK(++sim.idle_vain < 3 && sim.world.idle, "it sleeps for ever");
            sim.in_world = 1;
            sim.world.idle(sim.world.ctx);
            sim.in_world = 0;
        }
    }
}

ssize_t taut_sys_read(int fd, void *data, size_t size) {
    if (sim_fd_is_open(fd) && sim.files[fd].kind == SOCKET) /* it plays a pipe */
        return taut_sys_recv(fd, data, size);
    sim_file *f = sim_enter(SIM_READ, fd, "read");
    if (!f)
        return -EBADF;
    SIM_CHECK(f->kind == EVENTFD && size >= 8, "read of fd %d, which is no eventfd", fd);
    if (f->counter == 0)
        return -EAGAIN;
    memcpy(data, &f->counter, 8);
    f->counter = 0;
    sim_interject();
    return 8;
}

ssize_t taut_sys_write(int fd, const void *data, size_t size) {
    sim_file *f = sim_enter(SIM_WRITE, fd, "write");
    if (!f)
        return -EBADF;
    uint64_t add;
    SIM_CHECK(f->kind == EVENTFD && size == 8, "write to fd %d, which is no eventfd", fd);
    memcpy(&add, data, 8);
    f->counter += add;
    sim_interject();
    return 8;
}

int taut_sys_close(int fd) {
    sim_file *f = sim_enter(SIM_CLOSE, fd, "close");
    SIM_CHECK(f, "close of fd %d, which is not open", fd);
    if (f->kind == SOCKET)
        sim_socket_close(f->socket);
    if (f->kind == DGRAM)
        sim_dgram_close(f->dgram);
    for (int i = 0; i < f->backlog_size; i++)
        sim_socket_close(f->backlog[i]);
    free(f->bytes);
    *f = (sim_file){.kind = FREE};
    sim_interject();
    return 0;
}
