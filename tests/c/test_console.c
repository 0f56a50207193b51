/* io/console and io/console_place: who may ask, what is answered, and what a bad client can do. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "check.h"
#include "io/console.h"

#define DEADLINE_MS 30000

static char dir[64], runtime_dir[96];
static taut_console_place place;

static void make_place(void) {
    snprintf(dir, sizeof dir, "/tmp/taut-test-console-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    snprintf(runtime_dir, sizeof runtime_dir, "%s/taut", dir);
    place = (taut_console_place){.metrics = ""};
    snprintf(place.directories[0], sizeof place.directories[0], "%s", runtime_dir);
}

static void remove_place(void) {
    CHECK_EQ(rmdir(runtime_dir), 0); /* nothing was left in it */
    CHECK_EQ(rmdir(dir), 0);
}

/* "pieces" goes on for a megabyte, "broken" for 32 bytes before it fails. */
static int pieces_left, rests_freed;
static int piece(void *ctx, taut_buf *out) {
    int *fails = ctx;
    if (*fails && pieces_left == 0)
        return -ENOMEM;
    if (taut_buf_append(out, "0123456789abcdef", 16) < 0)
        return -ENOMEM;
    return --pieces_left > 0 || *fails;
}
static void piece_free(void *ctx) {
    rests_freed++;
}

/* "big" gives a megabyte, "none" fails; any other request is its own answer. */
static int answer(const char *request, taut_buf *out, taut_console_rest *rest) {
    static int fails[] = {0, 1};
    if (strcmp(request, "none") == 0)
        return -ENOMEM;
    if (strcmp(request, "pieces") == 0 || strcmp(request, "broken") == 0) {
        int broken = request[0] == 'b';
        pieces_left = broken ? 2 : 1 << 16;
        *rest = (taut_console_rest){.more = piece, .free = piece_free, .ctx = &fails[broken]};
    }
    for (int i = 0; strcmp(request, "big") == 0 && i < 1 << 16; i++)
        if (taut_buf_append(out, "0123456789abcdef", 16) < 0)
            return -ENOMEM;
    return taut_buf_append(out, request, strlen(request));
}

static int metrics(taut_buf *out) {
    return taut_buf_append(out, "pending_tasks 7\n", 16);
}

static const taut_console_ops ops = {.answer = answer, .metrics = metrics};

static struct sockaddr_un socket_of(pid_t pid) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%.60s/%d.sock", runtime_dir, (int)pid);
    return addr;
}

static int try_connect(void) {
    struct sockaddr_un addr = socket_of(getpid());
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
        return fd;
    close(fd);
    return -1;
}

static void pause_briefly(void) {
    poll(NULL, 0, 5);
}

/* The thread listens a moment after it was started. */
static int connect_here(void) {
    int fd = -1;
    for (int ms = 0; fd < 0; ms += 5, pause_briefly()) {
        CHECK(ms < DEADLINE_MS);
        fd = try_connect();
    }
    return fd;
}

static char got[2 << 20];
/* All that comes until the end, within the deadline. */
static size_t read_all(int fd) {
    size_t size = 0;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        CHECK_EQ(poll(&p, 1, DEADLINE_MS), 1);
        ssize_t n = read(fd, got + size, sizeof got - 1 - size);
        if (n <= 0)
            break;
        size += (size_t)n;
    }
    close(fd);
    got[size] = '\0';
    return size;
}

