/* io/metrics: the text that Prometheus reads. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "io/findings.h"
#include "io/metrics.h"
#include "io/vitals.h"
#include "check.h"

typedef struct {
    taut_pulse pulse;
    taut_vitals vitals;
} loop;

static const char *text_of(taut_buf *b) {
    taut_buf_clear(b);
    CHECK_EQ(taut_metrics_write(b), 0);
    CHECK_EQ(taut_buf_append(b, "", 1), 0);
    return (const char *)taut_buf_bytes(b);
}

static int has(const char *text, const char *line) {
    const char *found = strstr(text, line);
    return found != NULL && (found == text || found[-1] == '\n');
}

static void a_loop_in_numbers(void) {
    taut_buf b;
    loop l = {0};
    taut_buf_init(&b);
    taut_vitals_add(&l.vitals, &l.pulse);
    taut_hist_add(&l.vitals.lag, 40000);
    taut_hist_add(&l.vitals.lag, 30 * TAUT_NS_PER_MS);
    taut_hist_add(&l.vitals.lag, 90 * TAUT_NS_PER_S);
    atomic_store(&l.vitals.tasks, 7);
    atomic_store(&l.vitals.oldest_wait_ns, 2500 * TAUT_NS_PER_MS);
    atomic_store(&l.vitals.active_ns, TAUT_NS_PER_S);
    atomic_store(&l.vitals.idle_ns, 3 * TAUT_NS_PER_S);
    const char *text = text_of(&b);
    CHECK(has(text, "# TYPE event_loop_lag_seconds histogram\n"));
    CHECK(has(text, "event_loop_lag_seconds_bucket{loop=\"1\",le=\"0.0001\"} 1\n"));
    CHECK(has(text, "event_loop_lag_seconds_bucket{loop=\"1\",le=\"0.025\"} 1\n"));
    CHECK(has(text, "event_loop_lag_seconds_bucket{loop=\"1\",le=\"0.05\"} 2\n"));
    CHECK(has(text, "event_loop_lag_seconds_bucket{loop=\"1\",le=\"10.0\"} 2\n"));
    CHECK(has(text, "event_loop_lag_seconds_bucket{loop=\"1\",le=\"+Inf\"} 3\n"));
    CHECK(has(text, "event_loop_lag_seconds_count{loop=\"1\"} 3\n"));
    CHECK(has(text, "event_loop_lag_seconds_sum{loop=\"1\"} 90.030040000\n"));
    CHECK(has(text, "pending_tasks{loop=\"1\"} 7\n"));
    CHECK(has(text, "taut_task_oldest_wait_seconds{loop=\"1\"} 2.500000000\n"));
    CHECK(has(text, "asyncio_eventloop_time_seconds_total{loop=\"1\",state=\"active\"} 1.0"));
    CHECK(has(text, "asyncio_eventloop_time_seconds_total{loop=\"1\",state=\"idle\"} 3.0"));
    CHECK(has(text, "asyncio_eventloop_utilization{loop=\"1\"} 0.250\n"));
    taut_vitals_remove(&l.vitals);
    CHECK(!has(text_of(&b), "pending_tasks{"));
    taut_buf_free(&b);
}

static void counters_never_go_down(void) {
    taut_buf b;
    loop l = {0};
    taut_buf_init(&b);
    taut_vitals_add(&l.vitals, &l.pulse);
    atomic_store(&l.vitals.idle_ns, 5 * TAUT_NS_PER_S);
    CHECK(has(text_of(&b), "asyncio_eventloop_time_seconds_total{loop=\"1\",state=\"idle\"} 5.0"));
    atomic_store(&l.vitals.idle_ns, 4 * TAUT_NS_PER_S);
    CHECK(has(text_of(&b), "asyncio_eventloop_time_seconds_total{loop=\"1\",state=\"idle\"} 5.0"));
    taut_vitals_remove(&l.vitals);
    taut_buf_free(&b);
}

static void utilization_since_the_last_but_one(void) {
    loop l = {0};
    atomic_store(&l.vitals.active_ns, 100);
    l.vitals.pulse = &l.pulse;
    CHECK_EQ(taut_vitals_utilization(&l.vitals, 0), 1000);
    taut_vitals_keep(&l.vitals);
    atomic_store(&l.vitals.active_ns, 150);
    atomic_store(&l.vitals.idle_ns, 50);
    taut_vitals_keep(&l.vitals);
    CHECK_EQ(taut_vitals_utilization(&l.vitals, 0), 500);
    taut_vitals_keep(&l.vitals);
    CHECK_EQ(taut_vitals_utilization(&l.vitals, 0), 0);
}

static void findings_by_code(void) {
    taut_buf b;
    taut_buf_init(&b);
    taut_finding_new f = {.code = "blocking-call", .file = "a.py", .line = 1};
    CHECK(taut_findings_add(&f) > 0);
    CHECK(taut_findings_add(&f) > 0);
    f.line = 2;
    CHECK(taut_findings_add(&f) > 0);
    f.code = "gc-pause";
    CHECK(taut_findings_add(&f) > 0);
    const char *text = text_of(&b);
    CHECK(has(text, "taut_findings_total{code=\"blocking-call\"} 3\n"));
    CHECK(has(text, "taut_findings_total{code=\"gc-pause\"} 1\n"));
    taut_findings_clear();
    taut_buf_free(&b);
}

/* One that has left the table, or was taken back, stays counted. */
static void what_was_told_is_not_taken_back(void) {
    taut_buf b;
    taut_buf_init(&b);
    taut_finding_new f = {.code = "deadlock", .file = "a.py", .line = 1};
    CHECK(taut_findings_add(&f) > 0);
    f.line = 2;
    uint64_t id = taut_findings_add(&f);
    CHECK(has(text_of(&b), "taut_findings_total{code=\"deadlock\"} 2\n"));
    taut_findings_withdraw(id);
    CHECK(has(text_of(&b), "taut_findings_total{code=\"deadlock\"} 2\n"));
    taut_findings_clear();
    CHECK(has(text_of(&b), "taut_findings_total{code=\"deadlock\"} 2\n"));
    CHECK(taut_findings_add(&f) > 0);
    CHECK(has(text_of(&b), "taut_findings_total{code=\"deadlock\"} 3\n"));
    taut_findings_clear();
    taut_buf_free(&b);
}

static void a_forked_child_has_told_nothing(void) {
    taut_buf b;
    taut_buf_init(&b);
    taut_finding_new f = {.code = "fd-growth", .file = "a.py", .line = 1};
    CHECK(taut_findings_add(&f) > 0);
    CHECK(has(text_of(&b), "taut_findings_total{code=\"fd-growth\"} 1\n"));
    pid_t child = fork();
    if (child == 0)
        _exit(strstr(text_of(&b), "fd-growth") != NULL);
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    taut_findings_clear();
    taut_buf_free(&b);
}

static void without_memory(int may_fail) {
    taut_buf b;
    taut_buf_init(&b);
    int rc = taut_metrics_write(&b);
    CHECK(may_fail ? rc <= 0 : rc == 0);
    taut_buf_free(&b);
}
static void every_allocation_may_fail(void) {
    check_every_allocation(without_memory);
}

static const check_test tests[] = {
    CHECK_TEST(a_loop_in_numbers),
    CHECK_TEST(counters_never_go_down),
    CHECK_TEST(utilization_since_the_last_but_one),
    CHECK_TEST(findings_by_code),
    CHECK_TEST(what_was_told_is_not_taken_back),
    CHECK_TEST(a_forked_child_has_told_nothing),
    CHECK_TEST(every_allocation_may_fail),
};
CHECK_MAIN(tests)
