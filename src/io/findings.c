#include "io/findings.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "base/clock.h"
#include "io/ignore.h"

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* a change, or taut_findings_wake; for CLOCK_MONOTONIC */
    uint64_t wakes;
    taut_finding *at[TAUT_FINDINGS_MAX]; /* into `entries`; NULL: free */
    uint64_t last_id;
    _Atomic uint64_t change;
    _Atomic(void (*)(void)) on_change;
    pthread_once_t once;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

/* Not allocated, so that a process that is out of memory can still say what is wrong with it. The
 * kernel gives it pages as findings come. */
static taut_finding entries[TAUT_FINDINGS_MAX];

static uint64_t hash_text(uint64_t h, const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++)
        h = (h ^ *s) * UINT64_C(1099511628211);
    return (h ^ 0xff) * UINT64_C(1099511628211); /* "ab" + "c" is not "a" + "bc" */
}

static uint64_t key_of(const taut_finding *f) {
    uint64_t h = hash_text(UINT64_C(14695981039346656037), f->code);
    h = hash_text(hash_text(h, f->file), f->function);
    return (h ^ (uint64_t)(unsigned)f->line) * UINT64_C(1099511628211);
}

/* Cuts between characters, never within one. */
static void copy_text(char *to, size_t room, const char *text) {
    size_t size = text == NULL ? 0 : strlen(text);
    if (size >= room) {
        size = room - 1;
        while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80)
            size--;
    }
    if (size > 0)
        memcpy(to, text, size);
    to[size] = '\0';
}

static void fill(taut_finding *f, const taut_finding_new *from) {
    copy_text(f->cause, sizeof f->cause, from->cause);
    copy_text(f->remedy, sizeof f->remedy, from->remedy);
    copy_text(f->evidence, sizeof f->evidence, from->evidence);
    f->state = (int)from->state;
}

/* The rest is called with the lock held. */

static void changed(taut_finding *f) {
    uint64_t n = atomic_load_explicit(&table.change, memory_order_relaxed) + 1;
    f->change = n;
    atomic_store_explicit(&table.change, n, memory_order_relaxed);
    pthread_cond_broadcast(&table.moved);
}

static taut_finding *find_same(const taut_finding *like) {
    for (int i = 0; i < TAUT_FINDINGS_MAX; i++) {
        taut_finding *f = table.at[i];
        if (f != NULL && f->key == like->key && f->line == like->line &&
            strcmp(f->code, like->code) == 0 && strcmp(f->file, like->file) == 0)
            return f;
    }
    return NULL;
}

static taut_finding *make_room(void) {
    taut_finding *oldest = NULL;
    for (int i = 0; i < TAUT_FINDINGS_MAX; i++) {
        if (table.at[i] == NULL)
            return table.at[i] = &entries[i];
        if (oldest == NULL || table.at[i]->last_ns < oldest->last_ns)
            oldest = table.at[i];
    }
    return oldest;
}

static taut_finding *find_id(uint64_t id) {
    for (int i = 0; i < TAUT_FINDINGS_MAX; i++)
        if (table.at[i] != NULL && table.at[i]->id == id)
            return table.at[i];
    return NULL;
}

static void forget_all(void) {
    for (int i = 0; i < TAUT_FINDINGS_MAX; i++)
        table.at[i] = NULL;
}

/* ---- forks: the table is locked over fork(), so that the child finds it whole ---- */

static void cond_init(void) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&table.moved, &attr);
    pthread_condattr_destroy(&attr);
}
static void fork_prepare(void) {
    pthread_mutex_lock(&table.lock);
}
static void fork_parent(void) {
    pthread_mutex_unlock(&table.lock);
}
static void fork_child(void) {
    table.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    cond_init();
    forget_all();
}

static void init(void) {
    cond_init();
    (void)pthread_atfork(fork_prepare, fork_parent, fork_child); /* refused: a fork may tear it */
}

static void lock(void) {
    pthread_once(&table.once, init);
    pthread_mutex_lock(&table.lock);
}

/* ---- the outside ---- */

static void tell(void) {
    void (*fn)(void) = atomic_load_explicit(&table.on_change, memory_order_acquire);
    if (fn != NULL)
        fn();
}

uint64_t taut_findings_add(const taut_finding_new *from) {
    taut_finding like = {.line = from->line};
    uint64_t now = taut_clock_real_ns();
    copy_text(like.code, sizeof like.code, from->code);
    copy_text(like.file, sizeof like.file, from->file);
    copy_text(like.function, sizeof like.function, from->function);
    if (taut_ignores(like.code, like.file, like.line))
        return 0;
    like.key = key_of(&like);
    lock();
    taut_finding *f = find_same(&like);
    if (f == NULL) {
        f = make_room();
        *f = like;
        f->id = ++table.last_id;
        f->first_ns = now;
    }
    fill(f, from);
    f->count++;
    f->last_ns = now;
    changed(f);
    uint64_t id = f->id;
    pthread_mutex_unlock(&table.lock);
    tell();
    return id;
}

