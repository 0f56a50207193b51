/* io/timers against a plain array; cancelling, sweeping and re-entry. */
#include <errno.h>
#include "base/clock.h"
#include "base/list.h"
#include "io/timers.h"
#include "check.h"
#include "random.h"

#define TIMERS 300

enum { OUT, LIVE, CANCELLED };

typedef struct {
    taut_timer timer;
    uint64_t deadline, order;
    int state, fired, dropped;
    void (*then)(void *arg);
    void *arg;
} probe;

static uint64_t now, last_deadline, last_order;

static void on_due(taut_timer *t) {
    probe *p = TAUT_CONTAINER(t, probe, timer);
    CHECK_EQ(p->state, LIVE);
    CHECK(p->deadline <= now); /* never early */
    CHECK(p->deadline > last_deadline || (p->deadline == last_deadline && p->order > last_order));
    last_deadline = p->deadline;
    last_order = p->order;
    p->state = OUT;
    p->fired++;
    if (p->then)
        p->then(p->arg);
}

static void on_dropped(taut_timer *t) {
    probe *p = TAUT_CONTAINER(t, probe, timer);
    CHECK(p->state != OUT);
    CHECK(t->node.index == TAUT_HEAP_OUT);
    p->state = OUT;
    p->dropped++;
    if (p->then)
        p->then(p->arg);
}

static void probe_init(probe *p) {
    *p = (probe){.timer = {.due = on_due, .dropped = on_dropped}};
    taut_heap_node_init(&p->timer.node);
}

static void start(taut_timers *ts, probe *p, uint64_t deadline) {
    static uint64_t order;
    p->deadline = deadline;
    p->order = ++order;
    p->state = LIVE;
    CHECK_EQ(taut_timer_start(ts, &p->timer, deadline), 0);
}

static void cancel(taut_timers *ts, probe *p) {
    if (p->state == LIVE)
        p->state = CANCELLED;
    taut_timer_cancel(ts, &p->timer);
}

static size_t fire(taut_timers *ts, uint64_t when) {
    now = when;
    last_deadline = last_order = 0;
    return taut_timers_fire(ts, when);
}

static void run_random(uint64_t seed) {
    taut_timers ts;
    static probe probes[TIMERS];
    uint64_t rnd = seed, clock = 1000;
    taut_timers_init(&ts);
    for (int i = 0; i < TIMERS; i++)
        probe_init(&probes[i]);
    for (int step = 0; step < 5000; step++) {
        probe *p = &probes[random_below(&rnd, TIMERS)];
        uint64_t what = random_below(&rnd, 100), next = TAUT_NEVER_NS;
        size_t live = 0, due = 0;
        if (what < 50 && p->state == OUT)
            start(&ts, p, clock + random_below(&rnd, 2000));
        else if (what < 85)
            cancel(&ts, p);
        else
            clock += random_below(&rnd, 200);
        for (int i = 0; i < TIMERS; i++) {
            if (probes[i].state != LIVE)
                continue;
            live++;
            due += probes[i].deadline <= clock;
            next = probes[i].deadline < next ? probes[i].deadline : next;
        }
        CHECK_EQ(taut_timers_count(&ts), live);
        CHECK(taut_timers_next_ns(&ts) == next);
        if (what >= 85)
            CHECK_EQ(fire(&ts, clock), due);
    }
    taut_timers_free(&ts);
    for (int i = 0; i < TIMERS; i++)
        CHECK_EQ(probes[i].state, OUT);
}

static void random_operations(void) {
    for (uint64_t seed = 0; seed < 20; seed++)
        run_random(seed);
}

static void cancelled_timers_are_swept(void) {
    taut_timers ts;
    static probe probes[1000];
    size_t dropped = 0;
    taut_timers_init(&ts);
    for (int i = 0; i < 1000; i++) {
        probe_init(&probes[i]);
        start(&ts, &probes[i], 1000 + (uint64_t)i);
    }
    for (int i = 0; i < 900; i++)
        cancel(&ts, &probes[i]);
    CHECK(ts.heap.count < 300); /* the dead never outnumber the living for long */
    CHECK_EQ(taut_timers_count(&ts), 100);
    CHECK_EQ(fire(&ts, 5000), 100);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(probes[i].fired, i >= 900);
        dropped += (size_t)probes[i].dropped;
    }
    CHECK_EQ(dropped, 900);
    taut_timers_free(&ts);
}

/* The timeout of something that finished: it must not pile up. */
static void set_and_cancelled_at_once(void) {
    taut_timers ts;
    probe far, p;
    taut_timers_init(&ts);
    probe_init(&far);
    start(&ts, &far, 10);
    probe_init(&p);
    for (int i = 0; i < 1000; i++) {
        start(&ts, &p, 1000 + (uint64_t)i);
        cancel(&ts, &p);
        CHECK_EQ(p.dropped, i + 1);
    }
    CHECK_EQ(ts.heap.count, 1);
    taut_timers_free(&ts);
    CHECK_EQ(far.dropped, 1);
}

typedef struct {
    taut_timers *ts;
    probe *subject;
    uint64_t deadline; /* 0: cancel it, otherwise start it */
} action;

