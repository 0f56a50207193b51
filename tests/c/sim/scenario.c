#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "io/sys.h"
#include "scenario.h"

scenario sc;

/* 0: anything goes; 1: reading resumed everywhere; 2: everything is to be closed; 3: stop. */
enum { WILD, RESUMED, CLOSING, STOPPING };

static conn *some_conn(void) {
    return sc.conn_count ? &sc.conns[sim_below((uint64_t)sc.conn_count)] : NULL;
}

static void act_somewhere(void) {
    conn *c = some_conn();
    if (c && sc.phase == WILD)
        conn_act(c);
}

/* Timers. */

static void timer_start_some(void) {
    test_timer *t = &sc.timers[sim_below(TIMERS_MAX)];
    if (t->state != IDLE || sc.timer_starts_left <= 0)
        return;
    sc.timer_starts_left--;
    uint64_t now_ns = sim_clock_ns(), delta_ns = sim_below(sim_below(4) ? 300000 : 50000000);
    t->deadline_ns = sim_below(8) ? now_ns + delta_ns : now_ns - sim_below(now_ns);
    if (taut_timer_start(&sc.loop.timers, &t->timer, t->deadline_ns) == 0)
        t->state = ARMED;
    else
        SIM_CHECK(sc.oom, "a timer did not start");
}

static void timer_cancel_some(void) {
    test_timer *t = &sc.timers[sim_below(TIMERS_MAX)];
    if (t->state != ARMED)
        return;
    t->state = CANCELLED;
    taut_timer_cancel(&sc.loop.timers, &t->timer);
}

static void on_due(taut_timer *timer) {
    test_timer *t = TAUT_CONTAINER(timer, test_timer, timer);
    SIM_CHECK(t->state == ARMED, "a timer fired that was not armed");
    SIM_CHECK(t->deadline_ns <= sim_clock_ns(), "a timer fired %llu ns early",
              (unsigned long long)(t->deadline_ns - sim_clock_ns()));
    uint64_t iteration = sc.loop.pulse.iterations;
    if (sc.last_iteration == iteration)
        SIM_CHECK(t->deadline_ns >= sc.last_deadline_ns, "timers fired out of order");
    sc.last_iteration = iteration;
    sc.last_deadline_ns = t->deadline_ns;
    t->state = IDLE;
    sim_trace("timer due");
    timer_start_some();
    if (sim_below(2))
        timer_cancel_some();
    act_somewhere();
}

static void on_dropped(taut_timer *timer) {
    test_timer *t = TAUT_CONTAINER(timer, test_timer, timer);
    SIM_CHECK(t->state == CANCELLED, "a timer was dropped that nobody cancelled");
    t->state = IDLE;
}

/* Listener and connectors. */

static void on_listener_freed(taut_listener *ln) {
    sc.listener_freed++;
    memset(ln, 0xff, sizeof *ln);
}

static void listener_close(void) {
    sc.listening = 0;
    taut_listener_close(&sc.listener, on_listener_freed);
}

static void on_accepted(taut_listener *ln, int fd, const struct sockaddr *peer, socklen_t size) {
    SIM_CHECK(sc.listening, "a closed listener accepted");
    SIM_CHECK(size >= sizeof peer->sa_family && peer->sa_family == AF_UNIX, "wrong address");
    sc.accepts_due--;
    conn_open(fd, sim_outside_of(fd));
    if (sim_below(20) == 0)
        listener_close();
}
static void on_accept_error(taut_listener *ln, int err) {
    SIM_CHECK(err == -EMFILE || err == -ENFILE || err == -ENOBUFS || err == -EIO || sc.oom,
              "accept failed with %d", err);
}
static const taut_listener_ops listener_ops = {
    .accepted = on_accepted, .starved = on_accept_error, .failed = on_accept_error};

static void on_connected(taut_connector *c, int err) {
    int i = (int)(c - sc.connectors), fd = sc.connector_fds[i];
    SIM_CHECK(fd >= 0, "a connector was done twice, or after its cancellation");
    SIM_CHECK(err == 0 || err == -ECONNREFUSED, "connect failed with %d", err);
    sc.connector_fds[i] = -1;
    memset(c, 0xff, sizeof *c);
    SIM_CHECK(err != 0 || sim_outside_of(fd), "a connector was done too early");
    if (err == 0)
        conn_open(fd, sim_outside_of(fd));
    else
        taut_sys_close(fd);
}

