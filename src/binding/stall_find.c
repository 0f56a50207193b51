/* Stalls among the findings (io/findings.h): one per code and line, all stalls counted, whatever
 * the limits of the reports. On the watchdog's thread, but for the end of a stall under way when
 * the loop's run ends. */
#include "binding/stall.h"
#include "binding/stall_code.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io/findings.h"
#include "io/recorder.h"

#define now taut_stall_now
#define VICTIMS_SIZE 600 /* of the evidence at most, ... */
#define REQUESTS_SIZE 400
#define TASKS_SIZE 250 /* ... and where requests are told of, too */

typedef struct {
    char *text;
    size_t room, size;
} writer;

__attribute__((format(printf, 2, 3))) static void put(writer *w, const char *format, ...) {
    va_list args;
    size_t left = w->room - w->size;
    va_start(args, format);
    int n = vsnprintf(w->text + w->size, left, format, args);
    va_end(args);
    if (n > 0)
        w->size += (size_t)n < left ? (size_t)n : left - 1;
}

static int frame_line(char *to, size_t room, const taut_stack *s, uint32_t i) {
    const taut_frame *f = &s->frames[i];
    return snprintf(to, room, "  File \"%s\", line %d, in %s", s->text + f->file, f->line,
                    s->text + f->name);
}

/* As in a traceback, `count` frames. Where there is not room for all, the innermost stay. */
static void put_stack(writer *w, const taut_stack *s, uint32_t count, const char *title) {
    char line[1400];
    size_t left = w->room - w->size, need = strlen(title) + 40;
    uint32_t shown = 0;
    for (; shown < count; shown++) {
        need += (size_t)frame_line(line, sizeof line, s, shown) + 1;
        if (need > left)
            break;
    }
    put(w, "%s", title);
    if (s->count + s->omitted > shown)
        put(w, "\n  ... %u outer frames", s->count + s->omitted - shown);
    for (uint32_t i = shown; i-- > 0;) {
        frame_line(line, sizeof line, s, i);
        put(w, "\n%s", line);
    }
}

static void note_stack(taut_stall_told *told, uint32_t blame) {
    writer w = {.text = told->stack, .room = sizeof told->stack};
    char title[80];
    if (blame == TAUT_STALL_GIL_HOLDER) {
        snprintf(title, sizeof title,
                 "Stack of thread %d, which holds the GIL:", (int)now.holder_id);
        put_stack(&w, &now.holder, now.holder.count, title);
    } else { /* what runs the loop is the same in all of them */
        put_stack(&w, &now.stack, now.end > 0 ? now.end : now.stack.count,
                  "Stack (most recent call last):");
    }
}

/* The totals of a finding's stalls; the least found one makes room. */
static void count_stall(taut_stall_told *told, uint64_t lasted_ns) {
    int at = 0;
    for (int i = 0; i < TAUT_STALL_SITES_MAX; i++) {
        if (told->sites[i].id == told->id) {
            at = i;
            break;
        }
        if (told->sites[i].count < told->sites[at].count)
            at = i;
    }
    if (told->sites[at].id != told->id)
        memset(&told->sites[at], 0, sizeof told->sites[at]);
    told->sites[at].id = told->id;
    told->sites[at].count++;
    told->sites[at].total_ns += lasted_ns;
    if (lasted_ns > told->sites[at].longest_ns)
        told->sites[at].longest_ns = lasted_ns;
}

static void put_totals(writer *w, const taut_stall_told *told) {
    for (int i = 0; i < TAUT_STALL_SITES_MAX; i++) {
        char total[32], longest[32];
        if (told->sites[i].id != told->id || told->sites[i].count < 2)
            continue;
        taut_stall_say_duration(total, sizeof total, told->sites[i].total_ns);
        taut_stall_say_duration(longest, sizeof longest, told->sites[i].longest_ns);
        put(w, "%llu such stalls since the loop began to run: %s in all, the longest %s\n",
            (unsigned long long)told->sites[i].count, total, longest);
    }
}

static void put_evidence(writer *w, const taut_stall_told *told, const taut_stall *s, int over) {
    char lasted[32];
    taut_stall_say_duration(lasted, sizeof lasted, s->now_ns - s->since_ns);
    put(w,
        over ? "lasted %s: on the CPU %u %% of the time"
             : "lasts for %s: on the CPU %u %% of "
               "the time",
        lasted, told->cpu);
    if (told->delay > 0)
        put(w, ", waiting for a free CPU %u %%", told->delay);
    put(w, "\n%s", told->task);
    size_t requests = taut_victims_say_requests(&told->victims, s->since_ns, s->now_ns,
                                                w->text + w->size, REQUESTS_SIZE);
    w->size += requests;
    w->size += taut_victims_say(&told->victims, s->since_ns, s->now_ns, w->text + w->size,
                                requests > 0 ? TASKS_SIZE : VICTIMS_SIZE);
    put_totals(w, told);
    put(w, "%s", told->stack);
}

/* The frame of a coroutine of the user's, where an await could be. */
static uint32_t find_coroutine(void) {
    for (uint32_t i = 0; i < now.end; i++)
        if ((now.stack.frames[i].flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)) &&
            !taut_stall_is_library(now.stack.text + now.stack.frames[i].file))
            return i;
    return TAUT_STACK_NONE;
}

