/* io/sock: single calls on sockets, none of which waits. */
#include <netinet/tcp.h>
#include <signal.h>
#include "io/sock.h"
#include "loop_fixture.h"

static void receiving_and_sending_never_wait(void) {
    int fds[2];
    char bytes[100];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0); /* blocking ones */
    CHECK_EQ(taut_sock_recv(fds[0], bytes, sizeof bytes), -EAGAIN);
    CHECK_EQ(taut_sock_send(fds[1], "hello", 5), 5);
    CHECK_EQ(taut_sock_recv(fds[0], bytes, sizeof bytes), 5);
    CHECK(memcmp(bytes, "hello", 5) == 0);
    ssize_t n;
    while ((n = taut_sock_send(fds[1], bytes, sizeof bytes)) > 0)
        continue;
    CHECK_EQ(n, -EAGAIN);
    taut_sock_close(fds[0]);
    CHECK_EQ(taut_sock_send(fds[1], "x", 1), -EPIPE); /* and no SIGPIPE, which would end us */
    taut_sock_close(fds[1]);
    CHECK(!fx_fd_is_open(fds[0]) && !fx_fd_is_open(fds[1]));
    CHECK_EQ(taut_sock_recv(-1, bytes, 1), -EBADF);
}

static void names_and_options(void) {
    int fds[2];
    fx_tcp_pair(fds);
    struct sockaddr_in mine, yours;
    socklen_t mine_size = sizeof mine, yours_size = sizeof yours;
    CHECK_EQ(taut_sock_name(fds[0], (struct sockaddr *)&mine, &mine_size), 0);
    CHECK_EQ(taut_sock_peer(fds[1], (struct sockaddr *)&yours, &yours_size), 0);
    CHECK_EQ(mine_size, sizeof mine);
    CHECK_EQ(yours_size, sizeof yours);
    CHECK_EQ(mine.sin_port, yours.sin_port);
    CHECK_EQ(taut_sock_family(fds[0]), AF_INET);
    CHECK_EQ(taut_sock_nodelay(fds[0]), 0);
    int on = 0;
    socklen_t size = sizeof on;
    CHECK_EQ(getsockopt(fds[0], IPPROTO_TCP, TCP_NODELAY, &on, &size), 0);
    CHECK(on != 0);
    close(fds[0]);
    close(fds[1]);
    fx_unix_pair(fds);
    CHECK_EQ(taut_sock_family(fds[0]), AF_UNIX);
    CHECK(taut_sock_nodelay(fds[0]) < 0);
    close(fds[0]);
    close(fds[1]);
    CHECK_EQ(taut_sock_family(fds[0]), -EBADF);
}

static void connecting_and_its_error(void) {
    struct sockaddr_in addr;
    int listening = fx_listening_socket(&addr);
    for (int refused = 0; refused < 2; refused++) {
        if (refused)
            close(listening);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        CHECK(fd >= 0);
        int rc = taut_sock_connect(fd, (struct sockaddr *)&addr, sizeof addr);
        if (rc == -EINPROGRESS) {
            struct sockaddr_in peer;
            socklen_t size = sizeof peer;
            do /* over loopback it takes no time to speak of */
                rc = taut_sock_error(fd);
            while (rc == 0 && taut_sock_peer(fd, (struct sockaddr *)&peer, &size) == -ENOTCONN);
        }
        CHECK_EQ(rc, refused ? -ECONNREFUSED : 0);
        CHECK_EQ(taut_sock_error(fd), 0); /* reading it has cleared it */
        close(fd);
    }
}

static const check_test tests[] = {
    CHECK_TEST(receiving_and_sending_never_wait),
    CHECK_TEST(names_and_options),
    CHECK_TEST(connecting_and_its_error),
};
CHECK_MAIN(tests)
