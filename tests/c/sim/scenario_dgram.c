/* The random scenario of datagram sockets: a loop with a few of them, peers outside that send and
 * receive, ICMP errors, pauses, interrupts and every way to end. Every datagram is numbered: each
 * peer sees its own in order, none twice, and none is missing but for an error that was told. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "base/mem.h"
#include "io/dgram.h"
#include "io/sys.h"
#include "scenario.h"

#define SOCKETS_MAX 4
#define PEERS 3
#define SENDS_OUTSIDE_MAX 150

enum { WILD, RESUMED, CLOSING, STOPPING };

typedef struct {
    uint32_t socket, peer, number;
} stamp;

typedef struct endpoint {
    taut_dgram d;
    sim_dgram *outside;
    int open, fd, id, connected;
    uint32_t tx[PEERS], out_rx[PEERS]; /* next number that the inside sends, the outside expects */
    uint32_t out_tx[PEERS], rx[PEERS]; /* the other way */
    uint32_t missing, told;            /* numbers that the outside skipped; errors that were told */
    uint32_t oversized; /* of no number: refused by the kernel, or told another error */
    int lossy;          /* aborted, or sent to after the end */
    int close_called, paused, writing_paused, tokens, actions_left, out_left, icmp_left;
} endpoint;

typedef struct {
    endpoint *owner;
    int peer;
    size_t size;
    uint8_t bytes[];
} token;

static struct {
    taut_loop loop;
    endpoint all[SOCKETS_MAX];
    int count, phase, oom, wakes_left;
} sd;

static endpoint *endpoint_of(taut_dgram *d) {
    return TAUT_CONTAINER(d, endpoint, d);
}
static void act(endpoint *e);

static void fill(uint8_t *bytes, size_t size, int id, int peer, uint32_t number) {
    stamp s = {(uint32_t)id, (uint32_t)peer, number};
    memcpy(bytes, &s, sizeof s);
    for (size_t i = sizeof s; i < size; i++)
        bytes[i] = (uint8_t)(number * 31 + i);
}
static stamp check_bytes(const uint8_t *bytes, size_t size, int id, int peer) {
    stamp s;
    SIM_CHECK(size >= sizeof s, "socket %d: a datagram of %zu bytes", id, size);
    memcpy(&s, bytes, sizeof s);
    SIM_CHECK(s.socket == (uint32_t)id && s.peer == (uint32_t)peer, "socket %d: a stray datagram",
              id);
    for (size_t i = sizeof s; i < size; i++)
        SIM_CHECK(bytes[i] == (uint8_t)(s.number * 31 + i), "socket %d: a wrong byte", id);
    return s;
}
static size_t some_size(void) {
    return sizeof(stamp) + sim_below(sim_below(8) ? 100 : SIM_DATAGRAM_MAX - sizeof(stamp));
}

/* The core's callbacks. */

static void check_callback(const endpoint *e, const char *name) {
    sim_trace("socket %d: %s", e->id, name);
    SIM_CHECK(e->open, "socket %d: %s after closed", e->id, name);
    SIM_CHECK(sim_fd_is_open(e->fd), "socket %d: %s with its fd closed", e->id, name);
}

