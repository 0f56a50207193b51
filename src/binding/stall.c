/* What a report says: the evidence of a stall taken on the watchdog's thread, and its text. Nothing
 * here needs the GIL, except where the kernel refuses every other way. */
#include "binding/stall.h"
#include "binding/request.h"
#include "binding/task_name.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/forks.h"
#include "io/private_fds.h"
#include "io/sys.h"
#include "io/thread_stat.h"

#define TEXT_MAX (40 * 1024)
#define PATH_SHOWN_MAX 1024
#define LOOKS_MAX 5

_Atomic int taut_stall_own_to_stderr = 1;
_Atomic(const void *) taut_stall_signal_handles[TAUT_STALL_SIGNALS];

static struct {
    char library[TAUT_STALL_LIBRARIES_MAX][PATH_SHOWN_MAX];
    int libraries;
} paths;

taut_stall_evidence taut_stall_now;
#define now taut_stall_now

static struct {
    char text[TEXT_MAX];
    size_t size;
} report;

/* The latest stacks that were printed: the next report of one of them is a line. */
#define PRINTED_MAX 64
static struct {
    uint64_t hash; /* 0: free */
    const char *code;
    uint32_t forks; /* what the parent has printed, the child's reader may not have */
} printed[PRINTED_MAX];
static unsigned printed_count;

void taut_stall_library_add(const char *directory) {
    size_t size = strlen(directory);
    while (size > 1 && directory[size - 1] == '/')
        size--;
    if (size <= 1 || size + 2 > PATH_SHOWN_MAX || paths.libraries == TAUT_STALL_LIBRARIES_MAX)
        return;
    char *to = paths.library[paths.libraries++];
    memcpy(to, directory, size);
    memcpy(to + size, "/", 2);
}

int taut_stall_is_library(const char *file) {
    if (strncmp(file, "<frozen ", 8) == 0 || strstr(file, "/site-packages/") != NULL ||
        strstr(file, "/dist-packages/") != NULL)
        return 1;
    for (int i = 0; i < paths.libraries; i++)
        if (strncmp(file, paths.library[i], strlen(paths.library[i])) == 0)
            return 1;
    return 0;
}

static uint64_t hash_bytes(uint64_t h, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        h = (h ^ ((const unsigned char *)bytes)[i]) * UINT64_C(1099511628211);
    return h;
}

static uint64_t hash_frame(uint64_t h, const taut_stack *s, const taut_frame *f, int with_line) {
    h = hash_bytes(h, s->text + f->file, strlen(s->text + f->file));
    h = hash_bytes(h, s->text + f->name, strlen(s->text + f->name));
    return with_line ? hash_bytes(h, &f->line, sizeof f->line) : h;
}
#define HASH_SEED UINT64_C(14695981039346656037)

