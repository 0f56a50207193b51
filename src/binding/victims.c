#include "binding/victims.h"

#include <stdio.h>
#include <string.h>

#include "binding/handle.h"
#include "binding/request.h"
#include "binding/stall.h"
#include "binding/task_name.h"
#include "io/routes.h"

#define ENTRIES_MAX (1 << 16) /* a longer queue is stale memory */
#define RESOLVED_MAX 200      /* what is asked whether it is a task's; the rest count as others */
#define CHUNK 32
#define PENDING_MAX 256
#define ROUTES_SHOWN 6

typedef struct {
    taut_peek peek;
    const taut_state *st;
    taut_victims *out;
    uint32_t resolved;
    const void *running; /* the request whose step runs */
} taker;

static taut_stack texts; /* the watchdog's thread only */

static const char *base_name(const char *file) {
    const char *slash = strrchr(file, '/');
    return slash != NULL ? slash + 1 : file;
}

static void list(taker *t, const void *task, uint64_t due_ns) {
    uint32_t name;
    taut_frame site;
    const void *code;
    int unit;
    if (t->out->listed == TAUT_VICTIMS_LISTED)
        return;
    texts.text_size = 1;
    if (taut_task_name_of(&t->peek, task, &texts, &name) < 0)
        return;
    __typeof__(&t->out->at[0]) v = &t->out->at[t->out->listed++];
    v->due_ns = due_ns;
    v->line = 0;
    snprintf(v->name, sizeof v->name, "%s", texts.text + name);
    if (taut_task_is_own(&t->peek, task) &&
        taut_peek_read(&t->peek, &code, (const char *)task + offsetof(taut_task, site_code),
                       sizeof code) == 0 &&
        taut_peek_read(&t->peek, &unit, (const char *)task + offsetof(taut_task, site_unit),
                       sizeof unit) == 0 &&
        taut_frames_place(&t->peek, code, unit, &texts, &site) == 0) {
        v->line = site.line;
        snprintf(v->file, sizeof v->file, "%s", base_name(texts.text + site.file));
    }
}

static void note_request(taker *t, const void *task, uint64_t due_ns) {
    taut_victims *v = t->out;
    taut_request r;
    const void *at = taut_request_of_task(&t->peek, t->st, task, &r);
    if (at == NULL || at == t->running)
        return;
    for (uint32_t i = 0; i < v->requests; i++) {
        if (v->request[i].request != at)
            continue;
        if (due_ns < v->request[i].due_ns)
            v->request[i].due_ns = due_ns;
        return;
    }
    if (v->requests == TAUT_VICTIMS_REQUESTS_MAX)
        return;
    v->request[v->requests].request = at;
    v->request[v->requests].due_ns = due_ns;
    v->request[v->requests++].route = r.route;
}

/* The task that `called` is, or is a step of; NULL when none. */
static const void *task_of(taker *t, const void *called) {
    const void *task;
    if (called == NULL || t->resolved >= RESOLVED_MAX)
        return NULL;
    t->resolved++;
    return taut_task_of(&t->peek, called, &task) == 0 ? task : NULL;
}

static void take_entry(taker *t, const taut_entry *e) {
    if (e->kind == TAUT_ENTRY_CORE)
        return;
    int is_step = e->kind == TAUT_READY_STEP || e->kind == TAUT_READY_WAKEUP;
    const void *task = is_step ? e->a : task_of(t, e->a);
    if (task == NULL) {
        t->out->others++;
        return;
    }
    t->out->tasks++;
    note_request(t, task, 0);
    list(t, task, 0);
}

static void take_ready(taker *t, const taut_ring *at) {
    taut_ring ring;
    taut_entry chunk[CHUNK];
    if (taut_peek_read(&t->peek, &ring, at, sizeof ring) < 0 || ring.tail - ring.head > ENTRIES_MAX)
        return;
    for (size_t i = ring.head; i != ring.tail;) {
        size_t first = i & ring.mask, n = ring.tail - i;
        n = n < CHUNK ? n : CHUNK;
        n = n < ring.mask + 1 - first ? n : ring.mask + 1 - first;
        if (taut_peek_read(&t->peek, chunk, ring.slots + first, n * sizeof *chunk) < 0)
            return;
        for (size_t k = 0; k < n; k++)
            take_entry(t, &chunk[k]);
        i += n;
    }
}