int taut_findings_update(uint64_t id, const char *evidence, enum taut_finding_state state) {
    uint64_t now = taut_clock_real_ns();
    lock();
    taut_finding *f = find_id(id);
    if (f != NULL) {
        if (evidence != NULL)
            copy_text(f->evidence, sizeof f->evidence, evidence);
        f->state = (int)state;
        f->last_ns = now;
        changed(f);
    }
    pthread_mutex_unlock(&table.lock);
    if (f == NULL)
        return -ENOENT;
    tell();
    return 0;
}

void taut_findings_withdraw(uint64_t id) {
    int stays = 0;
    lock();
    for (int i = 0; i < TAUT_FINDINGS_MAX; i++) {
        taut_finding *f = table.at[i];
        if (f == NULL || f->id != id)
            continue;
        stays = --f->count > 0;
        f->state = TAUT_FINDING_OVER;
        if (stays)
            changed(f);
        else
            table.at[i] = NULL;
    }
    pthread_mutex_unlock(&table.lock);
    if (stays)
        tell();
}

int taut_findings_next(uint64_t change, taut_finding *out) {
    const taut_finding *next = NULL;
    lock();
    for (int i = 0; i < TAUT_FINDINGS_MAX; i++) {
        const taut_finding *f = table.at[i];
        if (f != NULL && f->change > change && (next == NULL || f->change < next->change))
            next = f;
    }
    if (next != NULL)
        *out = *next;
    pthread_mutex_unlock(&table.lock);
    return next != NULL;
}

int taut_findings_get(uint64_t id, taut_finding *out) {
    lock();
    const taut_finding *f = find_id(id);
    if (f != NULL)
        *out = *f;
    pthread_mutex_unlock(&table.lock);
    return f != NULL;
}

uint64_t taut_findings_change(void) {
    return atomic_load_explicit(&table.change, memory_order_relaxed);
}

uint64_t taut_findings_wait(uint64_t change, uint64_t until_ns) {
    struct timespec until = {.tv_sec = (time_t)(until_ns / TAUT_NS_PER_S),
                             .tv_nsec = (long)(until_ns % TAUT_NS_PER_S)};
    int rc = 0;
    lock();
    for (uint64_t wakes = table.wakes;
         rc != ETIMEDOUT && taut_findings_change() <= change && table.wakes == wakes;)
        rc = until_ns == TAUT_NEVER_NS ? pthread_cond_wait(&table.moved, &table.lock)
                                       : pthread_cond_timedwait(&table.moved, &table.lock, &until);
    pthread_mutex_unlock(&table.lock);
    return taut_findings_change();
}

void taut_findings_wake(void) {
    lock();
    table.wakes++;
    pthread_cond_broadcast(&table.moved);
    pthread_mutex_unlock(&table.lock);
}

void taut_findings_clear(void) {
    lock();
    forget_all();
    pthread_mutex_unlock(&table.lock);
}

void taut_findings_on_change(void (*fn)(void)) {
    atomic_store_explicit(&table.on_change, fn, memory_order_release);
}

static const char *const state_names[] = {"seen", "ongoing", "over"};

static void write_lines(taut_json_out *w, const char *text) {
    taut_json_out_open(w, '[');
    while (*text != '\0') {
        size_t size = strcspn(text, "\n");
        taut_json_out_bytes(w, text, size);
        text += size + (text[size] == '\n');
    }
    taut_json_out_close(w, ']');
}

void taut_findings_write(taut_json_out *w, const taut_finding *f) {
    taut_json_out_open(w, '{');
    taut_json_out_key(w, "id");
    taut_json_out_u64(w, f->id);
    taut_json_out_key(w, "code");
    taut_json_out_text(w, f->code);
    taut_json_out_key(w, "state");
    taut_json_out_text(w, state_names[f->state]);
    taut_json_out_key(w, "count");
    taut_json_out_u64(w, f->count);
    taut_json_out_key(w, "first_seen");
    taut_json_out_seconds(w, f->first_ns);
    taut_json_out_key(w, "last_seen");
    taut_json_out_seconds(w, f->last_ns);
    taut_json_out_key(w, "file");
    taut_json_out_text(w, f->file);
    taut_json_out_key(w, "line");
    taut_json_out_i64(w, f->line);
    taut_json_out_key(w, "function");
    taut_json_out_text(w, f->function);
    taut_json_out_key(w, "cause");
    taut_json_out_text(w, f->cause);
    taut_json_out_key(w, "remedy");
    taut_json_out_text(w, f->remedy);
    taut_json_out_key(w, "evidence");
    write_lines(w, f->evidence);
    taut_json_out_close(w, '}');
}
