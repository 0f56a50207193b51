/* The yardsticks of UDP: what an echo costs in C with nothing around it, a system call for each
 * datagram either way. As event loops do it (level-triggered epoll, one recvfrom and one sendto per
 * event), or with --blocking (recvfrom waits by itself, and epoll's price is spared).
 * Prints "ready PORT" and serves until it is killed. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { BUF_SIZE = 64 * 1024 };

static char buf[BUF_SIZE];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int bound(int flags) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof addr;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, size) != 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &size) != 0) {
        fail("udp_echo: socket");
    }
    printf("ready %u\n", (unsigned)ntohs(addr.sin_port));
    fflush(stdout);
    return fd;
}

static void echo(int fd) {
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    ssize_t n = recvfrom(fd, buf, sizeof buf, 0, (struct sockaddr *)&from, &size);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            fail("udp_echo: recvfrom");
        }
        return;
    }
    /* One that the socket does not take is lost, as datagrams may be. */
    if (sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, size) < 0 && errno != EAGAIN) {
        fail("udp_echo: sendto");
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--blocking") == 0) {
        int fd = bound(0);
        for (;;) {
            echo(fd);
        }
    }
    int fd = bound(SOCK_NONBLOCK), epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
        fail("udp_echo: epoll");
    }
    for (;;) {
        if (epoll_wait(epoll_fd, &ev, 1, -1) == 1) {
            echo(fd);
        }
    }
}