/* asyncio.sleep() has a timer that calls a function with its future, for which the task waits. */
static const void *sleeper_of(taker *t, const taut_handle *h) {
    const void *future, *type, *waiter;
    const char *args = (const char *)h->args;
    if (args == NULL ||
        taut_peek_read(&t->peek, &future, args + offsetof(PyTupleObject, ob_item), sizeof future) <
            0 ||
        taut_peek_read(&t->peek, &type, (const char *)future + offsetof(PyObject, ob_type),
                       sizeof type) < 0 ||
        (type != (const void *)t->st->own.future_type && type != t->st->future_type) ||
        taut_peek_read(&t->peek, &waiter,
                       (const char *)future + offsetof(taut_aio_future, callback0),
                       sizeof waiter) < 0)
        return NULL;
    return task_of(t, waiter);
}

static void take_timer(taker *t, const taut_heap_item *item) {
    const taut_timer *at = TAUT_CONTAINER(item->node, taut_timer, node);
    taut_timer timer;
    taut_handle handle;
    if (taut_peek_read(&t->peek, &timer, at, sizeof timer) < 0 || timer.cancelled ||
        !taut_timer_is_handle(&timer) ||
        taut_peek_read(&t->peek, &handle, TAUT_CONTAINER(at, taut_timer_handle, timer),
                       sizeof handle) < 0 ||
        handle.cancelled == Py_True)
        return;
    const void *task = sleeper_of(t, &handle);
    uint32_t i = t->out->due_count++;
    t->out->due[i].due_ns = item->key;
    t->out->due[i].is_task = task != NULL;
    if (task != NULL) {
        note_request(t, task, item->key);
        list(t, task, item->key);
    }
}

/* A heap's item comes before its four children. */
static void take_timers(taker *t, const taut_heap *at, uint64_t until_ns) {
    taut_heap heap;
    size_t pending[PENDING_MAX], count = 0;
    if (taut_peek_read(&t->peek, &heap, at, sizeof heap) < 0 || heap.count == 0)
        return;
    pending[count++] = 0;
    while (count > 0 && t->out->due_count < TAUT_VICTIMS_DUE_MAX) {
        taut_heap_item item;
        size_t i = pending[--count];
        if (taut_peek_read(&t->peek, &item, heap.items + i, sizeof item) < 0)
            return;
        if (item.key > until_ns)
            continue;
        take_timer(t, &item);
        for (size_t child = 4 * i + 4; child > 4 * i; child--)
            if (child < heap.count && count < PENDING_MAX)
                pending[count++] = child;
    }
}

void taut_victims_take(const taut_loop *core, uint64_t until_ns, taut_victims *out) {
    taker t = {.st = TAUT_CONTAINER(core, const taut_pyloop, core)->st, .out = out};
    const void *current = atomic_load_explicit(&core->pulse.current, memory_order_relaxed), *task;
    taut_request r;
    out->tasks = out->others = out->due_count = out->listed = out->requests = 0;
    if (taut_peek_begin(&t.peek, TAUT_PEEK_VM) < 0)
        return;
    if (current != NULL && taut_task_of(&t.peek, current, &task) == 0)
        t.running = taut_request_of_task(&t.peek, t.st, task, &r);
    take_ready(&t, &core->ready);
    t.resolved = 0;
    take_timers(&t, &core->timers.heap, until_ns);
    taut_peek_end(&t.peek);
}

/* ---- telling ---- */

static uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static size_t put_listed(const taut_victims *v, uint64_t since_ns, uint64_t now_ns, char *to,
                         size_t room) {
    size_t size = 0;
    const char *before = ": ";
    for (uint32_t i = 0; i < v->listed; i++) {
        char site[56] = "", late[32], one[192];
        uint64_t due_ns = v->at[i].due_ns;
        if (due_ns >= now_ns)
            continue;
        if (v->at[i].line > 0)
            snprintf(site, sizeof site, " (%s:%d)", v->at[i].file, v->at[i].line);
        taut_stall_say_duration(late, sizeof late, now_ns - max_u64(due_ns, since_ns));
        int n = snprintf(one, sizeof one, "%s%s%s%s%s", before, v->at[i].name, site,
                         due_ns > since_ns ? " by " : "", due_ns > since_ns ? late : "");
        if (size + (size_t)n + 8 > room)
            break;
        memcpy(to + size, one, (size_t)n);
        size += (size_t)n;
        before = ", ";
    }
    return size;
}

