#include "io/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "io/private_fds.h"
#include "io/pulse.h"
#include "io/service.h"
#include "io/sys.h"

#define CLIENTS_MAX 8
#define HTTP_MAX 4 /* of them */
#define REQUEST_MAX 4096
#define QUIET_NS (2 * TAUT_NS_PER_S)
#define TOTAL_NS (10 * TAUT_NS_PER_S)

typedef struct {
    int fd; /* -1: free */
    int http, writing;
    uint64_t quiet_ns, total_ns; /* when patience ends */
    size_t size;
    char request[REQUEST_MAX + 1];
    taut_buf answer;
    taut_console_rest rest;
} client;

static struct {
    pthread_mutex_t lock;
    pthread_t thread;
    int live, over, prepared;
    _Atomic int thread_id;
    char path[TAUT_CONSOLE_PATH_MAX]; /* of our socket, "": none */
    taut_console_place place;
    const taut_console_ops *ops;
    /* The thread's own, in its table of fds if it has one (shared: it has none). */
    int control[2], listener, http, shared;
    uint64_t accept_ns; /* not before: there were no fds */
    client clients[CLIENTS_MAX];
} con = {.lock = PTHREAD_MUTEX_INITIALIZER, .control = {-1, -1}, .listener = -1, .http = -1};

/* ---- clients ------------------------------------------------------------------------------------
 */

static void rest_drop(client *c) {
    taut_console_rest rest = c->rest;
    c->rest = (taut_console_rest){.more = NULL};
    if (rest.more != NULL)
        rest.free(rest.ctx);
}

static void client_close(client *c) {
    rest_drop(c);
    taut_buf_free(&c->answer);
    taut_sys_close(c->fd);
    c->fd = -1;
}

static client *client_free(void) {
    for (int i = 0; i < CLIENTS_MAX; i++)
        if (con.clients[i].fd < 0)
            return &con.clients[i];
    return NULL;
}

static int http_count(void) {
    int n = 0;
    for (int i = 0; i < CLIENTS_MAX; i++)
        n += con.clients[i].fd >= 0 && con.clients[i].http;
    return n;
}

static void client_accept(int listener, int http) {
    client *c = client_free();
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    int fd = c == NULL ? -EAGAIN : taut_sys_accept(listener, (struct sockaddr *)&peer, &size);
    if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS)
        con.accept_ns = taut_sys_now_ns() + TAUT_NS_PER_S;
    if (fd < 0)
        return;
    if (!http && !taut_console_peer_is_user(fd)) {
        taut_sys_close(fd);
        return;
    }
    uint64_t now = taut_sys_now_ns();
    c->fd = fd;
    c->http = http;
    c->writing = 0;
    c->size = 0;
    c->quiet_ns = now + QUIET_NS;
    c->total_ns = now + TOTAL_NS;
    c->rest = (taut_console_rest){.more = NULL};
    taut_buf_init(&c->answer);
}

/* 1: there is something to be sent. */
static int client_fill(client *c) {
    while (taut_buf_size(&c->answer) == 0 && c->rest.more != NULL) {
        int rc = c->rest.more(c->rest.ctx, &c->answer);
        if (rc <= 0)
            rest_drop(c);
        if (rc < 0)
            return 0;
    }
    return taut_buf_size(&c->answer) > 0;
}

static void client_write(client *c) {
    while (client_fill(c)) {
        ssize_t n = taut_sys_send(c->fd, taut_buf_bytes(&c->answer), taut_buf_size(&c->answer));
        if (n == -EAGAIN || n == -EINTR)
            return;
        if (n < 0)
            break;
        taut_buf_consume(&c->answer, (size_t)n);
        c->quiet_ns = taut_sys_now_ns() + QUIET_NS;
    }
    client_close(c);
}

/* ---- HTTP, as far as a scraper needs it ---------------------------------------------------------
 */

static int http_put(taut_buf *out, const char *status, const taut_buf *body) {
    char head[256];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                        "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                        status, taut_buf_size(body));
    int rc = taut_buf_append(out, head, (size_t)size);
    return rc < 0 ? rc : taut_buf_append(out, taut_buf_bytes(body), taut_buf_size(body));
}

