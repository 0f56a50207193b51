#include "io/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json_out.h"
#include "base/mem.h"
#include "io/poller.h"
#include "io/sys.h"
#include "io/trace_map.h"
#include "io/vitals.h"

#define PIECE_SIZE (64 * 1024)
#define NAME_SIZE 400

enum stage { STAGE_HEAD, STAGE_LOOP, STAGE_EVENTS, STAGE_TRACKS, STAGE_END };

/* Tracks of a loop, behind which its tasks' begin. */
enum { TRACK_LOOP, TRACK_CALLS, TRACK_GC, TRACK_STALLS, TRACK_TASKS };

struct taut_trace {
    const taut_trace_names *names;
    void *ctx;
    taut_json_out w;
    size_t full; /* when the piece is */
    enum stage stage;
    int pid;
    unsigned loop_id; /* of the latest loop */
    unsigned loops;   /* so far */
    uint32_t base, next_tid;
    uint64_t next_async;
    /* Of that loop when its events were copied. */
    const taut_recorder *of;
    int64_t thread_id;
    uint32_t phase;
    taut_recorder_snapshot *shot;
    taut_trace_map map;
    /* Where the reader is. */
    size_t next_clock;
    size_t at, from;  /* events[from] is the first that no span has been given to */
    uint64_t time_ns; /* of that one; 0: the loop does not run */
    uint64_t turn_ns; /* when the turn began */
    uint64_t idle_ns; /* when the latest run was over */
    uint64_t gc_ns;
    uint64_t gc_generation; /* 1 + it, 0: none is under way */
    struct {
        int active;
        taut_recorder_event e;
        uint64_t start_ns;
        size_t of, number; /* how many shared its time; the event's number */
        int stalled;
    } now; /* what runs */
};

/* ---- writing ---- */

static uint64_t id_of(uint64_t what) {
    return what & (UINT64_MAX >> 8);
}
static enum taut_event kind_of(const taut_recorder_event *e) {
    return (enum taut_event)(e->what >> 56);
}

static void put(taut_trace *t, const char *text) {
    if (t->w.err == 0)
        t->w.err = taut_buf_append(t->w.to, text, strlen(text));
}

static void put_us(taut_trace *t, const char *key, uint64_t ns) {
    char text[64];
    snprintf(text, sizeof text, ",\"%s\":%" PRIu64 ".%03u", key, ns / 1000, (unsigned)(ns % 1000));
    put(t, text);
}

static void put_named(taut_trace *t, const char *key, const char *text, size_t size) {
    put(t, key);
    t->w.comma = 0;
    taut_json_out_bytes(&t->w, text, size);
}

static void open_event(taut_trace *t, char phase, uint32_t tid, uint64_t at_ns) {
    char text[96];
    snprintf(text, sizeof text, ",\n{\"ph\":\"%c\",\"pid\":%d,\"tid\":%u", phase, t->pid, tid);
    put(t, text);
    put_us(t, "ts", at_ns);
}

static void put_span(taut_trace *t, uint32_t tid, const char *name, uint64_t start_ns,
                     uint64_t end_ns) {
    open_event(t, 'X', tid, start_ns);
    put_us(t, "dur", end_ns > start_ns ? end_ns - start_ns : 0);
    put_named(t, ",\"name\":", name, strlen(name));
}

static void put_whole_span(taut_trace *t, uint32_t track, const char *name, uint64_t start_ns,
                           uint64_t end_ns) {
    put_span(t, t->base + track, name, start_ns, end_ns);
    put(t, "}");
}

static void put_thread_name(taut_trace *t, uint32_t tid, const char *name, size_t size) {
    char text[96];
    snprintf(text, sizeof text, ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%u,\"name\":\"thread_name\"",
             t->pid, tid);
    put(t, text);
    put_named(t, ",\"args\":{\"name\":", name, size);
    put(t, "}}");
}

/* ---- tracks of tasks ---- */