void connect_some(int i) {
    if (sc.connector_fds[i] >= 0 || sc.phase >= CLOSING)
        return;
    struct sockaddr addr = {.sa_family = AF_UNIX};
    int fd = sim_unconnected(sc.capacity);
    int rc =
        taut_connector_start(&sc.connectors[i], &sc.loop, fd, &addr, sizeof addr, on_connected);
    sc.connector_fds[i] = fd;
    if (rc == 1) {
        on_connected(&sc.connectors[i], 0);
    } else if (rc < 0) {
        sc.connector_fds[i] = -1;
        taut_sys_close(fd);
    }
}

static void connector_cancel(int i) {
    if (sc.connector_fds[i] < 0)
        return;
    taut_connector_cancel(&sc.connectors[i]);
    taut_sys_close(sc.connector_fds[i]);
    sc.connector_fds[i] = -1;
}

/* The loop's owner. */

static void on_soon(void *arg) {
    if (sim_below(8) == 0)
        act_somewhere();
}

/* Until the ring is full: without memory it cannot grow, and what is queued next cannot be. */
static void fill_ring(void) {
    while (taut_ring_count(&sc.loop.ready) <= sc.loop.ready.mask) {
        int rc = taut_loop_call_soon(&sc.loop, on_soon, NULL);
        SIM_CHECK(rc == 0, "call_soon failed with room in the ring");
    }
}

static int run_ready(void *ctx, size_t count) {
    sc.last_deadline_ns = 0; /* the loop looks for due timers again, which this may start */
    while (count-- > 0) {
        taut_entry e = taut_ring_pop(&sc.loop.ready);
        SIM_CHECK(e.kind == TAUT_ENTRY_CORE, "an entry that nobody pushed");
        taut_loop_run_core_entry(&e);
    }
    return 0;
}
static void on_wait_begin(void *ctx) {
    SIM_CHECK(taut_ring_count(&sc.loop.ready) == 0, "the loop sleeps on ready entries");
    SIM_CHECK(taut_list_empty(&sc.loop.deferred), "the loop sleeps on deferred work");
}
static void on_wait_end(void *ctx) {}
static int check(void *ctx) {
    return 0;
}

static void shut_down(void) {
    if (sc.oom)
        fill_ring();
    for (int i = 0; i < sc.conn_count; i++)
        conn_shut_down(&sc.conns[i]);
    connector_cancel(0);
    connector_cancel(1);
    if (sc.listening)
        listener_close();
}

static void woken(void *ctx) {
    sc.seen = sc.published;
    sim_trace("woken, phase %d", sc.phase);
    switch (sc.phase) {
    case WILD:
        if (sim_below(32) == 0)
            fill_ring();
        timer_start_some();
        timer_cancel_some();
        act_somewhere();
        break;
    case RESUMED:
        for (int i = 0; i < sc.conn_count; i++)
            if (sc.conns[i].state == OPEN)
                conn_resume(&sc.conns[i]), conn_warm_file(&sc.conns[i]);
        break;
    case CLOSING:
        shut_down();
        break;
    default:
        taut_loop_stop(&sc.loop);
    }
}

static const taut_loop_ops loop_ops = {.run_ready = run_ready,
                                       .wait_begin = on_wait_begin,
                                       .wait_end = on_wait_end,
                                       .check = check,
                                       .woken = woken};

/* The outside. */

static int world_step(void *ctx) {
    if (sc.wakes_left > 0 && sim_below(8) == 0) {
        sc.wakes_left--;
        sc.published++;
        taut_loop_wake(&sc.loop);
        return 1;
    }
    if (sc.dials_left > 0 && sim_below(8) == 0) {
        sc.dials_left--;
        if (sim_dial(sc.listen_fd, sc.capacity))
            sc.accepts_due++;
        return 1;
    }
    int from = (int)sim_below((uint64_t)sc.conn_count);
    for (int i = 0; i < sc.conn_count; i++)
        if (conn_outside_step(&sc.conns[(from + i) % sc.conn_count]))
            return 1;
    return 0;
}