static int http_answer(const char *request, taut_buf *out) {
    static const char wanted[] = "GET /metrics";
    const char *status = "200 OK", *rest = request + sizeof wanted - 1;
    taut_buf body;
    int rc = 0;
    taut_buf_init(&body);
    if (strncmp(request, "GET ", 4) != 0)
        status = "405 Method Not Allowed";
    else if (strncmp(request, wanted, sizeof wanted - 1) != 0 || (*rest != ' ' && *rest != '?') ||
             con.ops->metrics == NULL)
        status = "404 Not Found";
    else
        rc = con.ops->metrics(&body);
    if (rc == 0)
        rc = taut_buf_append(&body, "", 0);
    if (rc == 0)
        rc = http_put(out, status, &body);
    taut_buf_free(&body);
    return rc;
}

/* ---- requests -----------------------------------------------------------------------------------
 */

/* Whether the request is whole; it is cut where it ends. */
static int is_whole(client *c) {
    c->request[c->size] = '\0';
    if (c->http)
        return strstr(c->request, "\r\n\r\n") != NULL || strstr(c->request, "\n\n") != NULL;
    char *end = memchr(c->request, '\n', c->size);
    if (end == NULL)
        return 0;
    *end = '\0';
    return 1;
}

static void client_read(client *c) {
    ssize_t n = taut_sys_recv(c->fd, c->request + c->size, REQUEST_MAX - c->size);
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n > 0)
        c->size += (size_t)n;
    if (n > 0 && is_whole(c)) {
        int rc = c->http ? http_answer(c->request, &c->answer)
                         : con.ops->answer(c->request, &c->answer, &c->rest);
        if (rc == 0) {
            c->writing = 1;
            c->quiet_ns = taut_sys_now_ns() + QUIET_NS;
            c->total_ns = taut_sys_now_ns() + TOTAL_NS;
            client_write(c);
            return;
        }
    } else if (n > 0 && c->size < REQUEST_MAX) {
        return;
    }
    client_close(c);
}

/* ---- the thread ---------------------------------------------------------------------------------
 */

static int listen_somewhere(void) {
    int fd = -ENOENT;
    for (int i = 0; i < 2 && fd < 0; i++)
        fd = taut_console_listen(con.place.directories[i], con.path);
    return fd;
}

static void say_no_metrics(int err) {
    char text[256];
    int size = snprintf(
        text, sizeof text, "taut: TAUT_METRICS_PORT=%s: no metrics there: %s\n", con.place.metrics,
        err == -EINVAL ? "not PORT nor HOST:PORT with a numeric host" : taut_err_message(err));
    (void)taut_private_fds_write(STDERR_FILENO, text, (size_t)size);
}

/* 0: nothing to serve. */
static int set_up(void) {
    con.shared = !taut_private_fds_entered();
    for (int i = 0; i < CLIENTS_MAX; i++)
        con.clients[i].fd = -1;
    pthread_mutex_lock(&con.lock); /* against exit(): from here on the path is known */
    int go = !con.over && taut_sys_pipe(con.control) == 0;
    if (go)
        con.listener = listen_somewhere();
    pthread_mutex_unlock(&con.lock);
    if (go && con.place.metrics[0] != '\0') {
        con.http = taut_console_listen_tcp(con.place.metrics);
        if (con.http < 0)
            say_no_metrics(con.http);
    }
    return con.listener >= 0 || con.http >= 0;
}

static void tear_down(void) {
    int *fds[] = {&con.control[0], &con.control[1], &con.listener, &con.http};
    for (int i = 0; i < CLIENTS_MAX; i++)
        if (con.clients[i].fd >= 0)
            client_close(&con.clients[i]);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            taut_sys_close(*fds[i]);
        *fds[i] = -1;
    }
}

static int until_ms(uint64_t deadline_ns) {
    uint64_t now = taut_sys_now_ns();
    if (deadline_ns == TAUT_NEVER_NS)
        return -1;
    return deadline_ns <= now ? 0 : (int)((deadline_ns - now) / TAUT_NS_PER_MS + 1);
}

static void serve_client(client *c, short events) {
    uint64_t now = taut_sys_now_ns();
    if (now > c->quiet_ns || now > c->total_ns)
        client_close(c);
    else if (events != 0 && c->writing)
        client_write(c);
    else if (events != 0)
        client_read(c);
}

