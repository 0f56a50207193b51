#include "load.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { READ_SIZE = 256 * 1024, EVENTS_MAX = 256, ERRORS_MAX = 1000 };

typedef struct {
    const taut_load_config *cfg;
    const taut_load_proto *proto;
    taut_load_result *res;
    taut_load_conn *conns;
    int epoll_fd;
    char *scratch;
    bool measuring;
    uint64_t measure_start_ns, end_ns, cpu_start_ns;
    int fatal;
} taut_load_engine;

static void sample_add(taut_load_result *res, uint64_t latency_ns) {
    if (res->samples_len == res->samples_size) {
        size_t size = res->samples_size ? res->samples_size * 2 : 1 << 16;
        uint32_t *grown = realloc(res->samples, size * sizeof *grown);
        if (!grown) {
            return; /* the counts stay right; the quantiles cover what fitted */
        }
        res->samples = grown;
        res->samples_size = size;
    }
    uint64_t units = latency_ns / 100;
    res->samples[res->samples_len++] = units > UINT32_MAX ? UINT32_MAX : (uint32_t)units;
}

static int conn_open(taut_load_engine *e, taut_load_conn *c) {
    if (taut_load_open(e->cfg, c) != 0) {
        return -1;
    }
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) != 0) {
        fprintf(stderr, "loadgen: epoll_ctl: %s\n", strerror(errno));
        taut_load_close(c);
        return -1;
    }
    c->wants_write = false;
    return 0;
}