static void act(void *arg) {
    action *a = arg;
    if (a->deadline == 0)
        cancel(a->ts, a->subject);
    else if (a->subject->state == OUT)
        start(a->ts, a->subject, a->deadline);
}

static void started_while_firing_waits(void) {
    taut_timers ts;
    probe a, b, late;
    taut_timers_init(&ts);
    probe_init(&a);
    probe_init(&b);
    probe_init(&late);
    action again = {&ts, &a, 50}, other = {&ts, &late, 1};
    a.then = b.then = act;
    a.arg = &again; /* starts itself anew, already due */
    b.arg = &other; /* starts one that is due before all others */
    start(&ts, &a, 100);
    start(&ts, &b, 200);
    CHECK_EQ(fire(&ts, 300), 2);
    CHECK_EQ(a.fired, 1);
    CHECK_EQ(late.fired, 0);
    CHECK_EQ(taut_timers_next_ns(&ts), 1);
    CHECK_EQ(fire(&ts, 300), 2);
    CHECK_EQ(late.fired, 1);
    CHECK_EQ(a.fired, 2);
    a.then = b.then = NULL;
    taut_timers_free(&ts);
}

static void cancelled_while_firing(void) {
    taut_timers ts;
    probe a, b;
    taut_timers_init(&ts);
    probe_init(&a);
    probe_init(&b);
    action cancel_b = {&ts, &b, 0};
    a.then = act;
    a.arg = &cancel_b;
    start(&ts, &a, 100);
    start(&ts, &b, 100);
    CHECK_EQ(fire(&ts, 100), 1);
    CHECK_EQ(b.fired, 0);
    CHECK_EQ(b.dropped, 1);
    CHECK_EQ(taut_timers_count(&ts), 0);
    CHECK(taut_timers_next_ns(&ts) == TAUT_NEVER_NS);
    taut_timers_free(&ts);
}

/* Dropping a timer runs its owner's code, which may cancel or start others, in a sweep as well. */
static void dropped_comes_back(void) {
    taut_timers ts;
    static probe probes[400];
    static action actions[400];
    taut_timers_init(&ts);
    for (int i = 0; i < 400; i++) {
        probe_init(&probes[i]);
        probes[i].then = act;
        probes[i].arg = &actions[i];
        actions[i] = (action){&ts, &probes[(i * 7 + 1) % 400], 0};
        start(&ts, &probes[i], 1000 - (uint64_t)i % 13);
    }
    for (int i = 0; i < 200; i++)
        cancel(&ts, &probes[i]);
    taut_timers_next_ns(&ts);
    for (int i = 0; i < 400; i++) /* from here on each drop starts another one, if that is out */
        actions[i].deadline = 2000;
    for (int i = 0; i < 400; i++)
        cancel(&ts, &probes[i]);
    for (int i = 0; i < 400; i++)
        probes[i].then = NULL;
    fire(&ts, 3000);
    taut_timers_free(&ts);
    for (int i = 0; i < 400; i++)
        CHECK_EQ(probes[i].state, OUT);
}

static void extremes(void) {
    taut_timers ts;
    probe first, never;
    taut_timers_init(&ts);
    probe_init(&first);
    probe_init(&never);
    CHECK(taut_timers_next_ns(&ts) == TAUT_NEVER_NS);
    CHECK_EQ(fire(&ts, UINT64_MAX - 1), 0);
    start(&ts, &first, 0);
    start(&ts, &never, UINT64_MAX - 1);
    CHECK_EQ(taut_timers_next_ns(&ts), 0);
    now = 0;
    CHECK_EQ(taut_timers_fire(&ts, 0), 1);
    CHECK_EQ(fire(&ts, UINT64_MAX - 2), 0);
    taut_timer_cancel(&ts, &first.timer); /* not in: harmless */
    CHECK_EQ(first.dropped, 0);
    taut_timers_free(&ts);
    CHECK_EQ(never.dropped, 1);
}

static void scenario(int may_fail) {
    taut_timers ts;
    static probe probes[TIMERS];
    size_t in = 0;
    taut_timers_init(&ts);
    for (int i = 0; i < TIMERS; i++) {
        probe *p = &probes[i];
        probe_init(p);
        p->deadline = p->order = (uint64_t)i + 1;
        int rc = taut_timer_start(&ts, &p->timer, p->deadline);
        CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
        p->state = rc == 0 ? LIVE : OUT;
        if (rc < 0)
            taut_timer_cancel(&ts, &p->timer); /* harmless */
        else if (i % 4 == 0)
            cancel(&ts, p);
        in += p->state == LIVE;
    }
    CHECK_EQ(taut_timers_count(&ts), in);
    CHECK_EQ(fire(&ts, TIMERS + 1), in);
    taut_timers_free(&ts);
    for (int i = 0; i < TIMERS; i++)
        CHECK_EQ(probes[i].state, OUT);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {
    CHECK_TEST(random_operations),
    CHECK_TEST(cancelled_timers_are_swept),
    CHECK_TEST(set_and_cancelled_at_once),
    CHECK_TEST(started_while_firing_waits),
    CHECK_TEST(cancelled_while_firing),
    CHECK_TEST(dropped_comes_back),
    CHECK_TEST(extremes),
    CHECK_TEST(out_of_memory),
};
CHECK_MAIN(tests)