/* "made at FILE:LINE in FUNCTION" behind what is in `to`; the new size. */
static size_t add_place(taut_trace *t, uint64_t place, char to[NAME_SIZE], size_t size) {
    static const char between[] = " made at ";
    if (place == 0 || size + sizeof between > NAME_SIZE)
        return size;
    size_t start = size + sizeof between - 1;
    size_t more = t->names->place(t->ctx, place, to + start, NAME_SIZE - start);
    if (more == 0)
        return size;
    memcpy(to + size, between, sizeof between - 1);
    return start + more;
}

/* `code`: of an ENDED, 0: it may still be there. */
static void name_track(taut_trace *t, taut_trace_track *k, uint64_t code) {
    char name[NAME_SIZE];
    size_t size = code != 0 ? t->names->object(t->ctx, code, 0, name, NAME_SIZE)
                            : t->names->task(t->ctx, t->of, (const void *)(uintptr_t)k->task,
                                             t->shot->now_ns, &k->place, name, NAME_SIZE);
    if (size == 0)
        size = (size_t)snprintf(name, sizeof name, "task 0x%" PRIx64, k->task);
    size = add_place(t, k->place, name, size);
    put_thread_name(t, k->tid, name, size);
    k->named = 1;
}

static taut_trace_track *track_of(taut_trace *t, uint64_t task) {
    taut_trace_track *k = taut_trace_map_get(&t->map, task);
    if (k == NULL)
        t->w.err = -ENOMEM;
    else if (k->tid == 0)
        k->tid = t->next_tid++;
    return k;
}

static void track_created(taut_trace *t, const taut_recorder_event *e, uint64_t at_ns) {
    taut_trace_track *k = taut_trace_map_get(&t->map, id_of(e->what));
    if (k == NULL) {
        t->w.err = -ENOMEM;
        return;
    }
    if (k->tid != 0 && !k->named) { /* one with the same address was destroyed while pending */
        char name[32];
        int size = snprintf(name, sizeof name, "task 0x%" PRIx64, k->task);
        put_thread_name(t, k->tid, name, (size_t)size);
    }
    *k = (taut_trace_track){.task = k->task, .place = e->more, .tid = t->next_tid++};
    open_event(t, 'i', k->tid, at_ns);
    put(t, ",\"s\":\"t\",\"name\":\"created\"}");
}

static void track_ended(taut_trace *t, const taut_recorder_event *e, uint64_t at_ns) {
    taut_trace_track *k = track_of(t, id_of(e->what));
    if (k == NULL)
        return;
    open_event(t, 'i', k->tid, at_ns);
    put(t, ",\"s\":\"t\",\"name\":\"ended\"}");
    if (!k->named)
        name_track(t, k, e->more);
}

/* ---- what happens in a moment ---- */

static void put_async(taut_trace *t, char phase, const char *category, uint64_t id,
                      uint64_t at_ns) {
    char text[128];
    open_event(t, phase, t->base + TRACK_LOOP, at_ns);
    snprintf(text, sizeof text, ",\"cat\":\"%s\",\"id\":\"0x%" PRIx64 "\",\"name\":\"%s\"",
             category, id, category);
    put(t, text);
}

static void put_collection(taut_trace *t, uint64_t end_ns) {
    char name[48];
    snprintf(name, sizeof name, "collection of generation %" PRIu64, t->gc_generation - 1);
    put_whole_span(t, TRACK_GC, name, t->gc_ns, end_ns);
    t->gc_generation = 0;
}

static void put_queued(taut_trace *t, const taut_recorder_event *e, uint64_t at_ns) {
    char name[NAME_SIZE];
    size_t size = e->more != 0 ? t->names->place(t->ctx, e->more, name, NAME_SIZE) : 0;
    put_async(t, 'b', "executor", id_of(e->what), at_ns);
    if (size > 0) {
        put_named(t, ",\"args\":{\"from\":", name, size);
        put(t, "}");
    }
    put(t, "}");
}

