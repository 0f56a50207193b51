/* io/recorder and io/trace: the ring, its copies while it is written, and the trace of a loop. */
#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "io/forks.h"
#include "io/loop.h"
#include "io/sys.h"
#include "io/trace.h"
#include "io/trace_map.h"
#include "check.h"

#define MANY (3 * TAUT_RECORDER_EVENTS)

static taut_recorder rec;
static taut_recorder_snapshot shot; /* too large for a stack */

static enum taut_event kind_at(size_t i) {
    return (enum taut_event)(shot.events[i].what >> 56);
}
static uint64_t value_at(size_t i) {
    return shot.events[i].what & (UINT64_MAX >> 8);
}

static void begin(void) {
    CHECK_EQ(taut_forks_init(), 0);
    rec = (taut_recorder){.limit = NULL};
    taut_recorder_begin(&rec, 1000, taut_sys_ticks());
}

static void what_is_added_is_copied_in_order(void) {
    begin();
    taut_recorder_add(&rec, TAUT_EVENT_STEP, 77, 0);
    taut_recorder_add(&rec, TAUT_EVENT_CREATED, 78, 5);
    taut_recorder_turn(&rec, 0, 2000, taut_sys_ticks());
    taut_recorder_turn(&rec, 2400, 3000, taut_sys_ticks());
    CHECK_EQ(taut_recorder_copy(&rec, &shot), 1);
    CHECK_EQ(shot.first, 0);
    CHECK_EQ(shot.count, 6);
    static const enum taut_event kinds[] = {TAUT_EVENT_PAGE,    TAUT_EVENT_RUN,  TAUT_EVENT_STEP,
                                            TAUT_EVENT_CREATED, TAUT_EVENT_TURN, TAUT_EVENT_TURN};
    for (size_t i = 0; i < 6; i++)
        CHECK_EQ(kind_at(i), kinds[i]);
    CHECK_EQ(value_at(2), 77);
    CHECK_EQ(shot.events[3].more, 5);
    CHECK_EQ(value_at(4), 0);
    CHECK_EQ(value_at(5), 600);
    CHECK_EQ(shot.events[5].more, 3000);
    taut_recorder_free(&rec);
}

static void the_latest_are_kept(void) {
    begin();
    for (uint64_t i = 0; i < MANY; i++)
        taut_recorder_add(&rec, TAUT_EVENT_STEP, i + 1, i);
    CHECK_EQ(taut_recorder_copy(&rec, &shot), 1);
    CHECK(shot.count > TAUT_RECORDER_EVENTS - 2 * TAUT_RECORDER_PAGE);
    CHECK(shot.count <= TAUT_RECORDER_EVENTS);
    uint64_t next = MANY;
    for (size_t i = shot.count; i-- > 0;) { /* one a page is a mark */
        CHECK_EQ(kind_at(i) == TAUT_EVENT_PAGE, (shot.first + i) % TAUT_RECORDER_PAGE == 0);
        if (kind_at(i) == TAUT_EVENT_PAGE)
            continue;
        CHECK_EQ(value_at(i), next);
        CHECK_EQ(shot.events[i].more, --next);
    }
    taut_recorder_free(&rec);
}

static void *write_on(void *arg) {
    _Atomic int *stop = arg;
    for (uint64_t i = 1; !atomic_load_explicit(stop, memory_order_relaxed); i++)
        taut_recorder_add(&rec, TAUT_EVENT_STEP, i & 0xffffff, i & 0xffffff);
    return NULL;
}

/* Whatever the writer does meanwhile: no event of a copy is torn, missing or out of its order. */
static void copies_are_whole_while_it_is_written(void) {
    _Atomic int stop = 0;
    pthread_t thread;
    uint64_t first = 0, copies = 0;
    begin();
    CHECK_EQ(pthread_create(&thread, NULL, write_on, &stop), 0);
    while (copies < 20 || first < 2 * TAUT_RECORDER_EVENTS) {
        CHECK_EQ(taut_recorder_copy(&rec, &shot), 1);
        CHECK(shot.first >= first);
        first = shot.first;
        copies++;
        uint64_t before = 0;
        for (size_t i = 0; i < shot.count; i++) {
            CHECK_EQ(kind_at(i) == TAUT_EVENT_PAGE, (shot.first + i) % TAUT_RECORDER_PAGE == 0);
            if (kind_at(i) != TAUT_EVENT_STEP)
                continue;
            CHECK_EQ(value_at(i), shot.events[i].more);
            CHECK(before == 0 || value_at(i) == ((before + 1) & 0xffffff));
            before = value_at(i);
        }
    }
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    taut_recorder_free(&rec);
}