static void on_received(taut_dgram *d, const uint8_t *bytes, size_t size,
                        const struct sockaddr *from, socklen_t from_size) {
    endpoint *e = endpoint_of(d);
    int peer = ((const uint8_t *)from)[2];
    check_callback(e, "received");
    SIM_CHECK(!e->close_called, "socket %d: a datagram after close", e->id);
    SIM_CHECK(!e->paused, "socket %d: a datagram while paused", e->id);
    SIM_CHECK(sd.loop.interrupt_err == 0, "socket %d: a datagram after an interrupt", e->id);
    uint32_t number = check_bytes(bytes, size, e->id, peer).number;
    SIM_CHECK(number == e->rx[peer] || (number > e->rx[peer] && sd.oom),
              "socket %d: number %u came from peer %d, not %u", e->id, number, peer, e->rx[peer]);
    e->rx[peer] = number + 1;
    if (sim_below(3) == 0)
        act(e);
    if (sim_below(50) == 0)
        taut_loop_interrupt(&sd.loop, TAUT_E_INTERRUPTED);
}
static void on_readable(taut_dgram *d) {
    sim_fail("nobody reads by himself");
}
static int on_send_own(taut_dgram *d, void *arg) {
    token *t = arg;
    endpoint *e = endpoint_of(d);
    struct sockaddr_storage addr;
    unsigned size;
    SIM_CHECK(sim_fd_is_open(e->fd), "socket %d: send_own with its fd closed", e->id);
    sim_dgram_address(t->peer, &addr, &size);
    ssize_t n = taut_sys_sendto(e->fd, t->bytes, t->size,
                                e->connected ? NULL : (struct sockaddr *)&addr, size);
    if (n < 0 && n != -EAGAIN)
        e->told++;
    if (n != -EAGAIN && e->open && sim_below(4) == 0)
        act(e);
    return n < 0 ? (int)n : 0;
}
static void on_error(taut_dgram *d, int err) {
    endpoint *e = endpoint_of(d);
    check_callback(e, "error");
    SIM_CHECK(err == -EMSGSIZE || err == -ECONNREFUSED, "socket %d: error %d", e->id, err);
    e->told++;
    if (sim_below(2))
        act(e);
}
static void on_pause(taut_dgram *d) {
    endpoint *e = endpoint_of(d);
    check_callback(e, "pause_writing");
    SIM_CHECK(!e->writing_paused && d->pending_size > d->high, "socket %d: a needless pause",
              e->id);
    e->writing_paused = 1;
    if (sim_below(4) == 0)
        act(e);
}
static void on_resume(taut_dgram *d) {
    endpoint *e = endpoint_of(d);
    check_callback(e, "resume_writing");
    SIM_CHECK(e->writing_paused && d->pending_size <= d->low, "socket %d: resumed too early",
              e->id);
    e->writing_paused = 0;
    if (sim_below(2))
        act(e);
}
static void on_closed(taut_dgram *d, int err) {
    endpoint *e = endpoint_of(d);
    check_callback(e, "closed");
    SIM_CHECK(e->tokens == 0, "socket %d: closed with %d tokens out", e->id, e->tokens);
    SIM_CHECK(err == 0 ? e->close_called : e->lossy || sd.oom, "socket %d: closed with %d", e->id,
              err);
    if (err != 0)
        e->lossy = 1;
    e->open = 0;
    memset(d, 0xff, sizeof *d); /* as if freed: a later touch does not go unseen */
}
static void on_release(void *arg) {
    token *t = arg;
    SIM_CHECK(t->owner->open, "socket %d: release after closed", t->owner->id);
    t->owner->tokens--;
    endpoint *e = t->owner;
    memset(t->bytes, 0xee, t->size);
    free(t);
    if (sim_below(16) == 0)
        act(e);
}
static const taut_dgram_ops ops = {.received = on_received,
                                   .readable = on_readable,
                                   .send_own = on_send_own,
                                   .error = on_error,
                                   .pause_writing = on_pause,
                                   .resume_writing = on_resume,
                                   .closed = on_closed,
                                   .release = on_release};

/* What the owner does. */

static void send_some(endpoint *e) {
    struct sockaddr_storage addr;
    unsigned addr_size;
    int peer = e->connected ? 0 : (int)sim_below(PEERS), own = sim_below(10) == 0;
    int oversized = !own && sim_below(30) == 0, lost = e->d.lost;
    size_t size = oversized ? SIM_DATAGRAM_MAX + 1 : some_size();
    token *t = malloc(sizeof *t + size);
    SIM_CHECK(t, "out of memory");
    *t = (token){.owner = e, .peer = peer, .size = size};
    /* Before the call: what it calls back may send the next number. */
    fill(t->bytes, size, e->id, peer, oversized ? 0 : e->tx[peer]++);
    e->oversized += (uint32_t)oversized;
    int borrowed = own || sim_below(2);
    e->tokens += borrowed;
    e->lossy |= lost;
    sim_dgram_address(peer, &addr, &addr_size);
    int rc =
        own ? taut_dgram_send_own(&e->d, size, t)
            : taut_dgram_send(&e->d, t->bytes, size, e->connected ? NULL : (struct sockaddr *)&addr,
                              addr_size, borrowed ? t : NULL);
    sim_trace("socket %d: send%s %zu -> %d", e->id, own ? "_own" : "", size, rc);
    if (!borrowed) {
        memset(t->bytes, 0xee, size);
        free(t);
    }
    if (rc < 0 && (!own || rc == -ENOMEM)) /* on_send_own counts its own */
        e->told++;
    SIM_CHECK(rc == 0 || rc == -EMSGSIZE || rc == -ECONNREFUSED || (rc == -ENOMEM && sd.oom),
              "socket %d: send: %d", e->id, rc);
}