/* One sleep, and what came of it. 0: the end. */
static int serve(void) {
    struct pollfd fds[3 + CLIENTS_MAX];
    client *of[CLIENTS_MAX];
    uint64_t now = taut_sys_now_ns();
    uint64_t deadline_ns = now < con.accept_ns ? con.accept_ns : TAUT_NEVER_NS;
    nfds_t count = 3;
    int room = client_free() != NULL && now >= con.accept_ns;
    fds[0] = (struct pollfd){.fd = con.control[0], .events = POLLIN};
    fds[1] = (struct pollfd){.fd = room ? con.listener : -1, .events = POLLIN};
    fds[2] =
        (struct pollfd){.fd = room && http_count() < HTTP_MAX ? con.http : -1, .events = POLLIN};
    for (int i = 0; i < CLIENTS_MAX; i++) {
        client *c = &con.clients[i];
        if (c->fd < 0)
            continue;
        uint64_t end_ns = c->quiet_ns < c->total_ns ? c->quiet_ns : c->total_ns;
        deadline_ns = end_ns < deadline_ns ? end_ns : deadline_ns;
        of[count - 3] = c;
        fds[count++] = (struct pollfd){.fd = c->fd, .events = c->writing ? POLLOUT : POLLIN};
    }
    int ready = poll(fds, count, until_ms(deadline_ns));
    if (ready < 0)
        return errno == EINTR || errno == ENOMEM;
    if (fds[0].revents != 0)
        return 0;
    for (nfds_t i = 3; i < count; i++)
        serve_client(of[i - 3], fds[i].revents);
    if (fds[1].revents != 0)
        client_accept(con.listener, 0);
    if (fds[2].revents != 0)
        client_accept(con.http, 1);
    return 1;
}

static void *console_main(void *arg) {
    atomic_store_explicit(&con.thread_id, (int)taut_pulse_self(), memory_order_relaxed);
    if (set_up())
        while (serve())
            continue;
    tear_down();
    return NULL;
}

/* ---- the outside --------------------------------------------------------------------------------
 */

void taut_console_leave(void) {
    pthread_mutex_lock(&con.lock);
    con.over = 1;
    if (con.path[0] != '\0')
        (void)unlink(con.path);
    con.path[0] = '\0';
    pthread_mutex_unlock(&con.lock);
}

static void fork_prepare(void) {
    pthread_mutex_lock(&con.lock);
}
static void fork_parent(void) {
    pthread_mutex_unlock(&con.lock);
}
static void fork_child(void) {
    con.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    con.live = 0;
    con.path[0] = '\0'; /* the parent's */
    atomic_store(&con.thread_id, 0);
    if (con.shared)
        tear_down();
    con.control[0] = con.control[1] = con.listener = con.http = -1;
    con.shared = 0;
}

int taut_console_start(const taut_console_place *place, const taut_console_ops *ops) {
    int rc = 0;
    if (place->directories[0][0] == '\0' && place->directories[1][0] == '\0' &&
        place->metrics[0] == '\0')
        return 0;
    pthread_mutex_lock(&con.lock);
    if (!con.prepared) {
        rc = -pthread_atfork(fork_prepare, fork_parent, fork_child);
        con.prepared = rc == 0 && atexit(taut_console_leave) == 0;
    }
    int start = rc == 0 && !con.live && !con.over;
    if (start) {
        con.place = *place;
        con.ops = ops;
        con.live = 1;
    }
    pthread_mutex_unlock(&con.lock);
    if (!start)
        return rc;
    rc = taut_service_start(&con.thread, "taut-console", console_main, NULL);
    if (rc < 0) {
        pthread_mutex_lock(&con.lock);
        con.live = 0;
        pthread_mutex_unlock(&con.lock);
    }
    return rc;
}

/* The thread's pipe is in its own table of fds: the way there leads through /proc. */
static void tell_end(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/fd/%d",
             atomic_load_explicit(&con.thread_id, memory_order_relaxed), con.control[1]);
    int fd = (int)TAUT_SYS_RC(open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (fd < 0)
        return;
    (void)taut_sys_write(fd, "x", 1);
    taut_sys_close(fd);
}

void taut_console_stop(void) {
    taut_console_leave();
    pthread_mutex_lock(&con.lock);
    int live = con.live;
    if (live)
        tell_end();
    pthread_mutex_unlock(&con.lock);
    if (live)
        pthread_join(con.thread, NULL);
    pthread_mutex_lock(&con.lock);
    con.live = con.over = 0;
    atomic_store_explicit(&con.thread_id, 0, memory_order_relaxed);
    pthread_mutex_unlock(&con.lock);
}

int taut_console_thread_id(void) {
    return atomic_load_explicit(&con.thread_id, memory_order_relaxed);
}
