/* The yardstick: what an echo costs in C with nothing around it. One thread, level-triggered
 * epoll, recv into one buffer, send it back; what does not fit is kept per connection.
 * Prints "ready PORT" and serves until it is killed. */
#include "peer.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUF_SIZE = 256 * 1024, EVENTS_MAX = 256 };

typedef struct {
    int fd;
    char *left; /* bytes that the socket did not take; NULL when none */
    size_t left_len, left_off;
} echo_conn;

static int epoll_fd;
static char buf[BUF_SIZE];

static void arm(echo_conn *c, uint32_t events, int op) {
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, op, c->fd, &ev) != 0) {
        perror("echo_epoll: epoll_ctl");
        exit(1);
    }
}

static void drop(echo_conn *c) {
    close(c->fd);
    free(c->left);
    free(c);
}

static void accept_all(int listen_fd) {
    int fd;
    while ((fd = taut_peer_accept(listen_fd)) >= 0) {
        echo_conn *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            continue;
        }
        c->fd = fd;
        arm(c, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* While bytes are left only writability is awaited, so memory stays at one read a connection. */
static void on_readable(echo_conn *c) {
    ssize_t n = recv(c->fd, buf, sizeof buf, 0);
    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n <= 0) {
        drop(c);
        return;
    }
    ssize_t sent = send(c->fd, buf, (size_t)n, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) {
        sent = 0;
    }
    if (sent < 0) {
        drop(c);
    } else if (sent < n) {
        c->left_len = (size_t)(n - sent);
        c->left_off = 0;
        c->left = malloc(c->left_len);
        if (!c->left) {
            drop(c);
            return;
        }
        memcpy(c->left, buf + sent, c->left_len);
        arm(c, EPOLLOUT, EPOLL_CTL_MOD);
    }
}

static void on_writable(echo_conn *c) {
    ssize_t n = send(c->fd, c->left + c->left_off, c->left_len - c->left_off, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n < 0) {
        drop(c);
        return;
    }
    c->left_off += (size_t)n;
    if (c->left_off == c->left_len) {
        free(c->left);
        c->left = NULL;
        arm(c, EPOLLIN, EPOLL_CTL_MOD);
    }
}

int main(int argc, char **argv) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listen_fd = taut_peer_listen("echo_epoll", (uint16_t)(argc > 1 ? atoi(argv[1]) : 0));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &ev) != 0) {
        perror("echo_epoll: epoll");
        return 1;
    }
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            echo_conn *c = events[i].data.ptr;
            if (!c) {
                accept_all(listen_fd);
            } else if (c->left) {
                on_writable(c);
            } else {
                on_readable(c);
            }
        }
    }
}