static void ask(const char *request, const char *expected) {
    int fd = connect_here();
    CHECK_EQ(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    CHECK_EQ(send(fd, "\n", 1, MSG_NOSIGNAL), 1);
    read_all(fd);
    CHECK_EQ(strcmp(got, expected), 0);
}

static void requests_are_answered(void) {
    struct stat st;
    make_place();
    int fds = check_fd_count();
    CHECK_EQ(taut_console_start(&place, &ops), 0);
    CHECK_EQ(taut_console_start(&place, &ops), 0); /* there is one already */
    ask("ps", "ps");
    ask("", "");
    ask("none", "");
    ask("cancel 0x1 a name", "cancel 0x1 a name");
    int fd = connect_here();
    CHECK_EQ(write(fd, "big\n", 4), 4);
    CHECK_EQ(read_all(fd), (16 << 16) + 3);
    ask("broken", "broken0123456789abcdef0123456789abcdef");
    CHECK_EQ(rests_freed, 1);
    fd = connect_here();
    CHECK_EQ(write(fd, "pieces\n", 7), 7);
    CHECK_EQ(read_all(fd), (16 << 16) + 6);
    CHECK_EQ(strncmp(got, "pieces0123", 10), 0);
    fd = connect_here(); /* one that does not wait for the end */
    CHECK_EQ(write(fd, "pieces\n", 7), 7);
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&readable, 1, DEADLINE_MS), 1);
    close(fd);
    CHECK(taut_console_thread_id() > 0);
    if (!check_under_valgrind()) /* which knows no pidfd_open: then the table is shared */
        CHECK_EQ(check_fd_count(), fds);
    struct sockaddr_un addr = socket_of(getpid());
    CHECK_EQ(stat(addr.sun_path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(stat(runtime_dir, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0700);
    taut_console_stop();
    CHECK_EQ(rests_freed, 3);
    CHECK_EQ(taut_console_thread_id(), 0);
    CHECK(access(addr.sun_path, F_OK) < 0);
    CHECK_EQ(check_fd_count(), fds);
    remove_place();
}

static void bad_clients_are_left(void) {
    static char flood[8192];
    int silent[12];
    make_place();
    CHECK_EQ(taut_console_start(&place, &ops), 0);
    int fd = connect_here();
    memset(flood, 'x', sizeof flood);
    (void)!send(fd, flood, sizeof flood, MSG_NOSIGNAL); /* no line at all */
    CHECK_EQ(read_all(fd), 0);
    fd = connect_here();
    CHECK_EQ(write(fd, "big\n", 4), 4);
    close(fd); /* gone before the answer */
    fd = connect_here();
    CHECK_EQ(shutdown(fd, SHUT_WR), 0); /* nothing asked */
    CHECK_EQ(read_all(fd), 0);
    /* More silent ones than there is room for: each is left after two seconds. */
    for (int i = 0; i < 12; i++)
        silent[i] = connect_here();
    ask("ps", "ps");
    for (int i = 0; i < 12; i++)
        CHECK_EQ(read_all(silent[i]), 0);
    taut_console_stop();
    remove_place();
}

static void a_reader_that_stops_is_left(void) {
    make_place();
    CHECK_EQ(taut_console_start(&place, &ops), 0);
    int fd = connect_here();
    CHECK_EQ(write(fd, "big\n", 4), 4);
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    CHECK_EQ(poll(&p, 1, DEADLINE_MS), 1); /* it was closed, though nothing was read */
    ask("ps", "ps");
    CHECK(read_all(fd) < (16 << 16));
    taut_console_stop();
    remove_place();
}

static void the_directory_is_ours_alone(void) {
    char other[128], path[TAUT_CONSOLE_PATH_MAX];
    struct stat st;
    make_place();
    snprintf(other, sizeof other, "%s/other", dir);
    CHECK_EQ(mkdir(other, 0700), 0);
    CHECK_EQ(symlink(other, runtime_dir), 0);
    int rc = taut_console_listen(runtime_dir, path);
    CHECK(rc == -ELOOP || rc == -ENOTDIR);
    CHECK_EQ(path[0], '\0');
    unlink(runtime_dir);
    rmdir(other);
    CHECK_EQ(mkdir(runtime_dir, 0777), 0);
    CHECK_EQ(chmod(runtime_dir, 0777), 0);
    int fd = taut_console_listen(runtime_dir, path);
    CHECK(fd >= 0);
    CHECK_EQ(stat(runtime_dir, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0700);
    close(fd);
    unlink(path);
    CHECK_EQ(taut_console_listen("/proc/nowhere", path), -ENOENT);
    CHECK_EQ(taut_console_listen("", path), -ENOENT);
    remove_place();
}

static void make_socket(pid_t pid, int *fd) {
    struct sockaddr_un addr = socket_of(pid);
    *fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(*fd, (struct sockaddr *)&addr, sizeof addr), 0);
}

static void what_dead_processes_left_is_removed(void) {
    int dead, alive, ours, fd;
    char path[TAUT_CONSOLE_PATH_MAX];
    make_place();
    CHECK_EQ(mkdir(runtime_dir, 0700), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    make_socket(pid, &dead);
    close(dead);
    make_socket(pid + 100000000,
                &alive); /* of another namespace: no such process, but it answers */
    CHECK_EQ(listen(alive, 1), 0);
    make_socket(getpid(), &ours); /* of an earlier process of our number */
    close(ours);
    fd = taut_console_listen(runtime_dir, path);
    CHECK(fd >= 0);
    CHECK(access(socket_of(pid).sun_path, F_OK) < 0);
    CHECK_EQ(access(socket_of(pid + 100000000).sun_path, F_OK), 0);
    char again[TAUT_CONSOLE_PATH_MAX];
    CHECK_EQ(taut_console_listen(runtime_dir, again), -EADDRINUSE); /* that one lives */
    unlink(path);
    unlink(socket_of(pid + 100000000).sun_path);
    close(fd);
    close(alive);
    remove_place();
}

static void a_forked_child_has_its_own(void) {
    make_place();
    CHECK_EQ(taut_console_start(&place, &ops), 0);
    ask("ps", "ps");
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_EQ(taut_console_thread_id(), 0);
        CHECK_EQ(taut_console_start(&place, &ops), 0);
        ask("of the child", "of the child");
        taut_console_stop();
        exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ask("ps", "ps");
    taut_console_stop();
    remove_place();
}

static void scrape(uint16_t port, const char *request, const char *status, const char *body) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    for (int ms = 0; connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0; ms += 5) {
        CHECK(ms < DEADLINE_MS);
        pause_briefly();
    }
    CHECK_EQ(write(fd, request, strlen(request)), strlen(request));
    read_all(fd);
    CHECK_EQ(strncmp(got, status, strlen(status)), 0);
    const char *end = strstr(got, "\r\n\r\n");
    CHECK(end != NULL && strcmp(end + 4, body) == 0);
}

static void metrics_are_scraped(void) {
    int fd = taut_console_listen_tcp("0"); /* which port is free */
    struct sockaddr_in addr;
    socklen_t size = sizeof addr;
    CHECK(fd >= 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&addr, &size), 0);
    CHECK_EQ(ntohl(addr.sin_addr.s_addr), INADDR_LOOPBACK);
    close(fd);
    uint16_t port = ntohs(addr.sin_port);
    make_place();
    snprintf(place.metrics, sizeof place.metrics, "%d", port);
    CHECK_EQ(taut_console_start(&place, &ops), 0);
    scrape(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n",
           "pending_tasks 7\n");
    scrape(port, "GET /metrics?x HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n", "pending_tasks 7\n");
    scrape(port, "GET /metricsx HTTP/1.0\r\n\r\n", "HTTP/1.1 404 Not Found\r\n", "");
    scrape(port, "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 404 Not Found\r\n", "");
    scrape(port, "POST /metrics HTTP/1.0\r\n\r\n", "HTTP/1.1 405 ", "");
    taut_console_stop();
    remove_place();
    static const char *const bad[] = {"",  "x",        "80x",  "host:80",
                                      ":", "1.2.3.4:", "[::1", "99999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(taut_console_listen_tcp(bad[i]) < 0);
}

static void the_environment_says_where(void) {
    taut_console_place p;
    char tmp[64];
    snprintf(tmp, sizeof tmp, "/tmp/taut-%u", (unsigned)geteuid());
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    unsetenv("TAUT_CONSOLE");
    unsetenv("TAUT_METRICS_PORT");
    taut_console_place_find(&p);
    CHECK_EQ(strcmp(p.directories[0], "/run/user/7/taut"), 0);
    CHECK_EQ(strcmp(p.directories[1], tmp), 0);
    CHECK_EQ(p.metrics[0], '\0');
    setenv("XDG_RUNTIME_DIR", "relative", 1);
    setenv("TAUT_METRICS_PORT", "0.0.0.0:9100", 1);
    taut_console_place_find(&p);
    CHECK_EQ(p.directories[0][0], '\0');
    CHECK_EQ(strcmp(p.metrics, "0.0.0.0:9100"), 0);
    setenv("TAUT_CONSOLE", "0", 1);
    taut_console_place_find(&p);
    CHECK_EQ(p.directories[1][0], '\0');
    CHECK(p.metrics[0] != '\0'); /* that is asked for by itself */
}

static const check_test tests[] = {
    CHECK_TEST(requests_are_answered),
    CHECK_TEST(bad_clients_are_left),
    CHECK_TEST(a_reader_that_stops_is_left),
    CHECK_TEST(the_directory_is_ours_alone),
    CHECK_TEST(what_dead_processes_left_is_removed),
    CHECK_TEST(a_forked_child_has_its_own),
    CHECK_TEST(metrics_are_scraped),
    CHECK_TEST(the_environment_says_where),
};
CHECK_MAIN(tests)