static void idle(void *ctx) {
    SIM_CHECK(sc.seen == sc.published, "a wake-up was lost");
    for (int i = 0; i < TIMERS_MAX; i++)
        SIM_CHECK(sc.timers[i].state != ARMED, "a timer was lost");
    SIM_CHECK(sc.accepts_due == 0 || !sc.listening, "%d connections not accepted", sc.accepts_due);
    for (int i = 0; i < sc.conn_count; i++)
        conn_check_quiet(&sc.conns[i]);
    sim_trace("idle after phase %d", sc.phase);
    if (sc.phase == WILD) {
        sc.wakes_left = sc.dials_left = 0;
    } else if (sc.phase == CLOSING) {
        for (int i = 0; i < sc.conn_count; i++)
            SIM_CHECK(sc.conns[i].state == GONE, "conn %d was not closed", i);
    }
    sc.phase++;
    sc.published++;
    taut_loop_wake(&sc.loop);
}

static void set_up(void) {
    static const size_t capacities[] = {1, 100, 4096, 65536, 700000};
    sc = (scenario){.timer_starts_left = 30, .wakes_left = (int)sim_below(60), .listen_fd = -1};
    sc.connector_fds[0] = sc.connector_fds[1] = -1;
    unsigned kind = (unsigned)sim_below(100);
    sc.capacity = capacities[kind < 4 ? 0 : kind < 30 ? 1 : kind < 65 ? 2 : kind < 98 ? 3 : 4];
    sc.write_max = sc.capacity == 1 ? 60 : sc.capacity < 3000 ? 600 : 9000;
    for (int i = 0; i < TIMERS_MAX; i++) {
        taut_heap_node_init(&sc.timers[i].timer.node);
        sc.timers[i].timer.due = on_due;
        sc.timers[i].timer.dropped = on_dropped;
    }
}

static void start_everything(void) {
    for (uint64_t i = sim_below(5); i > 0; i--) {
        sim_socket *outside;
        int fd = sim_pair(&outside, sc.capacity);
        conn_open(fd, outside);
    }
    if (sim_below(2)) {
        sc.listen_fd = sim_listen();
        taut_listener_init(&sc.listener, &sc.loop, sc.listen_fd, 1, 1 + (int)sim_below(4),
                           &listener_ops);
        sc.listening = 1;
        if (taut_listener_start(&sc.listener) == 0)
            sc.dials_left = (int)sim_below(6);
    }
    for (int i = 0; i < 2; i++)
        if (sim_below(3) == 0)
            connect_some(i);
    if (sim_below(8) == 0)
        connector_cancel(0);
    for (uint64_t i = sim_below(TIMERS_MAX); i > 0; i--)
        timer_start_some();
}

void scenario_run(uint64_t seed, int verbose) {
    taut_mem_stats before, after;
    taut_mem_stats_get(&before);
    sim_begin(seed, verbose);
    set_up();
    SIM_CHECK(taut_loop_init(&sc.loop, &loop_ops, NULL) == 0, "no loop");
    sim_faults faults = {.interject = (unsigned)sim_below(700)};
    if (sim_below(4)) {
        faults.again = (unsigned)sim_below(100);
        faults.partial = (unsigned)sim_below(300);
        faults.cold = (unsigned)sim_below(300);
        faults.accept = (unsigned)sim_below(200);
        faults.refuse = (unsigned)sim_below(500);
    }
    sc.oom = sim_below(4) == 0;
    if (sc.oom) {
        faults.ctl = (unsigned)sim_below(50);
        taut_mem_fail_set(1 + sim_below(60), sim_below(3) == 0);
    }
    sim_world world = {.step = world_step, .idle = idle};
    sim_set_faults(&faults);
    sim_set_world(&world);
    start_everything();
    int rc = taut_loop_run(&sc.loop);
    SIM_CHECK(rc == 0, "the loop ended with %d", rc);
    taut_mem_fail_set(0, 0);
    SIM_CHECK(taut_ring_count(&sc.loop.ready) == 0, "entries left in the ready queue");
    SIM_CHECK(taut_poller_count(sc.loop.poller) == 1, "%u watches left in the poller",
              taut_poller_count(sc.loop.poller) - 1);
    taut_loop_close(&sc.loop);
    SIM_CHECK(sc.listen_fd < 0 || sc.listener_freed == 1, "the listener was not given back");
    sim_end();
    taut_mem_stats_get(&after);
    SIM_CHECK(after.live_blocks == before.live_blocks, "%lld blocks leaked",
              (long long)(after.live_blocks - before.live_blocks));
}