static void conn_want_write(taut_load_engine *e, taut_load_conn *c, bool on) {
    if (c->wants_write != on) {
        struct epoll_event ev = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(e->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
        c->wants_write = on;
    }
}

/* 0, or -1 when the connection broke. */
static int conn_send(taut_load_engine *e, taut_load_conn *c) {
    while (c->sent < c->request->size) {
        ssize_t n = taut_load_send(c, c->request->bytes + c->sent, c->request->size - c->sent);
        if (n < 0) {
            if (errno == EAGAIN) {
                conn_want_write(e, c, true);
                return 0;
            }
            return errno == EINTR ? conn_send(e, c) : -1;
        }
        c->sent += (size_t)n;
    }
    conn_want_write(e, c, false);
    return 0;
}

static int conn_begin(taut_load_engine *e, taut_load_conn *c, uint64_t now_ns) {
    c->request = &e->cfg->mix[c->next];
    c->next = (c->next + 1) % e->cfg->mix_len;
    c->sent = 0;
    c->start_ns = now_ns;
    if (e->cfg->shake) {
        conn_want_write(e, c, true); /* the event of that begins the handshake */
        return 0;
    }
    e->proto->begin(c);
    return conn_send(e, c);
}

static void conn_restart(taut_load_engine *e, taut_load_conn *c, bool failed) {
    taut_load_close(c);
    if (failed && ++e->res->errors > ERRORS_MAX) {
        fprintf(stderr, "loadgen: more than %d connections failed\n", ERRORS_MAX);
        e->fatal = -1;
        return;
    }
    if (conn_open(e, c) != 0 || conn_begin(e, c, taut_clock_now_ns()) != 0) {
        e->fatal = -1;
    }
}

/* Start of measuring and end of the run, looked at after each answer. */
static void note_time(taut_load_engine *e, uint64_t now_ns) {
    if (!e->measuring && now_ns >= e->measure_start_ns) {
        e->measuring = true;
        e->measure_start_ns = now_ns;
        e->cpu_start_ns = taut_load_cpu_ns(e->cfg->server_pid);
        e->end_ns = e->cfg->seconds > 0 ? now_ns + (uint64_t)(e->cfg->seconds * 1e9) : UINT64_MAX;
    }
}

static void conn_answered(taut_load_engine *e, taut_load_conn *c) {
    uint64_t now_ns = taut_clock_now_ns();
    if (e->measuring) {
        if (c->ok) {
            e->res->done++;
        } else {
            e->res->bad++;
        }
        sample_add(e->res, now_ns - c->start_ns);
        if (e->cfg->seconds <= 0 && e->res->done + e->res->bad >= e->cfg->requests) {
            e->end_ns = now_ns;
        }
    }
    note_time(e, now_ns);
    if (c->closing) {
        conn_restart(e, c, false);
    } else if (conn_begin(e, c, now_ns) != 0) {
        conn_restart(e, c, true);
    }
}

static void conn_went(taut_load_engine *e, taut_load_conn *c, taut_load_state state) {
    switch (state) {
    case TAUT_LOAD_MORE:
        break;
    case TAUT_LOAD_DONE:
        conn_answered(e, c);
        break;
    case TAUT_LOAD_BROKEN:
        conn_restart(e, c, true);
        break;
    }
}

static void conn_shake(taut_load_engine *e, taut_load_conn *c) {
    conn_want_write(e, c, false);
    c->ok = c->closing = true;
    conn_went(e, c, taut_load_tls_shake(c));
}

/* *empty: there was nothing to read. */
static taut_load_state read_once(taut_load_engine *e, taut_load_conn *c, bool *empty) {
    ssize_t n = taut_load_recv(c, e->scratch, READ_SIZE);
    *empty = n < 0 && (errno == EAGAIN || errno == EINTR);
    if (*empty) {
        return TAUT_LOAD_MORE;
    }
    return n <= 0 ? TAUT_LOAD_BROKEN : e->proto->feed(c, e->scratch, (size_t)n);
}

static void conn_read(taut_load_engine *e, taut_load_conn *c) {
    bool empty;
    taut_load_state state = read_once(e, c, &empty);
    /* TLS hands out a record at a time, and what it holds back shows in no event. */
    while (c->tls && state == TAUT_LOAD_MORE && !empty) {
        state = read_once(e, c, &empty);
    }
    conn_went(e, c, state);
}

static int start_all(taut_load_engine *e) {
    for (unsigned i = 0; i < e->cfg->connections; i++) {
        e->conns[i].next = i % e->cfg->mix_len;
        e->conns[i].fd = -1;
        e->conns[i].head = taut_load_alloc(TAUT_LOAD_HEAD_MAX);
        if (conn_open(e, &e->conns[i]) != 0) {
            return -1;
        }
    }
    uint64_t now_ns = taut_clock_now_ns();
    e->measure_start_ns = now_ns + (uint64_t)(e->cfg->warmup_s * 1e9);
    e->end_ns = UINT64_MAX;
    note_time(e, now_ns);
    for (unsigned i = 0; i < e->cfg->connections; i++) {
        if (conn_begin(e, &e->conns[i], taut_clock_now_ns()) != 0) {
            fprintf(stderr, "loadgen: send: %s\n", strerror(errno));
            return -1;
        }
    }
    return 0;
}

static int drive(taut_load_engine *e) {
    struct epoll_event events[EVENTS_MAX];
    while (!e->fatal && taut_clock_now_ns() < e->end_ns) {
        int n = epoll_wait(e->epoll_fd, events, EVENTS_MAX, 10000);
        if (n == 0) {
            fprintf(stderr, "loadgen: no answer for 10 s\n");
            return -1;
        }
        for (int i = 0; i < n && !e->fatal; i++) {
            taut_load_conn *c = events[i].data.ptr;
            if (e->cfg->shake) {
                conn_shake(e, c);
            } else if ((events[i].events & EPOLLOUT) && conn_send(e, c) != 0) {
                conn_restart(e, c, true);
            } else if (events[i].events & ~(uint32_t)EPOLLOUT) {
                conn_read(e, c);
            }
        }
    }
    return e->fatal;
}

int taut_load_run(const taut_load_config *cfg, const taut_load_proto *proto,
                  taut_load_result *res) {
    taut_load_engine e = {.cfg = cfg, .proto = proto, .res = res};
    memset(res, 0, sizeof *res);
    e.conns = taut_load_alloc(cfg->connections * sizeof *e.conns);
    e.scratch = taut_load_alloc(READ_SIZE);
    e.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int err = e.epoll_fd < 0 ? -1 : start_all(&e);
    if (!err) {
        err = drive(&e);
    }
    if (!err) {
        res->seconds = (double)(taut_clock_now_ns() - e.measure_start_ns) / 1e9;
        res->cpu_s = (double)(taut_load_cpu_ns(cfg->server_pid) - e.cpu_start_ns) / 1e9;
    }
    for (unsigned i = 0; i < cfg->connections; i++) {
        if (e.conns[i].head) {
            taut_load_close(&e.conns[i]);
        }
        free(e.conns[i].head);
    }
    if (e.epoll_fd >= 0) {
        close(e.epoll_fd);
    }
    free(e.conns);
    free(e.scratch);
    return err;
}