static void resume(endpoint *e) {
    if (taut_dgram_read_start(&e->d) == 0)
        e->paused = 0;
    else
        SIM_CHECK(sd.oom, "socket %d: reading did not resume", e->id);
}

static void end(endpoint *e, int how) {
    sim_trace("socket %d: end %d", e->id, how);
    e->close_called = 1;
    if (how == 0) {
        taut_dgram_close(&e->d);
    } else {
        e->lossy = 1;
        taut_dgram_abort(&e->d, how < 2 ? 0 : -ECONNABORTED);
    }
    SIM_CHECK(e->open, "socket %d: closed within the call", e->id);
}

static void act(endpoint *e) {
    if (!e->open || e->actions_left <= 0)
        return;
    e->actions_left--;
    switch (sim_below(24)) {
    case 0:
        if (sim_below(3) == 0)
            end(e, (int)sim_below(3));
        break;
    case 1:
    case 2:
        taut_dgram_read_stop(&e->d);
        e->paused = 1;
        break;
    case 3:
    case 4:
    case 5:
        resume(e);
        break;
    case 6: {
        size_t high = (size_t)sim_below(3000);
        taut_dgram_set_water_marks(&e->d, (size_t)sim_below(high + 1), high);
        break;
    }
    case 7:
        taut_dgram_flush(&e->d);
        break;
    default:
        for (uint64_t i = sim_below(sim_below(4) ? 4 : 100); i > 0 && e->open; i--)
            if (!e->writing_paused || sim_below(20) == 0)
                send_some(e);
    }
}

static void open_one(void) {
    endpoint *e = &sd.all[sd.count];
    int connected = (int)sim_below(2);
    *e = (endpoint){.open = 1, .id = sd.count++, .connected = connected, .actions_left = 60};
    e->fd = sim_dgram_open(1 + (int)sim_below(sim_below(3) ? 20 : 100), connected);
    e->outside = sim_dgram_of(e->fd);
    e->out_left = (int)sim_below(SENDS_OUTSIDE_MAX);
    e->icmp_left = sim_below(2) ? (int)sim_below(6) : 0;
    taut_dgram_open(&e->d, &sd.loop, e->fd, sim_below(4) ? AF_INET : AF_UNIX, &ops);
    e->d.connected = (unsigned)connected & 1u;
    e->d.header_size = sim_below(2) ? 8 : 0;
    if (taut_dgram_read_start(&e->d) < 0)
        e->paused = 1;
    act(e);
}

/* The outside. */

static int outside_recv(endpoint *e) {
    uint8_t bytes[SIM_DATAGRAM_MAX + 1];
    int peer;
    ssize_t n = sim_dgram_out_recv(e->outside, &peer, bytes, sizeof bytes);
    if (n < 0)
        return 0;
    uint32_t number = check_bytes(bytes, (size_t)n, e->id, peer).number;
    sim_trace("socket %d: peer %d got %u", e->id, peer, number);
    SIM_CHECK(number >= e->out_rx[peer] && number < e->tx[peer],
              "socket %d: peer %d got %u, expected %u", e->id, peer, number, e->out_rx[peer]);
    e->missing += number - e->out_rx[peer];
    e->out_rx[peer] = number + 1;
    return 1;
}

static int outside_send(endpoint *e) {
    uint8_t bytes[SIM_DATAGRAM_MAX];
    if (e->out_left <= 0)
        return 0;
    if (e->icmp_left > 0 && sim_below(20) == 0) {
        e->icmp_left--;
        sim_dgram_out_error(e->outside, -ECONNREFUSED);
        return 1;
    }
    for (uint64_t i = sim_below(4) ? 1 : sim_below(60); i > 0 && e->out_left > 0; i--) {
        int peer = e->connected ? 0 : (int)sim_below(PEERS);
        size_t size = some_size();
        fill(bytes, size, e->id, peer, e->out_tx[peer]);
        e->out_left--;
        if (sim_dgram_out_send(e->outside, peer, bytes, size))
            e->out_tx[peer]++;
    }
    return 1;
}

static int world_step(void *ctx) {
    if (sd.wakes_left > 0 && sim_below(8) == 0) {
        sd.wakes_left--;
        taut_loop_wake(&sd.loop);
        return 1;
    }
    int from = (int)sim_below((uint64_t)sd.count);
    for (int i = 0; i < sd.count; i++) {
        endpoint *e = &sd.all[(from + i) % sd.count];
        if (sim_below(2) ? outside_recv(e) || outside_send(e) : outside_send(e) || outside_recv(e))
            return 1;
    }
    return 0;
}

