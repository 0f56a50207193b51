/* The plain build of io/sys.h: Linux system calls as inline functions. Include io/sys.h instead. */
#ifndef TAUT_IO_SYS_LINUX_H
#define TAUT_IO_SYS_LINUX_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/clock.h"
#include "io/sys_direct.h"

#define TAUT_SYS_RC(call)                                                                          \
    __extension__({                                                                                \
        __typeof__(call) rc_ = (call);                                                             \
        rc_ < 0 ? -errno : rc_;                                                                    \
    })

static inline uint64_t taut_sys_now_ns(void) {
    return taut_clock_now_ns();
}

static inline uint64_t taut_sys_ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t v;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v;
#else
    return taut_clock_now_ns();
#endif
}

static inline int taut_sys_epoll_create(void) {
    return TAUT_SYS_RC(epoll_create1(EPOLL_CLOEXEC));
}

static inline int taut_sys_epoll_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data) {
    struct epoll_event ev = {.events = events, .data.u64 = data};
    return TAUT_SYS_RC(epoll_ctl(epfd, op, fd, &ev));
}

static inline int taut_sys_epoll_wait(int epfd, struct epoll_event *events, int events_max,
                                      uint64_t timeout_ns) {
    if (timeout_ns == 0)
        return TAUT_SYS_RC(taut_direct_epoll_wait(epfd, events, events_max, 0));
    if (timeout_ns == UINT64_MAX)
        return TAUT_SYS_RC(taut_direct_epoll_wait(epfd, events, events_max, -1));
#ifdef SYS_epoll_pwait2
    struct timespec ts = {.tv_sec = (time_t)(timeout_ns / TAUT_NS_PER_S),
                          .tv_nsec = (long)(timeout_ns % TAUT_NS_PER_S)};
    int rc = (int)TAUT_SYS_RC(syscall(SYS_epoll_pwait2, epfd, events, events_max, &ts, NULL, 0));
    if (rc != -ENOSYS && rc != -EPERM) /* EPERM: an old seccomp filter */
        return rc;
#endif
    uint64_t ms = timeout_ns / TAUT_NS_PER_MS + (timeout_ns % TAUT_NS_PER_MS != 0);
    return TAUT_SYS_RC(
        taut_direct_epoll_wait(epfd, events, events_max, ms > INT_MAX ? INT_MAX : (int)ms));
}

static inline int taut_sys_eventfd(void) {
    return TAUT_SYS_RC(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}
static inline int taut_sys_pipe(int fds[2]) {
    return TAUT_SYS_RC(pipe2(fds, O_NONBLOCK | O_CLOEXEC));
}
static inline int taut_sys_move(int from, int to) {
    int rc = (int)TAUT_SYS_RC(dup3(from, to, O_CLOEXEC));
    close(from);
    return rc < 0 ? rc : 0;
}
static inline ssize_t taut_sys_read(int fd, void *data, size_t size) {
    return TAUT_SYS_RC(read(fd, data, size));
}
static inline ssize_t taut_sys_write(int fd, const void *data, size_t size) {
    return TAUT_SYS_RC(write(fd, data, size));
}
static inline ssize_t taut_sys_recv(int fd, void *data, size_t size) {
    return TAUT_SYS_RC(taut_direct_recv(fd, data, size, MSG_DONTWAIT));
}
static inline ssize_t taut_sys_send(int fd, const void *data, size_t size) {
    return TAUT_SYS_RC(taut_direct_send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT));
}
static inline ssize_t taut_sys_sendv(int fd, struct iovec *iov, int count) {
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)count};
    return TAUT_SYS_RC(taut_direct_sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT));
}
static inline ssize_t taut_sys_recvfrom(int fd, void *data, size_t size, struct sockaddr *addr,
                                        socklen_t *addr_size) {
    return TAUT_SYS_RC(recvfrom(fd, data, size, MSG_DONTWAIT, addr, addr_size));
}
static inline ssize_t taut_sys_sendto(int fd, const void *data, size_t size,
                                      const struct sockaddr *addr, socklen_t addr_size) {
    return TAUT_SYS_RC(sendto(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT, addr, addr_size));
}
static inline int taut_sys_recvmmsg(int fd, struct mmsghdr *messages, int count) {
    return TAUT_SYS_RC(recvmmsg(fd, messages, (unsigned)count, MSG_DONTWAIT, NULL));
}
static inline int taut_sys_sendmmsg(int fd, struct mmsghdr *messages, int count) {
    return TAUT_SYS_RC(sendmmsg(fd, messages, (unsigned)count, MSG_NOSIGNAL | MSG_DONTWAIT));
}
static inline int taut_sys_accept(int fd, struct sockaddr *peer, socklen_t *size) {
    return TAUT_SYS_RC(accept4(fd, peer, size, SOCK_NONBLOCK | SOCK_CLOEXEC));
}
static inline int taut_sys_connect(int fd, const struct sockaddr *addr, socklen_t size) {
    return TAUT_SYS_RC(connect(fd, addr, size));
}
static inline int taut_sys_so_error(int fd) {
    int err = 0;
    socklen_t size = sizeof err;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0)
        return -errno;
    return -err;
}
static inline int taut_sys_shutdown_write(int fd) {
    return TAUT_SYS_RC(shutdown(fd, SHUT_WR));
}
static inline int taut_sys_sockname(int fd, struct sockaddr *addr, socklen_t *size) {
    return TAUT_SYS_RC(getsockname(fd, addr, size));
}
static inline int taut_sys_peername(int fd, struct sockaddr *addr, socklen_t *size) {
    return TAUT_SYS_RC(getpeername(fd, addr, size));
}
static inline int taut_sys_family(int fd) {
    int family = 0;
    socklen_t size = sizeof family;
    int rc = TAUT_SYS_RC(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size));
    return rc < 0 ? rc : family;
}
static inline int taut_sys_nodelay(int fd) {
    int on = 1;
    return TAUT_SYS_RC(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
}
static inline int taut_sys_close(int fd) {
    return TAUT_SYS_RC(close(fd));
}

#endif
