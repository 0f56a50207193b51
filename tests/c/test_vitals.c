/* io/vitals: what a loop counts about itself, and how others read it. */
#include <errno.h>
#include <pthread.h>
#include "base/clock.h"
#include "io/loop.h"
#include "io/sys.h"
#include "check.h"

typedef struct {
    taut_loop loop;
    taut_timer timer;
    uint64_t busy_ns; /* what the timer's callback spends */
    int entries;      /* that it queues */
} world;

static int run_ready(void *ctx, size_t count) {
    world *w = ctx;
    for (; count > 0; count--) {
        taut_entry e = taut_ring_pop(&w->loop.ready);
        taut_loop_run_core_entry(&e);
    }
    return 0;
}
static void nothing(void *ctx) {}
static int check_nothing(void *ctx) {
    return 0;
}
static const taut_loop_ops ops = {
    .run_ready = run_ready,
    .wait_begin = nothing,
    .wait_end = nothing,
    .check = check_nothing,
    .woken = nothing,
};

static void spend(uint64_t ns) {
    uint64_t end = taut_sys_now_ns() + ns;
    while (taut_sys_now_ns() < end)
        continue;
}

static void on_due(taut_timer *t) {
    world *w = TAUT_CONTAINER(t, world, timer);
    spend(w->busy_ns);
    for (int i = 0; i < w->entries; i++)
        CHECK_EQ(taut_loop_call_soon(&w->loop, nothing, NULL), 0);
    taut_loop_stop(&w->loop);
}

static void world_init(world *w) {
    *w = (world){.timer = {.due = on_due}};
    taut_heap_node_init(&w->timer.node);
    CHECK_EQ(taut_loop_init(&w->loop, &ops, w), 0);
}

static void run_timer(world *w, int64_t in_ns) {
    uint64_t now_ns = taut_sys_now_ns();
    CHECK_EQ(taut_timer_start(&w->loop.timers, &w->timer, now_ns + (uint64_t)in_ns), 0);
    CHECK_EQ(taut_loop_run(&w->loop), 0);
}

#define COUNT(h) atomic_load(&(h).count)

static void counts_waiting_and_working(void) {
    world w;
    world_init(&w);
    w.busy_ns = 4 * TAUT_NS_PER_MS;
    uint64_t began_ns = taut_sys_now_ns(), active_ns, idle_ns;
    run_timer(&w, 6 * TAUT_NS_PER_MS);
    uint64_t now_ns = taut_sys_now_ns();
    taut_vitals_times(&w.loop.vitals, now_ns, &active_ns, &idle_ns);
    CHECK(active_ns >= w.busy_ns);
    CHECK(idle_ns > 0);
    CHECK(active_ns + idle_ns <= now_ns - began_ns);
    CHECK(atomic_load(&w.loop.vitals.busy.max) >= w.busy_ns);
    /* Stopped, it is neither. */
    uint64_t later_active_ns, later_idle_ns;
    taut_vitals_times(&w.loop.vitals, now_ns + TAUT_NS_PER_S, &later_active_ns, &later_idle_ns);
    CHECK_EQ(later_active_ns, active_ns);
    CHECK_EQ(later_idle_ns, idle_ns);
    taut_loop_close(&w.loop);
}

static void counts_late_timers(void) {
    world w;
    world_init(&w);
    run_timer(&w, -5 * (int64_t)TAUT_NS_PER_MS);
    CHECK_EQ(COUNT(w.loop.vitals.lag), 1);
    CHECK(atomic_load(&w.loop.vitals.lag.max) >= 5 * TAUT_NS_PER_MS);
    run_timer(&w, 0);
    CHECK_EQ(COUNT(w.loop.vitals.lag), 2);
    taut_loop_close(&w.loop);
}

static void counts_the_ready_queue(void) {
    world w;
    world_init(&w);
    w.entries = 7;
    run_timer(&w, 0);
    CHECK_EQ(atomic_load(&w.loop.vitals.ready_max), 7);
    w.entries = 3;
    run_timer(&w, 0);
    CHECK_EQ(atomic_load(&w.loop.vitals.ready_last), 3);
    CHECK_EQ(atomic_load(&w.loop.vitals.ready_max), 7);
    taut_loop_close(&w.loop);
}

typedef struct {
    taut_loop *loop;
    uint64_t active_ns;
    unsigned ids[4], count;
} seen;

static void see(taut_vitals *v, void *arg) {
    seen *s = arg;
    CHECK(s->count < 4);
    s->ids[s->count++] = v->id;
}

/* A reader on another thread sees the time that a callback has taken so far. */
static void *read_while_busy(void *arg) {
    seen *s = arg;
    uint64_t idle_ns, end_ns = taut_sys_now_ns() + 5 * TAUT_NS_PER_S;
    while (s->active_ns < 2 * TAUT_NS_PER_MS && taut_sys_now_ns() < end_ns)
        taut_vitals_times(&s->loop->vitals, taut_sys_now_ns(), &s->active_ns, &idle_ns);
    return NULL;
}

static void is_read_while_it_works(void) {
    world w;
    pthread_t thread;
    world_init(&w);
    seen s = {.loop = &w.loop};
    w.busy_ns = 50 * TAUT_NS_PER_MS;
    CHECK_EQ(pthread_create(&thread, NULL, read_while_busy, &s), 0);
    run_timer(&w, 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(s.active_ns >= 2 * TAUT_NS_PER_MS);
    taut_loop_close(&w.loop);
}

static void lists_the_loops(void) {
    world a, b;
    seen s = {NULL};
    world_init(&a);
    world_init(&b);
    taut_vitals_each(see, &s);
    CHECK_EQ(s.count, 2);
    CHECK_EQ(s.ids[0], 1);
    CHECK_EQ(s.ids[1], 2);
    taut_loop_close(&a.loop);
    world_init(&a);
    CHECK_EQ(a.loop.vitals.id, 1);
    s.count = 0;
    taut_vitals_each(see, &s);
    CHECK_EQ(s.count, 2);
    CHECK_EQ(s.ids[0], 2);
    taut_loop_close(&a.loop);
    taut_loop_close(&b.loop);
    s.count = 0;
    taut_vitals_each(see, &s);
    CHECK_EQ(s.count, 0);
}

static void counts_collections(void) {
    taut_vitals_gc_done(1, 100, 5, 0);
    taut_vitals_gc_done(1, 300, 1, 2);
    taut_vitals_gc_done(7, 1, 1, 1);
    CHECK_EQ(atomic_load(&taut_vitals_gc[1].count), 2);
    CHECK_EQ(atomic_load(&taut_vitals_gc[1].sum_ns), 400);
    CHECK_EQ(atomic_load(&taut_vitals_gc[1].longest_ns), 300);
    CHECK_EQ(atomic_load(&taut_vitals_gc[1].collected), 6);
    CHECK_EQ(atomic_load(&taut_vitals_gc[1].uncollectable), 2);
    CHECK_EQ(atomic_load(&taut_vitals_gc[0].count), 0);
}

static const check_test tests[] = {
    CHECK_TEST(counts_waiting_and_working),
    CHECK_TEST(counts_late_timers),
    CHECK_TEST(counts_the_ready_queue),
    CHECK_TEST(is_read_while_it_works),
    CHECK_TEST(lists_the_loops),
    CHECK_TEST(counts_collections),
};
CHECK_MAIN(tests)