static void put_lookup(taut_trace *t, const taut_recorder_event *e, uint64_t at_ns) {
    uint64_t took_ns = id_of(e->what), id = t->next_async++;
    put_async(t, 'b', "lookup", id, took_ns < at_ns ? at_ns - took_ns : 0);
    put(t, "}");
    put_async(t, 'e', "lookup", id, at_ns);
    put(t, "}");
}

static void put_moment(taut_trace *t, const taut_recorder_event *e, uint64_t at_ns) {
    char text[64];
    switch (kind_of(e)) {
    case TAUT_EVENT_CREATED:
        track_created(t, e, at_ns);
        break;
    case TAUT_EVENT_ENDED:
        track_ended(t, e, at_ns);
        break;
    case TAUT_EVENT_TIMER:
        open_event(t, 'i', t->base + TRACK_CALLS, at_ns);
        put(t, ",\"s\":\"t\",\"name\":\"timer\",\"args\":{\"late_us\":");
        snprintf(text, sizeof text, "%" PRIu64 "}}",
                 at_ns > e->more ? (at_ns - e->more) / 1000 : 0);
        put(t, text);
        break;
    case TAUT_EVENT_GC:
        if (t->gc_generation != 0)
            put_collection(t, e->more);
        t->gc_generation = id_of(e->what);
        t->gc_ns = e->more;
        break;
    case TAUT_EVENT_QUEUED:
        put_queued(t, e, at_ns);
        break;
    case TAUT_EVENT_DONE:
        put_async(t, 'e', "executor", id_of(e->what), at_ns);
        put(t, "}");
        break;
    case TAUT_EVENT_LOOKUP:
        put_lookup(t, e, at_ns);
        break;
    default:
        break;
    }
}

/* ---- what lasts ---- */

static int begins(const taut_recorder_event *e) {
    enum taut_event kind = kind_of(e);
    return kind == TAUT_EVENT_IO || kind == TAUT_EVENT_CALL || kind == TAUT_EVENT_STEP;
}

static void put_begun(taut_trace *t, uint64_t end_ns) {
    const taut_recorder_event *e = &t->now.e;
    uint32_t tid = t->base + TRACK_CALLS;
    char name[NAME_SIZE] = "step";
    size_t size = strlen(name);
    if (kind_of(e) == TAUT_EVENT_STEP) {
        taut_trace_track *k = track_of(t, id_of(e->what));
        tid = k == NULL ? 0 : k->tid;
    } else if (kind_of(e) == TAUT_EVENT_IO) {
        size = (size_t)snprintf(name, sizeof name, "fd %d%s%s%s", (int)(uint32_t)e->what,
                                e->more & TAUT_READ ? " read" : "",
                                e->more & TAUT_WRITE ? " write" : "",
                                e->more & TAUT_HUP ? " hangup" : "");
    } else {
        size = t->names->object(t->ctx, id_of(e->what), e->more, name, NAME_SIZE);
        if (size == 0)
            size = (size_t)snprintf(name, sizeof name, "call");
    }
    open_event(t, 'X', tid, t->now.start_ns);
    put_us(t, "dur", end_ns > t->now.start_ns ? end_ns - t->now.start_ns : 0);
    put_named(t, ",\"name\":", name, size);
    if (t->now.stalled) {
        put(t, ",\"args\":{\"stalled\":true}");
    } else if (t->now.of > 1) {
        char text[48];
        snprintf(text, sizeof text, ",\"args\":{\"of\":%zu}", t->now.of);
        put(t, text);
    }
    put(t, "}");
    t->now.active = 0;
}

/* How long what began last before the event number `next`, and not before `first`, has stalled
 * between the two times. */
static uint64_t stalled_ns(const taut_trace *t, uint64_t first, uint64_t next, uint64_t from_ns,
                           uint64_t until_ns) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->shot->stall_count; i++) {
        const taut_recorder_stall *s = &t->shot->stalls[i];
        uint64_t end_ns = s->until_ns != 0 ? s->until_ns : t->shot->now_ns;
        if (s->at <= first || s->at > next || end_ns <= from_ns || s->since_ns >= until_ns)
            continue;
        end_ns = end_ns < until_ns ? end_ns : until_ns;
        sum += end_ns - (s->since_ns > from_ns ? s->since_ns : from_ns);
    }
    return sum;
}