static void it_can_be_off(void) {
    CHECK_EQ(setenv("TAUT_RECORDER", "0", 1), 0);
    begin();
    CHECK_EQ(unsetenv("TAUT_RECORDER"), 0);
    taut_recorder_add(&rec, TAUT_EVENT_STEP, 1, 0);
    taut_recorder_turn(&rec, 0, 2000, 0);
    CHECK_EQ(taut_recorder_copy(&rec, &shot), 0);
    taut_recorder_stall_note(&rec, 1, "x");
    taut_recorder_free(&rec);
    taut_mem_fail_set(1, 1); /* as it is where memory is out */
    begin();
    taut_mem_fail_set(0, 0);
    taut_recorder_add(&rec, TAUT_EVENT_STEP, 1, 0);
    CHECK_EQ(taut_recorder_copy(&rec, &shot), 0);
    taut_recorder_free(&rec);
}

static void a_child_starts_afresh(void) {
    begin();
    taut_recorder_add(&rec, TAUT_EVENT_STEP, 1, 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_EQ(taut_recorder_copy(&rec, &shot), 0); /* what is there is the parent's */
        taut_recorder_begin(&rec, 5000, taut_sys_ticks());
        CHECK_EQ(taut_recorder_copy(&rec, &shot), 1);
        CHECK_EQ(shot.count, 2);
        CHECK_EQ(kind_at(1), TAUT_EVENT_RUN);
        CHECK_EQ(shot.events[1].more, 5000);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(taut_recorder_copy(&rec, &shot), 1);
    CHECK_EQ(shot.count, 3);
    taut_recorder_free(&rec);
}

static void stalls_are_kept_by_their_beginning(void) {
    begin();
    for (uint64_t i = 1; i <= TAUT_RECORDER_STALLS + 4; i++) {
        taut_recorder_stall_note(&rec, i * 100, "first");
        taut_recorder_stall_note(&rec, i * 100, "then");
        taut_recorder_stall_over(&rec, i * 100, i * 100 + 7);
    }
    CHECK_EQ(taut_recorder_copy(&rec, &shot), 1);
    CHECK_EQ(shot.stall_count, TAUT_RECORDER_STALLS);
    for (uint64_t i = 0; i < TAUT_RECORDER_STALLS; i++) {
        CHECK_EQ(shot.stalls[i].since_ns, (i + 5) * 100);
        CHECK_EQ(shot.stalls[i].until_ns, (i + 5) * 100 + 7);
        CHECK_EQ(strcmp(shot.stalls[i].label, "then"), 0);
        CHECK_EQ(shot.stalls[i].at, 2);
    }
    taut_recorder_free(&rec);
}

/* A rate that is wrong, as in the first moments, makes no mark later than what follows. */
static void marks_are_not_after_the_next_turn(void) {
    size_t next = 0;
    shot = (taut_recorder_snapshot){.now_ns = 9000, .tick_ns = 100.0, .count = 4};
    shot.events[0] = (taut_recorder_event){(uint64_t)TAUT_EVENT_MARK << 56 | 10, 1000};
    shot.events[1] = (taut_recorder_event){(uint64_t)TAUT_EVENT_MARK << 56 | 50, 1000};
    shot.events[2] = (taut_recorder_event){(uint64_t)TAUT_EVENT_TURN << 56 | 500, 4000};
    shot.events[3] = (taut_recorder_event){(uint64_t)TAUT_EVENT_PAGE << 56 | 99, 4000};
    CHECK_EQ(taut_recorder_clock(&shot, 0, &next), 2000);
    CHECK_EQ(taut_recorder_clock(&shot, 1, &next), 3500);
    CHECK_EQ(taut_recorder_clock(&shot, 2, &next), 4000);
    CHECK_EQ(taut_recorder_clock(&shot, 3, &next), 9000);
}

static void tracks_are_found_again(void) {
    taut_trace_map map = {NULL};
    for (uint64_t i = 1; i <= 5000; i++) {
        taut_trace_track *k = taut_trace_map_get(&map, i * 64);
        CHECK(k != NULL);
        CHECK_EQ(k->tid, 0);
        k->tid = (uint32_t)i;
    }
    for (uint64_t i = 5000; i > 0; i--)
        CHECK_EQ(taut_trace_map_get(&map, i * 64)->tid, i);
    CHECK_EQ(map.count, 5000);
    taut_trace_map_free(&map);
    taut_mem_fail_set(1, 0);
    CHECK(taut_trace_map_get(&map, 1) == NULL);
    taut_mem_fail_set(0, 0);
    CHECK_EQ(map.count, 0);
}

/* ---- a trace ---- */

static size_t say(char *to, size_t room, const char *text) {
    size_t size = strlen(text);
    CHECK(size <= room);
    memcpy(to, text, size);
    return size;
}
static size_t name_task(void *ctx, const taut_recorder *of, const void *task, uint64_t before_ns,
                        uint64_t *place, char *to, size_t room) {
    return task == (const void *)0xa0 ? say(to, room, "alive \"quoted\"") : 0;
}
static size_t name_object(void *ctx, uint64_t value, uint64_t more, char *to, size_t room) {
    return value == 0xc0   ? say(to, room, "coroutine")
           : value == 0xca ? say(to, room, "call me")
                           : 0;
}
static size_t name_place(void *ctx, uint64_t more, char *to, size_t room) {
    return say(to, room, "app.py:7 in main");
}
static void names_free(void *ctx) {
    ++*(int *)ctx;
}
static const taut_trace_names names = {
    .task = name_task, .object = name_object, .place = name_place, .free = names_free};

static int run_ready(void *ctx, size_t count) {
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
static taut_loop loop;

static const char *take_trace(taut_buf *out) {
    int freed = 0, rc;
    taut_trace *t = taut_trace_new(&names, &freed);
    CHECK(t != NULL);
    while ((rc = taut_trace_more(t, out)) == 1)
        continue;
    CHECK_EQ(rc, 0);
    taut_trace_free(t);
    CHECK_EQ(freed, 1);
    CHECK_EQ(taut_buf_append(out, "", 1), 0);
    return (const char *)taut_buf_bytes(out);
}

static void has(const char *trace, const char *part) {
    if (strstr(trace, part) == NULL)
        fprintf(stderr, "%s\nis not in\n%s\n", part, trace);
    CHECK(strstr(trace, part) != NULL);
}

/* Five steps in ten milliseconds, of which the third has stalled for six. */
static void steps_share_what_a_stall_leaves(void) {
    taut_buf out;
    taut_buf_init(&out);
    CHECK_EQ(taut_loop_init(&loop, &ops, NULL), 0);
    taut_recorder *r = &loop.recorder;
    uint64_t t0 = 5 * TAUT_NS_PER_S;
    taut_recorder_begin(r, t0, 0);
    taut_recorder_turn(r, t0, t0 + 3000000, 0);
    taut_recorder_add(r, TAUT_EVENT_CREATED, 0xb0, 1);
    for (uint64_t i = 0; i < 5; i++) {
        taut_recorder_add(r, TAUT_EVENT_STEP, i == 2 ? 0xa0 : 0xb0, 0);
        if (i == 2) {
            taut_recorder_stall_note(r, t0 + 4000000, "at app.py:9");
            taut_recorder_stall_over(r, t0 + 4000000, t0 + 10000000);
        }
    }
    taut_recorder_add(r, TAUT_EVENT_ENDED, 0xb0, 0xc0);
    taut_recorder_turn(r, t0 + 13000000, t0 + 14000000, 0);
    taut_recorder_add(r, TAUT_EVENT_CALL, 0xca, 0);
    taut_recorder_add(r, TAUT_EVENT_IO, 9, TAUT_READ | TAUT_HUP);
    taut_recorder_add(r, TAUT_EVENT_RUN, 0, t0 + 16000000);
    const char *trace = take_trace(&out);
    has(trace, "\"ts\":5000000.000,\"dur\":3000.000,\"name\":\"wait\"");
    has(trace, "\"ts\":5003000.000,\"dur\":10000.000,\"name\":\"turn\"");
    has(trace, "\"ts\":5003000.000,\"dur\":1000.000,\"name\":\"step\",\"args\":{\"of\":5}");
    has(trace, "\"ts\":5004000.000,\"dur\":1000.000,\"name\":\"step\",\"args\":{\"of\":5}");
    has(trace, "\"ts\":5005000.000,\"dur\":6000.000,\"name\":\"step\",\"args\":{\"stalled\":true}");
    has(trace, "\"ts\":5012000.000,\"dur\":1000.000,\"name\":\"step\"");
    has(trace, "\"ts\":5013000.000,\"s\":\"t\",\"name\":\"ended\"");
    has(trace, "\"ts\":5014000.000,\"dur\":1000.000,\"name\":\"call me\"");
    has(trace, "\"ts\":5015000.000,\"dur\":1000.000,\"name\":\"fd 9 read hangup\"");
    has(trace, "\"ts\":5004000.000,\"dur\":6000.000,\"name\":\"at app.py:9\"");
    has(trace, "\"args\":{\"name\":\"coroutine made at app.py:7 in main\"}");
    has(trace, "\"args\":{\"name\":\"alive \\\"quoted\\\"\"}");
    taut_buf_free(&out);
    taut_loop_close(&loop);
}

/* A step that goes on while a page of the ring is turned is one step. */
static void a_long_step_is_one(void) {
    taut_buf out;
    taut_buf_init(&out);
    CHECK_EQ(taut_loop_init(&loop, &ops, NULL), 0);
    taut_recorder *r = &loop.recorder;
    taut_recorder_begin(r, TAUT_NS_PER_S, taut_sys_ticks());
    taut_recorder_turn(r, 0, TAUT_NS_PER_S, taut_sys_ticks());
    taut_recorder_add(r, TAUT_EVENT_STEP, 0xa0, 0);
    for (uint64_t i = 0; i < 4 * TAUT_RECORDER_PAGE; i++)
        taut_recorder_add(r, TAUT_EVENT_CREATED, 0x1000 + 16 * i, 1);
    taut_recorder_turn(r, 0, 2 * TAUT_NS_PER_S, taut_sys_ticks());
    taut_recorder_add(r, TAUT_EVENT_RUN, 0, 3 * TAUT_NS_PER_S);
    has(take_trace(&out), "\"ts\":1000000.000,\"dur\":1000000.000,\"name\":\"step\"");
    taut_buf_free(&out);
    taut_loop_close(&loop);
}

static void take_or_fail(int may_fail) {
    taut_buf out;
    int freed = 0;
    taut_trace *t = taut_trace_new(&names, &freed);
    int rc = t == NULL ? -ENOMEM : 1;
    taut_buf_init(&out);
    while (rc == 1)
        rc = taut_trace_more(t, &out);
    taut_trace_free(t);
    taut_buf_free(&out);
    CHECK_EQ(freed, 1);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
}

static void running_out_of_memory_ends_it(void) {
    CHECK_EQ(taut_loop_init(&loop, &ops, NULL), 0);
    taut_recorder_begin(&loop.recorder, TAUT_NS_PER_S, 0);
    for (uint64_t i = 0; i < 2000; i++)
        taut_recorder_add(&loop.recorder, TAUT_EVENT_STEP, 0x1000 + 16 * i, 0);
    taut_recorder_add(&loop.recorder, TAUT_EVENT_RUN, 0, 2 * TAUT_NS_PER_S);
    check_every_allocation(take_or_fail);
    taut_loop_close(&loop);
}

static const check_test tests[] = {
    CHECK_TEST(what_is_added_is_copied_in_order),
    CHECK_TEST(the_latest_are_kept),
    CHECK_TEST(copies_are_whole_while_it_is_written),
    CHECK_TEST(it_can_be_off),
    CHECK_TEST(a_child_starts_afresh),
    CHECK_TEST(stalls_are_kept_by_their_beginning),
    CHECK_TEST(marks_are_not_after_the_next_turn),
    CHECK_TEST(tracks_are_found_again),
    CHECK_TEST(steps_share_what_a_stall_leaves),
    CHECK_TEST(a_long_step_is_one),
    CHECK_TEST(running_out_of_memory_ends_it),
};
CHECK_MAIN(tests)
