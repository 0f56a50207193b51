/* The yardstick of sendfile: each connection gets the file by sendfile(2), as much a call as the
 * socket takes, and is closed. Usage: file_epoll FILE. Prints "ready PORT" and serves until it is
 * killed. */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EVENTS_MAX = 64 };

typedef struct {
    int fd;
    off_t offset;
} file_conn;

static int epoll_fd, file_fd;
static off_t file_size;

static void drop(file_conn *c) {
    close(c->fd);
    free(c);
}

static void send_more(file_conn *c) {
    while (c->offset < file_size) {
        ssize_t n = sendfile(c->fd, file_fd, &c->offset, (size_t)(file_size - c->offset));
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            break;
    }
    drop(c);
}

static void accept_all(int listen_fd) {
    int fd;
    while ((fd = taut_peer_accept(listen_fd)) >= 0) {
        file_conn *c = calloc(1, sizeof *c);
        struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = c};
        if (!c) {
            close(fd);
            continue;
        }
        c->fd = fd;
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0)
            drop(c);
    }
}

int main(int argc, char **argv) {
    struct stat st;
    file_fd = argc > 1 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
    if (file_fd < 0 || fstat(file_fd, &st) != 0) {
        fprintf(stderr, "usage: file_epoll FILE\n");
        return 2;
    }
    file_size = st.st_size;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listen_fd = taut_peer_listen("file_epoll", 0);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &ev) != 0) {
        perror("file_epoll: epoll");
        return 1;
    }
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                send_more(events[i].data.ptr);
            else
                accept_all(listen_fd);
        }
    }
}
