#include "io/metrics.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io/findings.h"
#include "io/routes.h"
#include "io/sys.h"
#include "io/vitals.h"

#define LOAD(v) atomic_load_explicit(&(v), memory_order_relaxed)
#define CODES_MAX 64

typedef struct {
    taut_buf *to;
    int err;
    uint64_t now_ns;
    const char *name; /* of the metric being written */
    const void *what; /* which of a loop's numbers it is */
} writer;

static void put(writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(writer *w, const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (size > 0 && w->err == 0)
        w->err = taut_buf_append(w->to, line,
                                 (size_t)size < sizeof line ? (size_t)size : sizeof line - 1);
}

/* Not by printf, which would follow the locale. */
static void put_seconds(writer *w, uint64_t ns) {
    put(w, "%llu.%09llu\n", (unsigned long long)(ns / TAUT_NS_PER_S),
        (unsigned long long)(ns % TAUT_NS_PER_S));
}

static void begin(writer *w, const char *name, const char *type, const char *help) {
    w->name = name;
    put(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* ---- histograms ---------------------------------------------------------------------------------
 */

static const struct {
    uint64_t ns;
    const char *text;
} edges[] = {
    {100000, "0.0001"},  {250000, "0.00025"}, {500000, "0.0005"},  {1000000, "0.001"},
    {2500000, "0.0025"}, {5000000, "0.005"},  {10000000, "0.01"},  {25000000, "0.025"},
    {50000000, "0.05"},  {100000000, "0.1"},  {250000000, "0.25"}, {500000000, "0.5"},
    {1000000000, "1.0"}, {2500000000, "2.5"}, {5000000000, "5.0"}, {10000000000, "10.0"},
};
#define EDGES (sizeof edges / sizeof *edges)

static void put_histogram(writer *w, unsigned loop, const taut_hist *h) {
    uint64_t seen = 0;
    unsigned bucket = 0;
    for (size_t i = 0; i < EDGES; i++) {
        for (; bucket < TAUT_HIST_BUCKETS && taut_hist_bucket_high(bucket) <= edges[i].ns; bucket++)
            seen += LOAD(h->counts[bucket]);
        put(w, "%s_bucket{loop=\"%u\",le=\"%s\"} %llu\n", w->name, loop, edges[i].text,
            (unsigned long long)seen);
    }
    for (; bucket < TAUT_HIST_BUCKETS; bucket++)
        seen += LOAD(h->counts[bucket]);
    put(w, "%s_bucket{loop=\"%u\",le=\"+Inf\"} %llu\n", w->name, loop, (unsigned long long)seen);
    put(w, "%s_count{loop=\"%u\"} %llu\n%s_sum{loop=\"%u\"} ", w->name, loop,
        (unsigned long long)seen, w->name, loop);
    put_seconds(w, LOAD(h->sum));
}

static void histogram_of(taut_vitals *v, void *arg) {
    writer *w = arg;
    put_histogram(w, v->id, (const taut_hist *)((const char *)v + *(const size_t *)w->what));
}

static void histogram(writer *w, size_t offset, const char *name, const char *help) {
    begin(w, name, "histogram", help);
    w->what = &offset;
    taut_vitals_each(histogram_of, w);
}

/* ---- numbers of a loop --------------------------------------------------------------------------
 */

typedef struct {
    size_t offset; /* of an _Atomic uint64_t in taut_vitals */
    int is_seconds;
    const char *name, *type, *help;
} number;
#define NUMBER(field, is_seconds, name, type, help)                                                \
    { offsetof(taut_vitals, field), is_seconds, name, type, help }

static const number numbers[] = {
    NUMBER(tasks, 0, "pending_tasks", "gauge", "Tasks that are not done."),
    NUMBER(tasks_waiting, 0, "taut_tasks_waiting", "gauge", "Tasks that wait for something."),
    NUMBER(oldest_wait_ns, 1, "taut_task_oldest_wait_seconds", "gauge",
           "How long the task has waited that has waited longest."),
    NUMBER(ready_last, 0, "taut_ready_queue_depth", "gauge",
           "Entries of the ready queue when the loop last began on it."),
    NUMBER(ready_max, 0, "taut_ready_queue_depth_max", "gauge",
           "The most entries that the ready queue has had."),
    NUMBER(calls_queued, 0, "taut_executor_calls_queued", "gauge",
           "Calls of run_in_executor() that wait for a thread."),
    NUMBER(calls_running, 0, "taut_executor_calls_running", "gauge",
           "Calls of run_in_executor() that run."),
    NUMBER(calls, 0, "taut_executor_calls_total", "counter",
           "Calls of run_in_executor() that are over."),
    NUMBER(calls_ns, 1, "taut_executor_call_seconds_total", "counter",
           "What they took, waiting included."),
    NUMBER(lookups_pending, 0, "taut_resolver_lookups_pending", "gauge",
           "Lookups of host names under way."),
    NUMBER(lookups, 0, "taut_resolver_lookups_total", "counter",
           "Lookups of host names that are over."),
    NUMBER(lookups_ns, 1, "taut_resolver_lookup_seconds_total", "counter",
           "What they took, waiting included."),
    NUMBER(examined, 0, "taut_examinations_total", "counter", "Examinations of the loop's tasks."),
    NUMBER(examining_ns, 1, "taut_examination_seconds_total", "counter", "What they took."),
};

static void number_of(taut_vitals *v, void *arg) {
    writer *w = arg;
    const number *n = w->what;
    uint64_t value = LOAD(*(_Atomic uint64_t *)(void *)((char *)v + n->offset));
    put(w, "%s{loop=\"%u\"} ", n->name, v->id);
    if (n->is_seconds)
        put_seconds(w, value);
    else
        put(w, "%llu\n", (unsigned long long)value);
}

static void iterations_of(taut_vitals *v, void *arg) {
    put(arg, "taut_loop_iterations_total{loop=\"%u\"} %llu\n", v->id,
        (unsigned long long)LOAD(v->pulse->iterations));
}
static void stalls_of(taut_vitals *v, void *arg) {
    put(arg, "taut_stalls_total{loop=\"%u\"} %llu\n", v->id,
        (unsigned long long)LOAD(v->pulse->stalls));
}
static void longest_stall_of(taut_vitals *v, void *arg) {
    put(arg, "taut_stall_longest_seconds{loop=\"%u\"} ", v->id);
    put_seconds(arg, LOAD(v->pulse->stall_longest_ns));
}

static void times_of(taut_vitals *v, void *arg) {
    writer *w = arg;
    uint64_t active_ns, idle_ns;
    taut_vitals_times(v, w->now_ns, &active_ns, &idle_ns);
    /* A counter that went down would look like a loop that was made anew. */
    v->told_active_ns = active_ns = active_ns > v->told_active_ns ? active_ns : v->told_active_ns;
    v->told_idle_ns = idle_ns = idle_ns > v->told_idle_ns ? idle_ns : v->told_idle_ns;
    put(w, "%s{loop=\"%u\",state=\"active\"} ", w->name, v->id);
    put_seconds(w, active_ns);
    put(w, "%s{loop=\"%u\",state=\"idle\"} ", w->name, v->id);
    put_seconds(w, idle_ns);
}

static void utilization_of(taut_vitals *v, void *arg) {
    writer *w = arg;
    unsigned per_mille = taut_vitals_utilization(v, w->now_ns);
    put(w, "%s{loop=\"%u\"} %u.%03u\n", w->name, v->id, per_mille / 1000, per_mille % 1000);
}

static void put_loops(writer *w) {
    histogram(w, offsetof(taut_vitals, lag), "event_loop_lag_seconds", "How late timers fire.");
    histogram(w, offsetof(taut_vitals, lag), "asyncio_eventloop_delay_seconds",
              "How late timers fire; the same by OpenTelemetry's name.");
    histogram(w, offsetof(taut_vitals, busy), "taut_loop_busy_seconds",
              "How long an iteration of the loop runs before it looks at events again.");
    begin(w, "asyncio_eventloop_time_seconds_total", "counter",
          "How long the loop has been active and idle.");
    taut_vitals_each(times_of, w);
    begin(w, "asyncio_eventloop_utilization", "gauge", "The share of the time it was active.");
    taut_vitals_each(utilization_of, w);
    begin(w, "taut_loop_iterations_total", "counter", "Iterations of the loop.");
    taut_vitals_each(iterations_of, w);
    begin(w, "taut_stalls_total", "counter", "Stalls that the watchdog has seen.");
    taut_vitals_each(stalls_of, w);
    begin(w, "taut_stall_longest_seconds", "gauge", "The longest of them that is over.");
    taut_vitals_each(longest_stall_of, w);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        begin(w, numbers[i].name, numbers[i].type, numbers[i].help);
        w->what = &numbers[i];
        taut_vitals_each(number_of, w);
    }
}

/* ---- of the process -----------------------------------------------------------------------------
 */

static void put_gc(writer *w, size_t offset, int is_seconds, const char *name, const char *type,
                   const char *help) {
    begin(w, name, type, help);
    for (int i = 0; i < TAUT_GC_GENERATIONS; i++) {
        const char *gc = (const char *)&taut_vitals_gc[i];
        uint64_t value = LOAD(*(const _Atomic uint64_t *)(const void *)(gc + offset));
        put(w, "%s{generation=\"%d\"} ", name, i);
        if (is_seconds)
            put_seconds(w, value);
        else
            put(w, "%llu\n", (unsigned long long)value);
    }
}

static void put_collector(writer *w) {
    put_gc(w, offsetof(taut_gc_vitals, count), 0, "cpython_gc_collections_total", "counter",
           "Runs of the garbage collector.");
    put_gc(w, offsetof(taut_gc_vitals, collected), 0, "cpython_gc_collected_objects_total",
           "counter", "Objects that it has freed.");
    put_gc(w, offsetof(taut_gc_vitals, uncollectable), 0, "cpython_gc_uncollectable_objects_total",
           "counter", "Objects that it could not free.");
    put_gc(w, offsetof(taut_gc_vitals, sum_ns), 1, "cpython_gc_pause_seconds_total", "counter",
           "What its runs took.");
    put_gc(w, offsetof(taut_gc_vitals, longest_ns), 1, "cpython_gc_pause_longest_seconds", "gauge",
           "The longest of its runs.");
}

typedef struct {
    char code[40];
    uint64_t count;
} code_count;

/* Findings leave the table of those that are kept. What was told is not taken back: Prometheus
 * takes a counter that has gone down for a process that has started anew. */
static struct {
    pthread_mutex_t lock;
    pthread_once_t once;
    int count;
    struct {
        code_count now; /* as of the last time */
        uint64_t gone;
    } of[CODES_MAX];
} told = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

/* The child has told nothing yet. What a thread of the parent was about to write is forgotten. */
static void told_fork_child(void) {
    told.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    told.count = 0;
}

static void told_init(void) {
    (void)pthread_atfork(NULL, NULL, told_fork_child); /* refused: the child goes on counting */
}

static int count_codes(code_count codes[CODES_MAX]) {
    int count = 0;
    taut_finding f = {0};
    while (taut_findings_next(f.change, &f)) {
        int i = 0;
        while (i < count && strcmp(codes[i].code, f.code) != 0)
            i++;
        if (i == CODES_MAX)
            continue;
        if (i == count) {
            codes[count] = (code_count){.count = 0};
            memcpy(codes[count++].code, f.code, sizeof f.code);
        }
        codes[i].count += f.count;
    }
    return count;
}

/* With the lock. */
static void told_update(const code_count *codes, int count) {
    for (int i = 0; i < told.count; i++) {
        uint64_t now = 0;
        for (int k = 0; k < count; k++)
            if (strcmp(codes[k].code, told.of[i].now.code) == 0)
                now = codes[k].count;
        if (now < told.of[i].now.count)
            told.of[i].gone += told.of[i].now.count - now;
        told.of[i].now.count = now;
    }
    for (int k = 0; k < count; k++) {
        int i = 0;
        while (i < told.count && strcmp(told.of[i].now.code, codes[k].code) != 0)
            i++;
        if (i == told.count && i < CODES_MAX) {
            told.of[i].now = codes[k];
            told.of[i].gone = 0;
            told.count++;
        }
    }
}

static void put_findings(writer *w) {
    code_count codes[CODES_MAX];
    begin(w, "taut_findings_total", "counter", "What the doctor has found, by code.");
    pthread_once(&told.once, told_init);
    pthread_mutex_lock(&told.lock);
    told_update(codes, count_codes(codes));
    for (int i = 0; i < told.count; i++)
        put(w, "taut_findings_total{code=\"%s\"} %llu\n", told.of[i].now.code,
            (unsigned long long)(told.of[i].gone + told.of[i].now.count));
    pthread_mutex_unlock(&told.lock);
}

/* ---- of routes ----------------------------------------------------------------------------------
 */

#define ROUTE(field, is_seconds, name, type, help)                                                 \
    { offsetof(taut_route, field), is_seconds, name, type, help }

static const number route_numbers[] = {
    ROUTE(requests, 0, "taut_route_requests_total", "counter", "Requests that are over."),
    ROUTE(requests_ns, 1, "taut_route_request_seconds_total", "counter", "What they took."),
    ROUTE(in_flight, 0, "taut_route_requests_in_flight", "gauge", "Requests under way."),
    ROUTE(lag_ns, 1, "taut_route_lag_seconds_total", "counter",
          "How long steps of the requests were ready, but did not run yet."),
    ROUTE(lag_longest_ns, 1, "taut_route_lag_longest_seconds", "gauge", "The longest such wait."),
    ROUTE(delayed, 0, "taut_route_delayed_requests_total", "counter",
          "Requests of which a step waited for as long as a stall."),
    ROUTE(delayed_ns, 1, "taut_route_delayed_seconds_total", "counter", "How long these waited."),
    ROUTE(stalls, 0, "taut_route_stalls_total", "counter",
          "Steps of the requests that were stalls."),
    ROUTE(stalls_ns, 1, "taut_route_stall_seconds_total", "counter", "What these took."),
    ROUTE(victims, 0, "taut_route_victims_total", "counter",
          "Requests, of any route, that these delayed."),
};

/* As the format has it in a label's value. */
static void put_escaped(writer *w, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '\n')
            put(w, "\\n");
        else
            put(w, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    }
}

static void put_route_number(writer *w, const number *n, const taut_route *r) {
    uint64_t value = LOAD(*(const _Atomic uint64_t *)(const void *)((const char *)r + n->offset));
    put(w, "%s{method=\"%s\",route=\"", n->name, r->method);
    put_escaped(w, r->path);
    put(w, "\"} ");
    if (n->is_seconds)
        put_seconds(w, value);
    else
        put(w, "%llu\n", (unsigned long long)value);
}

static void put_routes(writer *w) {
    unsigned count = taut_routes_count();
    const taut_route *other = taut_routes_at(TAUT_ROUTE_OTHER);
    unsigned first = LOAD(other->requests) + LOAD(other->in_flight) == 0;
    for (size_t k = 0; k < sizeof route_numbers / sizeof *route_numbers; k++) {
        const number *n = &route_numbers[k];
        begin(w, n->name, n->type, n->help);
        for (unsigned i = first; i < count; i++)
            put_route_number(w, n, taut_routes_at(i));
    }
}

int taut_metrics_write(taut_buf *to) {
    writer w = {.to = to, .now_ns = taut_sys_now_ns()};
    put_loops(&w);
    put_collector(&w);
    put_findings(&w);
    put_routes(&w);
    return w.err;
}