/* The events of one interval and how they share its time. */
typedef struct {
    size_t from, to;
    uint64_t start_ns, end_ns;
    size_t parts, stalled;
    uint64_t stalled_ns;
} interval;

static size_t next_begin(const taut_trace *t, size_t at, size_t to) {
    while (at < to && !begins(&t->shot->events[at]))
        at++;
    return at;
}

/* Of what began with event `at`, or before the interval when that is its first. */
static uint64_t stall_of(const taut_trace *t, const interval *v, size_t at, size_t next) {
    uint64_t ns = stalled_ns(t, t->shot->first + at, t->shot->first + next, v->start_ns, v->end_ns);
    return ns < v->end_ns - v->start_ns ? ns : v->end_ns - v->start_ns;
}

/* How many there are, and what is left for those that did not stall. */
static void count_parts(const taut_trace *t, interval *v) {
    size_t at = v->from, next = next_begin(t, at, v->to);
    for (int carried = t->now.active; carried || next < v->to; carried = 0) {
        if (!carried) {
            at = next;
            next = next_begin(t, at + 1, v->to);
        }
        uint64_t ns = stall_of(t, v, at, next);
        v->parts++;
        v->stalled += ns > 0;
        v->stalled_ns += ns;
    }
}

/* How long the part that begins with event `at` took. */
static uint64_t part_ns(taut_trace *t, const interval *v, size_t at, size_t next) {
    uint64_t all_ns = v->end_ns - v->start_ns, ns = stall_of(t, v, at, next);
    if (ns > 0)
        t->now.stalled = 1;
    if (v->parts == v->stalled || v->stalled_ns > all_ns)
        return all_ns / v->parts;
    return ns > 0 ? ns : (all_ns - v->stalled_ns) / (v->parts - v->stalled);
}

/* Gives the events up to `to` the time until end_ns. goes_on: what runs then has not ended. */
static void flush(taut_trace *t, size_t to, uint64_t end_ns, int goes_on) {
    interval v = {.from = t->from, .to = to, .start_ns = t->time_ns};
    v.end_ns = end_ns > t->time_ns ? end_ns : t->time_ns;
    t->from = to;
    t->time_ns = v.end_ns;
    count_parts(t, &v);
    uint64_t at_ns = v.start_ns, lasts_ns = 0;
    if (t->now.active) {
        lasts_ns = part_ns(t, &v, v.from, next_begin(t, v.from, to));
        t->now.of = v.parts > t->now.of ? v.parts : t->now.of;
    }
    for (size_t i = v.from; i < to; i++) {
        const taut_recorder_event *e = &t->shot->events[i];
        if (!begins(e)) {
            put_moment(t, e, kind_of(e) == TAUT_EVENT_ENDED ? at_ns + lasts_ns : at_ns);
            continue;
        }
        at_ns += lasts_ns;
        if (t->now.active)
            put_begun(t, at_ns);
        t->now.active = 1;
        t->now.e = *e;
        t->now.start_ns = at_ns;
        t->now.of = v.parts;
        t->now.stalled = 0;
        lasts_ns = part_ns(t, &v, i, next_begin(t, i + 1, to));
    }
    if (t->now.active && !goes_on)
        put_begun(t, v.end_ns);
}

static void turn_ends(taut_trace *t, uint64_t end_ns) {
    if (t->turn_ns != 0)
        put_whole_span(t, TRACK_LOOP, "turn", t->turn_ns, end_ns);
    t->turn_ns = 0;
}

