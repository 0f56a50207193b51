#include "io/recorder.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/forks.h"
#include "io/sys.h"

#define PAGES (TAUT_RECORDER_EVENTS / TAUT_RECORDER_PAGE)
#define TRIES_MAX 1000

taut_recorder taut_recorder_none;

/* Never 0, which a recorder that is not on has. */
static uint32_t this_process(void) {
    return taut_forks() + 1;
}

/* ---- the loop's thread ---- */

static int is_wanted(void) {
    const char *text = getenv("TAUT_RECORDER");
    return text == NULL || (strcmp(text, "0") != 0 && strcmp(text, "off") != 0);
}

static taut_record *page_start(const taut_recorder *r, uint64_t page) {
    return r->ring + page % PAGES * TAUT_RECORDER_PAGE;
}

static void page_open(taut_recorder *r, uint64_t page) {
    taut_record *at = page_start(r, page);
    /* Before what is written there: a reader then knows that the page is no longer the old one. */
    atomic_store_explicit(&r->page, page, memory_order_relaxed);
    r->limit = at + TAUT_RECORDER_PAGE;
    atomic_store_explicit(&r->next, at, memory_order_release);
}

taut_record *taut_recorder_turn_page(taut_recorder *r) {
    if (r->ring == NULL)
        return NULL;
    uint64_t ticks = taut_sys_ticks();
    page_open(r, atomic_load_explicit(&r->page, memory_order_relaxed) + 1);
    r->marked_ticks = ticks;
    taut_recorder_add(r, TAUT_EVENT_PAGE, (ticks - r->turn_ticks) & (UINT64_MAX >> 8), r->turn_ns);
    return atomic_load_explicit(&r->next, memory_order_relaxed);
}

static void stalls_forget(taut_recorder *r) {
    r->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    r->stall_count = 0;
}

void taut_recorder_begin(taut_recorder *r, uint64_t now_ns, uint64_t ticks) {
    uint32_t process = this_process();
    if (!r->decided) {
        r->decided = 1;
        r->ring = is_wanted() ? taut_malloc(TAUT_RECORDER_EVENTS * sizeof(taut_record)) : NULL;
    }
    if (r->ring == NULL)
        return;
    r->turn_ns = now_ns;
    r->turn_ticks = r->marked_ticks = ticks;
    if (atomic_load_explicit(&r->process, memory_order_relaxed) != process) {
        stalls_forget(r);
        page_open(r, 0);
        taut_recorder_add(r, TAUT_EVENT_PAGE, 0, now_ns);
        atomic_store_explicit(&r->process, process, memory_order_release);
    }
    taut_recorder_add(r, TAUT_EVENT_RUN, 1, now_ns);
}

void taut_recorder_free(taut_recorder *r) {
    atomic_store_explicit(&r->process, 0, memory_order_relaxed);
    atomic_store_explicit(&r->next, NULL, memory_order_relaxed);
    taut_free(r->ring);
    r->ring = r->limit = NULL;
}

/* ---- the watchdog ---- */

/* Where the writer is: the page's number, and how many of its events are there. */
static uint64_t position(taut_recorder *r, size_t *count) {
    uint64_t page = atomic_load_explicit(&r->page, memory_order_acquire);
    for (int i = 0; i < TRIES_MAX; i++) {
        taut_record *next = atomic_load_explicit(&r->next, memory_order_acquire);
        uint64_t again = atomic_load_explicit(&r->page, memory_order_acquire);
        ptrdiff_t n = next - page_start(r, page);
        if (again == page && n >= 0 && n <= TAUT_RECORDER_PAGE) {
            *count = (size_t)n;
            return page;
        }
        page = again;
    }
    *count = 0;
    return page;
}

static int is_on(taut_recorder *r) {
    return atomic_load_explicit(&r->process, memory_order_acquire) == this_process();
}

static taut_recorder_stall *stall_find(taut_recorder *r, uint64_t since_ns) {
    for (uint32_t i = 0; i < TAUT_RECORDER_STALLS && i < r->stall_count; i++)
        if (r->stalls[i].since_ns == since_ns)
            return &r->stalls[i];
    return NULL;
}