size_t taut_victims_say(const taut_victims *v, uint64_t since_ns, uint64_t now_ns, char *to,
                        size_t room) {
    uint32_t tasks = v->tasks, others = v->others;
    uint64_t longest = tasks + others > 0 ? now_ns - since_ns : 0;
    char late[32], more[64] = "";
    for (uint32_t i = 0; i < v->due_count; i++) {
        if (v->due[i].due_ns >= now_ns)
            continue;
        tasks += v->due[i].is_task != 0;
        others += !v->due[i].is_task;
        longest = max_u64(longest, now_ns - max_u64(v->due[i].due_ns, since_ns));
    }
    if (tasks + others == 0)
        return 0;
    if (others > 0)
        snprintf(more, sizeof more, "%s%u %s", tasks > 0 ? " and " : "", others,
                 tasks > 0    ? others > 1 ? "other callbacks" : "other callback"
                 : others > 1 ? "callbacks"
                              : "callback");
    char some[32] = "";
    if (tasks > 0)
        snprintf(some, sizeof some, "%u task%s", tasks, tasks > 1 ? "s" : "");
    taut_stall_say_duration(late, sizeof late, longest);
    int n = snprintf(to, room, "delayed %s%s by up to %s", some, more, late);
    size_t size = (size_t)n;
    size += put_listed(v, since_ns, now_ns, to + size, room - size);
    to[size++] = '\n';
    to[size] = '\0';
    return size;
}

typedef struct {
    uint32_t count;
    uint64_t longest_ns;
} tally;

/* The route with the most requests that is not told yet; -1: none is left. */
static int most(const tally *by) {
    int at = -1;
    for (int i = 0; i <= TAUT_ROUTES_MAX; i++)
        if (by[i].count > 0 && (at < 0 || by[i].count > by[at].count))
            at = i;
    return at;
}

static int put_route(char *to, size_t room, int route, const tally *of) {
    char late[32];
    taut_stall_say_duration(late, sizeof late, of->longest_ns);
    if (route == TAUT_ROUTES_MAX)
        return snprintf(to, room, "without a route yet %u (up to %s)", of->count, late);
    const taut_route *r = taut_routes_at((unsigned)route);
    return snprintf(to, room, "%s %s %u (up to %s)", r->method, r->path, of->count, late);
}

size_t taut_victims_say_requests(const taut_victims *v, uint64_t since_ns, uint64_t now_ns,
                                 char *to, size_t room) {
    tally by[TAUT_ROUTES_MAX + 1] = {{0}};
    char one[TAUT_ROUTE_METHOD_MAX + TAUT_ROUTE_PATH_MAX + 64];
    uint32_t left = 0;
    for (uint32_t i = 0; i < v->requests; i++) {
        if (v->request[i].due_ns >= now_ns)
            continue;
        tally *of = &by[v->request[i].route < 0 ? TAUT_ROUTES_MAX : v->request[i].route];
        of->longest_ns = max_u64(of->longest_ns, now_ns - max_u64(v->request[i].due_ns, since_ns));
        of->count++;
        left++;
    }
    if (left == 0)
        return 0;
    size_t size = (size_t)snprintf(to, room, "delayed %u request%s", left, left > 1 ? "s" : "");
    const char *before = ": ";
    for (int shown = 0, at; shown < ROUTES_SHOWN && (at = most(by)) >= 0; shown++) {
        int n = put_route(one, sizeof one, at, &by[at]);
        if (size + (size_t)n + 48 > room)
            break;
        size += (size_t)snprintf(to + size, room - size, "%s%s", before, one);
        left -= by[at].count;
        by[at].count = 0;
        before = ", ";
    }
    if (left > 0)
        size += (size_t)snprintf(to + size, room - size, "%s%u of other routes", before, left);
    to[size++] = '\n';
    to[size] = '\0';
    return size;
}