/* One event that says what time it is. */
static void take_clock(taut_trace *t, const taut_recorder_event *e, size_t at) {
    enum taut_event kind = kind_of(e);
    uint64_t waited_ns = kind == TAUT_EVENT_TURN ? id_of(e->what) : 0;
    uint64_t now_ns = taut_recorder_clock(t->shot, at, &t->next_clock);
    int runs = t->time_ns != 0;
    if (!runs)
        t->time_ns = now_ns;
    int goes_on =
        kind == TAUT_EVENT_PAGE && at + 1 < t->shot->count && !begins(&t->shot->events[at + 1]);
    flush(t, at, now_ns - waited_ns, goes_on);
    t->from = at + 1;
    if (kind == TAUT_EVENT_TURN || kind == TAUT_EVENT_RUN) {
        turn_ends(t, now_ns - waited_ns);
        if (waited_ns > 0)
            put_whole_span(t, TRACK_LOOP, "wait", now_ns - waited_ns, now_ns);
        int ends = kind == TAUT_EVENT_RUN && id_of(e->what) == 0;
        t->time_ns = ends ? 0 : now_ns;
        t->idle_ns = now_ns;
        t->turn_ns = t->time_ns;
    }
}

/* The last events, which no clock follows. */
static void take_rest(taut_trace *t) {
    uint64_t now_ns = t->shot->now_ns, end_ns = now_ns;
    if (t->time_ns == 0)
        return;
    int waits = t->phase == TAUT_PHASE_POLLING && t->shot->wait_ns >= t->time_ns;
    if (waits)
        end_ns = t->shot->wait_ns;
    flush(t, t->shot->count, end_ns, 0);
    turn_ends(t, end_ns);
    if (waits)
        put_whole_span(t, TRACK_LOOP, "wait", end_ns, now_ns);
}

static void put_stalls(taut_trace *t) {
    if (t->gc_generation != 0)
        put_collection(t, t->shot->now_ns);
    for (uint32_t i = 0; i < t->shot->stall_count; i++) {
        const taut_recorder_stall *s = &t->shot->stalls[i];
        put_span(t, t->base + TRACK_STALLS, s->label, s->since_ns,
                 s->until_ns != 0 ? s->until_ns : t->shot->now_ns);
        put(t, s->until_ns != 0 ? "}" : ",\"args\":{\"lasts\":true}}");
    }
}

/* ---- stages ---- */

typedef struct {
    taut_trace *t;
    unsigned next_id; /* the smallest above t->loop_id, 0: there is none */
} loop_search;

static void find_next(taut_vitals *v, void *arg) {
    loop_search *s = arg;
    if (v->pulse->recorder != NULL && v->id > s->t->loop_id &&
        (s->next_id == 0 || v->id < s->next_id))
        s->next_id = v->id;
}

static void copy_next(taut_vitals *v, void *arg) {
    taut_trace *t = ((loop_search *)arg)->t;
    taut_recorder *r = v->pulse->recorder;
    if (v->id != ((loop_search *)arg)->next_id || r == NULL || !taut_recorder_copy(r, t->shot))
        return;
    t->of = r;
    t->thread_id = atomic_load_explicit(&v->pulse->thread_id, memory_order_relaxed);
    t->phase = atomic_load_explicit(&v->pulse->phase, memory_order_relaxed);
}

static void loop_begins(taut_trace *t) {
    static const char *const names[] = {"loop", "callbacks", "collections", "stalls"};
    char name[64];
    loop_search s = {.t = t};
    t->of = NULL;
    taut_vitals_each(find_next, &s);
    if (s.next_id == 0) {
        t->stage = STAGE_END;
        return;
    }
    taut_vitals_each(copy_next, &s);
    t->loop_id = s.next_id;
    if (t->of == NULL) /* nothing is recorded of it */
        return;
    t->loops++;
    t->base = t->next_tid;
    t->next_tid += TRACK_TASKS;
    for (uint32_t i = 0; i < TRACK_TASKS; i++) {
        int size = i > 0 ? snprintf(name, sizeof name, "%s of loop %u", names[i], t->loop_id)
                   : t->thread_id > 0 ? snprintf(name, sizeof name, "loop %u on thread %lld",
                                                 t->loop_id, (long long)t->thread_id)
                                      : snprintf(name, sizeof name, "loop %u", t->loop_id);
        put_thread_name(t, t->base + i, name, (size_t)size);
    }
    t->at = t->from = t->next_clock = 0;
    t->time_ns = t->turn_ns = t->gc_generation = 0;
    t->now.active = 0;
    t->stage = STAGE_EVENTS;
}