static uint64_t thread_cpu_ns(clockid_t clock) {
    struct timespec ts;
    if (clock_gettime(clock, &ts) < 0)
        return 0;
    return (uint64_t)ts.tv_sec * TAUT_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static taut_doctor_thread thread_of(taut_doctor_watch *w) {
    pthread_mutex_lock(&w->lock);
    taut_doctor_thread t = w->thread;
    pthread_mutex_unlock(&w->lock);
    return t;
}

void taut_stall_suspect(void *ctx) {
    taut_doctor_watch *w = ctx;
    taut_doctor_thread t = thread_of(w);
    w->mark_ns = taut_sys_now_ns();
    w->mark_cpu_ns = thread_cpu_ns(t.cpu_clock);
    w->mark_delay_ns = taut_thread_delay_ns(t.native_id);
}

static unsigned percent_of(uint64_t part, uint64_t whole) {
    if (whole == 0 || part > whole)
        return whole == 0 ? 0 : 100;
    return (unsigned)(part * 100 / whole);
}

static void find_cause(const taut_doctor_watch *w, const taut_doctor_thread *t) {
    uint64_t wall = taut_sys_now_ns() - w->mark_ns;
    unsigned cpu = percent_of(thread_cpu_ns(t->cpu_clock) - w->mark_cpu_ns, wall);
    unsigned delay = percent_of(taut_thread_delay_ns(t->native_id) - w->mark_delay_ns, wall);
    char starved[64] = "", state = taut_thread_state(t->native_id);
    const char *what = "";
    now.state = state;
    now.cpu = cpu;
    now.delay = delay;
    now.in_gc = (int)atomic_load_explicit(&w->target.pulse->in_gc, memory_order_relaxed);
    if (delay >= 20)
        snprintf(starved, sizeof starved, ", waiting for a free CPU %u %%", delay);
    if (now.in_gc)
        what = "a garbage collection runs: ";
    else if (state == 'R' && cpu + delay >= 10)
        what = "it computes: ";
    else if ((state == 'S' || state == 'D') && cpu <= 50)
        what = "it is blocked: ";
    snprintf(now.cause, sizeof now.cause, "%son the CPU %u %% of the time%s", what, cpu, starved);
}

/* Only loops of ours publish what they call. */
static void add_task(const taut_doctor_watch *w) {
    taut_pulse *p = w->target.pulse;
    uint32_t name;
    size_t size = strlen(now.cause);
    const void *current = atomic_load_explicit(&p->current, memory_order_relaxed);
    now.task[0] = now.request[0] = '\0';
    if (taut_task_name_read(current, &now.stack, &name) < 0)
        return;
    snprintf(now.task, sizeof now.task, "%s", now.stack.text + name);
    if (w->id == 0)
        (void)taut_request_say_running(TAUT_CONTAINER(p, taut_loop, pulse), &now.stack, now.request,
                                       sizeof now.request);
    snprintf(now.cause + size, sizeof now.cause - size, ", in task '%s'%s%s", now.task,
             now.request[0] != '\0' ? ", for " : "", now.request);
}

/* A handler that the interpreter has called, or one that the loop has. */
static int find_signal(const taut_pulse *p) {
    const void *current = atomic_load_explicit(&p->current, memory_order_relaxed);
    for (int i = 0; current != NULL && i < TAUT_STALL_SIGNALS; i++)
        if (atomic_load_explicit(&taut_stall_signal_handles[i], memory_order_relaxed) == current)
            return 1;
    return now.have_stack && now.stack.signal_at < now.end;
}

/* A new thread tells that it has started as soon as it gets the GIL. */
static int starts_thread(void) {
    for (uint32_t i = 0; i < now.end; i++)
        if (strcmp(now.stack.text + now.stack.frames[i].name, "Thread.start") == 0)
            return now.blocked == TAUT_BLOCKED_LOCK;
    return 0;
}

/* What the thread sleeps for; and if that is the GIL, who holds it. */
static void find_call(const taut_doctor_thread *t) {
    const struct timespec pause = {.tv_nsec = 1000000};
    taut_thread_call call = taut_thread_call_now(t->native_id);
    const void *holder;
    /* Who waits for the GIL wakes up every 5 ms to ask for it again. */
    for (int i = 0; call.number < 0 && now.cpu + now.delay < 50 && i < LOOKS_MAX; i++) {
        nanosleep(&pause, NULL);
        call = taut_thread_call_now(t->native_id);
    }
    now.blocked = taut_thread_blocked(t->native_id, &call);
    int awaits = taut_gil_is_awaited(&call);
    if (awaits < 0) /* nothing else makes the loop itself sleep */
        awaits = now.end == 0 && now.cpu < 20;
    awaits |= starts_thread();
    now.awaits_gil =
        awaits && taut_gil_holder(t->tstate, &holder, &now.holder_id) == 0 &&
        taut_frames_walk(holder, now.holder_id, (taut_frame_id){NULL}, &now.holder) == 0;
    if (now.awaits_gil)
        now.holder_site = taut_stall_site(&now.holder, now.holder.count, &(int){0});
}

/* The walk that needs the GIL comes too late to be proof if the loop has moved on meanwhile. */
static int walk_with_gil(taut_doctor_watch *w, const taut_doctor_thread *t) {
    taut_pulse *p = w->target.pulse;
    uint64_t sequence = atomic_load_explicit(&p->sequence, memory_order_relaxed);
    if (!Py_IsInitialized())
        return TAUT_FRAMES_NONE;
    PyGILState_STATE held = PyGILState_Ensure();
    int rc = taut_frames_walk_gil(t->tstate, t->runner, &now.stack);
    if (atomic_load_explicit(&p->sequence, memory_order_relaxed) != sequence)
        rc = TAUT_FRAMES_NONE;
    PyGILState_Release(held);
    return rc;
}

uint32_t taut_stall_site(const taut_stack *s, uint32_t end, int *is_user) {
    for (uint32_t i = 0; i < end; i++) {
        *is_user = !taut_stall_is_library(s->text + s->frames[i].file);
        if (*is_user)
            return i;
    }
    *is_user = 0;
    return 0;
}

/* As in the traceback, but short where the file is below the current directory. */
static const char *shown_path(const char *file) {
    static char cwd[PATH_SHOWN_MAX]; /* the watchdog's thread only */
    size_t size;
    if (file[0] != '/' || getcwd(cwd, sizeof cwd) == NULL)
        return file;
    size = strlen(cwd);
    return size > 1 && strncmp(file, cwd, size) == 0 && file[size] == '/' ? file + size + 1 : file;
}

static void say_site(char *to, size_t room, const taut_frame *f, int exact) {
    const char *file = shown_path(now.stack.text + f->file);
    size_t size = strlen(file);
    if (now.end == 0) {
        /* The runner's frame is the innermost: no callback is being run. */
        snprintf(to, room, "in the event loop itself%s",
                 now.state == 'S' ? ", most likely waiting for the GIL" : "");
        return;
    }
    snprintf(to, room, "%s %s%.200s:%d in %.80s", exact ? "at" : "near", size > 200 ? "..." : "",
             size > 200 ? file + size - 200 : file, f->line, now.stack.text + f->name);
}

uint64_t taut_stall_capture(void *ctx, taut_stall *s) {
    taut_doctor_watch *w = ctx;
    taut_doctor_thread t = thread_of(w);
    int rc = taut_frames_walk(t.tstate, t.native_id, t.runner, &now.stack);
    if (rc == TAUT_FRAMES_REFUSED) {
        rc = walk_with_gil(w, &t);
        s->late = 1;
        now.refused = 1;
    }
    now.have_stack = rc == 0;
    if (w->runner_needed && (!now.have_stack || !now.stack.wanted_seen))
        return 0;
    find_cause(w, &t);
    add_task(w);
    now.end = now.have_stack && now.stack.wanted_seen ? now.stack.wanted_at : now.stack.count;
    find_call(&t);
    now.in_signal = find_signal(w->target.pulse);
    if (w->id == 0) /* the next capture is twice as late at the earliest */
        taut_victims_take(TAUT_CONTAINER(w->target.pulse, taut_loop, pulse),
                          s->now_ns + 2 * (s->now_ns - s->since_ns), &w->told.victims);
    if (!now.have_stack) {
        snprintf(s->label, sizeof s->label, "at an unknown place");
        now.stack_hash = 1;
        return 1;
    }
    int exact = now.stack.how != TAUT_STACK_APPROXIMATE;
    now.site_at = taut_stall_site(&now.stack, now.end, &now.site_is_user);
    const taut_frame *f = &now.stack.frames[now.site_at];
    say_site(s->label, sizeof s->label, f, exact);
    now.stack_hash = HASH_SEED;
    for (uint32_t i = 0; i < now.stack.count; i++)
        now.stack_hash = hash_frame(now.stack_hash, &now.stack, &now.stack.frames[i], i > 0);
    return hash_frame(HASH_SEED, &now.stack, f, now.site_at > 0 || exact) | 1;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    va_list args;
    size_t left = TEXT_MAX - report.size;
    va_start(args, format);
    int n = vsnprintf(report.text + report.size, left, format, args);
    va_end(args);
    if (n > 0)
        report.size += (size_t)n < left ? (size_t)n : left - 1;
}

void taut_stall_say_duration(char *to, size_t size, uint64_t ns) {
    if (ns < 10 * TAUT_NS_PER_MS)
        snprintf(to, size, "%.1f ms", (double)ns / 1e6);
    else if (ns < TAUT_NS_PER_S)
        snprintf(to, size, "%.0f ms", (double)ns / 1e6);
    else
        snprintf(to, size, ns < 100 * TAUT_NS_PER_S ? "%.2f s" : "%.0f s", (double)ns / 1e9);
}

/* One write: lines of several processes on one stderr stay whole (a pipe takes 4 KiB at once). */
static void write_stderr(const char *text, size_t size) {
    (void)taut_private_fds_write(STDERR_FILENO, text, size); /* nobody is left to tell */
}

static int to_stderr(const taut_doctor_watch *w) {
    return w->id == 0 ? atomic_load_explicit(&taut_stall_own_to_stderr, memory_order_relaxed)
                      : w->to_stderr;
}

static void say_stack(const taut_doctor_thread *t) {
    const taut_stack *s = &now.stack;
    if (!now.have_stack) {
        say("%s", now.refused
                      ? "  No stack: the kernel lets no thread read this process's memory, and "
                        "the\n  interpreter's lock (GIL) was not free before the stall was over.\n"
                      : "  No stack: the frames changed at each look.\n");
        return;
    }
    say("  Stack of thread %d (most recent call last%s):\n", (int)t->native_id,
        s->how == TAUT_STACK_GIL ? "; taken with the GIL: no other way is permitted here" : "");
    if (s->omitted > 0)
        say("    ... %u outer frames\n", s->omitted);
    for (uint32_t i = s->count; i-- > 0;) {
        const taut_frame *f = &s->frames[i];
        say("    File \"%s\", line %d, in %s%s\n", s->text + f->file, f->line, s->text + f->name,
            i == 0 && s->how == TAUT_STACK_APPROXIMATE ? "  (about here: bytecode is running)"
                                                       : "");
    }
}

/* What stall_find.c has made of it, once. */
static void say_known(taut_stall_told *told) {
    if (told->id == 0 || told->said == told->code)
        return;
    say("  %s: %s.\n  Remedy: %s.\n", told->code, told->cause, told->remedy);
    told->said = told->code;
}

/* What was said with the stack of now when that was printed, NULL: it was not. */
static const char **printed_find(void) {
    for (unsigned i = 0; i < PRINTED_MAX; i++)
        if (printed[i].hash == now.stack_hash && printed[i].forks == taut_forks())
            return &printed[i].code;
    return NULL;
}

static const char **printed_add(void) {
    unsigned i = printed_count++ % PRINTED_MAX;
    printed[i].hash = now.stack_hash;
    printed[i].forks = taut_forks();
    return &printed[i].code;
}

/* The whole report the first time, a line when this stack was printed before. */
static void write_report(taut_doctor_watch *w, const taut_stall *s, uint64_t unshown) {
    taut_doctor_thread t = thread_of(w);
    char lasted[32];
    const char **code = printed_find();
    int whole = code == NULL || (s->reports > 0 && now.stack_hash != w->shown_hash);
    taut_stall_say_duration(lasted, sizeof lasted, s->now_ns - s->since_ns);
    report.size = 0;
    if (s->reports == 0)
        w->told.said = whole ? NULL : *code;
    if (code == NULL)
        code = printed_add();
    say("taut: loop stalled for %s (still running) %s%s%s", lasted, s->label, whole ? "\n  " : ", ",
        now.cause);
    if (!whole)
        say("; same stack");
    if (unshown > 0)
        say("; %llu more stall%s here since the last report", (unsigned long long)unshown,
            unshown == 1 ? "" : "s");
    say("\n");
    say_known(&w->told);
    if (whole)
        say_stack(&t);
    *code = w->told.said;
    w->shown_hash = now.stack_hash;
    write_stderr(report.text, report.size);
}

void taut_stall_report(void *ctx, const taut_stall *s, uint64_t unshown) {
    taut_doctor_watch *w = ctx;
    if (to_stderr(w))
        write_report(w, s, unshown);
    taut_stall_queue_put(&(taut_stall_event){
        .kind = s->reports == 0 ? TAUT_STALL_BEGAN : TAUT_STALL_LASTS,
        .watch_id = w->id,
        .thread_id = thread_of(w).native_id,
        .duration_ns = s->now_ns - s->since_ns,
        .threshold_ns = s->threshold_ns,
        .unshown = unshown,
        .site_at = now.site_at,
        .label = s->label,
        .cause = now.cause,
        .stack = now.have_stack ? &now.stack : NULL,
    });
}

void taut_stall_ended(void *ctx, const taut_stall *s) {
    taut_doctor_watch *w = ctx;
    char line[TAUT_STALL_LABEL_MAX + 96], lasted[32];
    taut_stall_say_duration(lasted, sizeof lasted, s->now_ns - s->since_ns);
    int n = snprintf(line, sizeof line, "taut: loop stall ended after %s %s\n", lasted, s->label);
    if (to_stderr(w))
        write_stderr(line, (size_t)n);
    taut_stall_queue_put(&(taut_stall_event){.kind = TAUT_STALL_ENDED,
                                             .watch_id = w->id,
                                             .thread_id = thread_of(w).native_id,
                                             .duration_ns = s->now_ns - s->since_ns,
                                             .threshold_ns = s->threshold_ns,
                                             .label = s->label,
                                             .cause = ""});
}

void taut_stall_unshown(void *ctx, const char *label, uint64_t count, uint64_t longest_ns) {
    taut_doctor_watch *w = ctx;
    char line[TAUT_STALL_LABEL_MAX + 96], longest[32];
    taut_stall_say_duration(longest, sizeof longest, longest_ns);
    int n = snprintf(line, sizeof line, "taut: %llu more stall%s %s, the longest %s\n",
                     (unsigned long long)count, count == 1 ? "" : "s", label, longest);
    if (to_stderr(w))
        write_stderr(line, (size_t)n);
    taut_stall_queue_put(&(taut_stall_event){.kind = TAUT_STALL_UNSHOWN,
                                             .watch_id = w->id,
                                             .duration_ns = longest_ns,
                                             .unshown = count,
                                             .label = label,
                                             .cause = ""});
}