void taut_recorder_stall_note(taut_recorder *r, uint64_t since_ns, const char *label) {
    if (!is_on(r))
        return;
    size_t count;
    uint64_t at = position(r, &count) * TAUT_RECORDER_PAGE + count;
    pthread_mutex_lock(&r->lock);
    taut_recorder_stall *s = stall_find(r, since_ns);
    if (s == NULL) {
        s = &r->stalls[r->stall_count++ % TAUT_RECORDER_STALLS];
        *s = (taut_recorder_stall){.at = at, .since_ns = since_ns};
    }
    size_t size = strnlen(label, sizeof s->label - 1);
    memcpy(s->label, label, size);
    s->label[size] = '\0';
    pthread_mutex_unlock(&r->lock);
}

void taut_recorder_stall_over(taut_recorder *r, uint64_t since_ns, uint64_t until_ns) {
    if (!is_on(r))
        return;
    pthread_mutex_lock(&r->lock);
    taut_recorder_stall *s = stall_find(r, since_ns);
    if (s != NULL)
        s->until_ns = until_ns;
    pthread_mutex_unlock(&r->lock);
}

/* ---- any thread ---- */

static size_t copy_page(taut_recorder *r, uint64_t page, size_t count, taut_recorder_event *to) {
    const taut_record *from = page_start(r, page);
    for (size_t i = 0; i < count; i++) {
        to[i].what = atomic_load_explicit(&from[i].what, memory_order_acquire);
        to[i].more = atomic_load_explicit(&from[i].more, memory_order_acquire);
    }
    return count;
}

static void copy_stalls(taut_recorder *r, taut_recorder_snapshot *out) {
    pthread_mutex_lock(&r->lock);
    uint32_t count = r->stall_count, kept = count;
    if (kept > TAUT_RECORDER_STALLS)
        kept = TAUT_RECORDER_STALLS;
    for (uint32_t i = 0; i < kept; i++)
        out->stalls[i] = r->stalls[(count - kept + i) % TAUT_RECORDER_STALLS];
    pthread_mutex_unlock(&r->lock);
    out->stall_count = kept;
}

int taut_recorder_copy(taut_recorder *r, taut_recorder_snapshot *out) {
    size_t last, gone = 0;
    out->count = 0;
    if (!is_on(r))
        return 0;
    uint64_t end = position(r, &last), page = end < PAGES ? 0 : end - PAGES + 1, first = page;
    for (; page < end; page++)
        out->count += copy_page(r, page, TAUT_RECORDER_PAGE, out->events + out->count);
    out->count += copy_page(r, end, last, out->events + out->count);
    out->now_ns = taut_sys_now_ns();
    out->wait_ns = atomic_load_explicit(&r->wait_ns, memory_order_relaxed);
    out->tick_ns = atomic_load_explicit(&r->tick_ns, memory_order_relaxed);
    copy_stalls(r, out);
    /* The writer may have come round meanwhile: these pages are not what they were. */
    uint64_t now = atomic_load_explicit(&r->page, memory_order_acquire);
    if (now >= PAGES && now - PAGES + 1 > first)
        gone = (size_t)(now - PAGES + 1 - first) * TAUT_RECORDER_PAGE;
    if (gone > out->count)
        gone = out->count;
    out->count -= gone;
    memmove(out->events, out->events + gone, out->count * sizeof *out->events);
    out->first = first * TAUT_RECORDER_PAGE + gone;
    return 1;
}

uint64_t taut_recorder_clock(const taut_recorder_snapshot *s, size_t at, size_t *next) {
    const taut_recorder_event *e = &s->events[at];
    uint64_t value = e->what & (UINT64_MAX >> 8), limit_ns = s->now_ns;
    if (e->what >> 56 != TAUT_EVENT_MARK && e->what >> 56 != TAUT_EVENT_PAGE)
        return e->more;
    for (; *next < s->count; ++*next) {
        const taut_recorder_event *n = &s->events[*next];
        uint64_t event = n->what >> 56;
        if (*next > at && (event == TAUT_EVENT_TURN || event == TAUT_EVENT_RUN)) {
            limit_ns = n->more - (event == TAUT_EVENT_TURN ? n->what & (UINT64_MAX >> 8) : 0);
            break;
        }
    }
    uint64_t ns = e->more + (uint64_t)((double)value * s->tick_ns);
    return ns < limit_ns ? ns : limit_ns;
}