static void some_events(taut_trace *t) {
    for (; t->at < t->shot->count && taut_buf_size(t->w.to) < t->full && t->w.err == 0; t->at++) {
        const taut_recorder_event *e = &t->shot->events[t->at];
        enum taut_event kind = kind_of(e);
        if (kind >= TAUT_EVENT_RUN && kind <= TAUT_EVENT_PAGE)
            take_clock(t, e, t->at);
        else if (t->time_ns == 0) { /* between two runs: a task is made, ... */
            put_moment(t, e, t->idle_ns);
            t->from = t->at + 1;
        }
    }
    if (t->at < t->shot->count)
        return;
    take_rest(t);
    put_stalls(t);
    t->at = 0;
    t->stage = STAGE_TRACKS;
}

static void some_tracks(taut_trace *t) {
    for (; t->at < t->map.capacity && taut_buf_size(t->w.to) < t->full; t->at++) {
        taut_trace_track *k = &t->map.slots[t->at];
        if (k->task != 0 && !k->named)
            name_track(t, k, 0);
    }
    if (t->at < t->map.capacity)
        return;
    taut_trace_map_free(&t->map);
    t->stage = STAGE_LOOP;
}

static void put_head(taut_trace *t) {
    char text[160];
    snprintf(text, sizeof text,
             "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
             "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":\"taut\"}}",
             t->pid);
    put(t, text);
    t->stage = STAGE_LOOP;
}

/* When it was taken, by both clocks. */
static void put_end(taut_trace *t) {
    put(t, "\n],\"otherData\":{\"pid\":");
    t->w.comma = 0;
    taut_json_out_i64(&t->w, t->pid);
    taut_json_out_key(&t->w, "loops");
    taut_json_out_u64(&t->w, t->loops);
    taut_json_out_key(&t->w, "time");
    taut_json_out_seconds(&t->w, taut_clock_real_ns());
    taut_json_out_key(&t->w, "monotonic");
    taut_json_out_seconds(&t->w, taut_sys_now_ns());
    put(t, "}}\n");
}

int taut_trace_more(taut_trace *t, taut_buf *out) {
    t->w.to = out;
    t->full = taut_buf_size(out) + PIECE_SIZE;
    while (taut_buf_size(out) < t->full && t->w.err == 0) {
        switch (t->stage) {
        case STAGE_HEAD:
            put_head(t);
            break;
        case STAGE_LOOP:
            loop_begins(t);
            break;
        case STAGE_EVENTS:
            some_events(t);
            break;
        case STAGE_TRACKS:
            some_tracks(t);
            break;
        case STAGE_END:
            put_end(t);
            return t->w.err;
        }
    }
    return t->w.err < 0 ? t->w.err : 1;
}

taut_trace *taut_trace_new(const taut_trace_names *names, void *ctx) {
    taut_trace *t = taut_calloc(1, sizeof *t);
    taut_recorder_snapshot *shot = taut_malloc(sizeof *shot);
    if (t == NULL || shot == NULL) {
        taut_free(t);
        taut_free(shot);
        names->free(ctx);
        return NULL;
    }
    taut_json_out_init(&t->w, NULL);
    t->names = names;
    t->ctx = ctx;
    t->shot = shot;
    t->pid = (int)getpid();
    t->next_tid = 1;
    return t;
}

void taut_trace_free(taut_trace *t) {
    if (t == NULL)
        return;
    t->names->free(t->ctx);
    taut_trace_map_free(&t->map);
    taut_free(t->shot);
    taut_free(t);
}