static void check_quiet(const endpoint *e) {
    uint32_t never_came = 0;
    for (int peer = 0; peer < PEERS; peer++)
        never_came += e->tx[peer] - e->out_rx[peer];
    SIM_CHECK(e->lossy || e->missing + never_came + e->oversized <= e->told,
              "socket %d: %u are missing, %u too large, %u errors were told", e->id,
              e->missing + never_came, e->oversized, e->told);
    if (!e->open)
        return;
    SIM_CHECK(!e->close_called, "socket %d: close() without closed", e->id);
    SIM_CHECK(e->d.pending_size == 0 && !e->writing_paused && e->tokens == 0,
              "socket %d: stuck writing", e->id);
    for (int peer = 0; peer < PEERS && !e->paused; peer++)
        SIM_CHECK(e->rx[peer] == e->out_tx[peer] || sd.oom,
                  "socket %d: peer %d sent %u datagrams, %u came", e->id, peer, e->out_tx[peer],
                  e->rx[peer]);
}

static void idle(void *ctx) {
    sim_trace("idle after phase %d", sd.phase);
    for (int i = 0; i < sd.count; i++) {
        check_quiet(&sd.all[i]);
        SIM_CHECK(sd.phase < CLOSING || !sd.all[i].open, "socket %d was not closed", i);
    }
    sd.phase++;
    taut_loop_wake(&sd.loop);
}

/* The loop's owner. */

static int run_ready(void *ctx, size_t count) {
    while (count-- > 0 && sd.loop.interrupt_err == 0) {
        taut_entry entry = taut_ring_pop(&sd.loop.ready);
        taut_loop_run_core_entry(&entry);
    }
    return 0;
}
static void on_wait(void *ctx) {}
static int check(void *ctx) {
    return 0;
}
static void woken(void *ctx) {
    for (int i = 0; i < sd.count && sd.phase < STOPPING; i++) {
        endpoint *e = &sd.all[i];
        if (!e->open)
            continue;
        if (sd.phase == WILD)
            act(e);
        else if (sd.phase == RESUMED)
            resume(e);
        else if (!e->close_called)
            end(e, (int)sim_below(3));
    }
    if (sd.phase >= STOPPING)
        taut_loop_stop(&sd.loop);
}
static const taut_loop_ops loop_ops = {.run_ready = run_ready,
                                       .wait_begin = on_wait,
                                       .wait_end = on_wait,
                                       .check = check,
                                       .woken = woken};

void scenario_dgram_run(uint64_t seed, int verbose) {
    taut_mem_stats before, after;
    taut_mem_stats_get(&before);
    sim_begin(seed, verbose);
    memset(&sd, 0, sizeof sd);
    SIM_CHECK(taut_loop_init(&sd.loop, &loop_ops, NULL) == 0, "no loop");
    sd.wakes_left = (int)sim_below(40);
    sd.oom = sim_below(4) == 0;
    sim_faults faults = {.interject = (unsigned)sim_below(700)};
    if (sim_below(4)) {
        faults.again = (unsigned)sim_below(100);
        faults.partial = (unsigned)sim_below(300);
    }
    if (sd.oom) {
        faults.ctl = (unsigned)sim_below(50);
        taut_mem_fail_set(1 + sim_below(60), sim_below(3) == 0);
    }
    sim_world world = {.step = world_step, .idle = idle};
    sim_set_faults(&faults);
    sim_set_world(&world);
    for (uint64_t i = 1 + sim_below(SOCKETS_MAX); i > 0; i--)
        open_one();
    int rc;
    do
        rc = taut_loop_run(&sd.loop);
    while (rc == TAUT_E_INTERRUPTED);
    SIM_CHECK(rc == 0, "the loop ended with %d", rc);
    taut_mem_fail_set(0, 0);
    SIM_CHECK(taut_ring_count(&sd.loop.ready) == 0, "entries left in the ready queue");
    SIM_CHECK(taut_poller_count(sd.loop.poller) == 1, "%u watches left in the poller",
              taut_poller_count(sd.loop.poller) - 1);
    taut_loop_close(&sd.loop);
    sim_end();
    taut_mem_stats_get(&after);
    SIM_CHECK(after.live_blocks == before.live_blocks, "%lld blocks leaked",
              (long long)(after.live_blocks - before.live_blocks));
}