static taut_stall_signs signs_of(const taut_stall *s, const taut_stall_told *told) {
    return (taut_stall_signs){
        .stack = &now.stack,
        .site_at = now.site_at,
        .site_is_user = now.site_is_user,
        .end = now.end,
        .coroutine = find_coroutine(),
        .lasted_ns = s->now_ns - s->since_ns,
        .threshold_ns = s->threshold_ns,
        .cpu = now.cpu,
        .delay = now.delay,
        .sleeps = now.state != 'R', /* or nobody knows */
        .blocked = now.blocked,
        .in_gc = now.in_gc,
        .collects = now.in_gc && taut_frames_leaf_mentions(&now.stack, "collect"),
        .awaits_gil = now.awaits_gil,
        .moves = told->moves,
        .in_signal = now.in_signal,
    };
}

static uint64_t add(const taut_stall_verdict *v, const char *evidence) {
    const taut_stack *s = v->blame == TAUT_STALL_GIL_HOLDER ? &now.holder : &now.stack;
    uint32_t at = v->blame == TAUT_STALL_GIL_HOLDER ? now.holder_site : v->blame;
    taut_finding_new f = {.code = v->code,
                          .cause = v->cause,
                          .remedy = v->remedy,
                          .evidence = evidence,
                          .file = "",
                          .function = "",
                          .state = TAUT_FINDING_ONGOING};
    if (v->blame != TAUT_STALL_NOBODY) {
        f.file = s->text + s->frames[at].file;
        f.function = s->text + s->frames[at].name;
        f.line = s->frames[at].line;
    }
    return taut_findings_add(&f);
}

static void note_task(taut_stall_told *told) {
    told->task[0] = '\0';
    if (now.task[0] != '\0' && now.request[0] != '\0')
        snprintf(told->task, sizeof told->task, "in task '%.60s', for %.190s\n", now.task,
                 now.request);
    else if (now.task[0] != '\0')
        snprintf(told->task, sizeof told->task, "in task '%.240s'\n", now.task);
}

/* Whether bytecode runs, as opposed to one call into C. */
static void note_moves(taut_stall_told *told, int first) {
    int line = now.stack.frames[0].line;
    if (first)
        told->moves = 0;
    else
        told->moves |= told->stack_hash != now.stack_hash || told->line != line;
    told->moves |=
        now.stack.how == TAUT_STACK_APPROXIMATE || now.stack.torn > 0 || now.stack.leaf_jumps;
    told->stack_hash = now.stack_hash;
    told->line = line;
}

/* The doctor's own examinations, and what C imports for them, are nobody's to mend. */
static int is_doctors_own(void) {
    if (now.site_is_user || now.end == 0)
        return 0;
    const char *file = now.stack.text + now.stack.frames[now.end - 1].file;
    return strstr(file, "/taut/doctor/") != NULL ||
           strncmp(file, "<frozen importlib", strlen("<frozen importlib")) == 0;
}

void taut_stall_noted(void *ctx, const taut_stall *s) {
    taut_stall_told *told = &((taut_doctor_watch *)ctx)->told;
    char evidence[sizeof((taut_finding *)NULL)->evidence];
    writer w = {.text = evidence, .room = sizeof evidence};
    taut_recorder *recorder = ((taut_doctor_watch *)ctx)->target.pulse->recorder;
    if (recorder != NULL)
        taut_recorder_stall_note(recorder, s->since_ns, s->label);
    if (!now.have_stack || is_doctors_own())
        return;
    note_moves(told, s->reports == 0);
    told->cpu = now.cpu;
    told->delay = now.delay;
    taut_stall_signs signs = signs_of(s, told);
    taut_stall_verdict v = taut_stall_judge(&signs);
    int again = told->id != 0 && (v.code == NULL || strcmp(v.code, told->code) == 0);
    if (v.code == NULL && !again)
        return;
    if (!again) {
        note_task(told);
        note_stack(told, v.blame);
    }
    put_evidence(&w, told, s, 0);
    if (again) {
        (void)taut_findings_update(told->id, evidence, TAUT_FINDING_ONGOING);
        return;
    }
    if (told->id != 0)
        taut_findings_withdraw(told->id); /* it has turned out to be something else */
    told->code = v.code;
    told->cause = v.cause;
    told->remedy = v.remedy;
    told->id = add(&v, evidence);
}

void taut_stall_over(void *ctx, const taut_stall *s) {
    taut_stall_told *told = &((taut_doctor_watch *)ctx)->told;
    char evidence[sizeof((taut_finding *)NULL)->evidence];
    writer w = {.text = evidence, .room = sizeof evidence};
    taut_recorder *recorder = ((taut_doctor_watch *)ctx)->target.pulse->recorder;
    if (recorder != NULL)
        taut_recorder_stall_over(recorder, s->since_ns, s->now_ns);
    if (told->id == 0)
        return;
    count_stall(told, s->now_ns - s->since_ns);
    put_evidence(&w, told, s, 1);
    (void)taut_findings_update(told->id, evidence, TAUT_FINDING_OVER);
    told->id = 0;
}
