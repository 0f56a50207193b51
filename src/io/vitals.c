#include "io/vitals.h"

#include <pthread.h>

#define LOAD(v) atomic_load_explicit(&(v), memory_order_relaxed)

taut_gc_vitals taut_vitals_gc[TAUT_GC_GENERATIONS];

static struct {
    pthread_mutex_t lock;
    pthread_once_t once;
    taut_list loops;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

static void fork_prepare(void) {
    pthread_mutex_lock(&all.lock);
}
static void fork_parent(void) {
    pthread_mutex_unlock(&all.lock);
}
static void fork_child(void) {
    all.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static void init(void) {
    taut_list_init(&all.loops);
    /* Where it is refused, a fork during a reader's look leaves the child's loops uncounted. */
    (void)pthread_atfork(fork_prepare, fork_parent, fork_child);
}

static void lock(void) {
    pthread_once(&all.once, init);
    pthread_mutex_lock(&all.lock);
}

static int id_is_free(unsigned id) {
    for (taut_list *n = all.loops.next; n != &all.loops; n = n->next)
        if (TAUT_CONTAINER(n, taut_vitals, link)->id == id)
            return 0;
    return 1;
}

void taut_vitals_add(taut_vitals *v, taut_pulse *pulse) {
    v->pulse = pulse;
    lock();
    for (v->id = 1; !id_is_free(v->id);)
        v->id++;
    taut_list_append(&all.loops, &v->link);
    pthread_mutex_unlock(&all.lock);
}

void taut_vitals_remove(taut_vitals *v) {
    if (v->id == 0)
        return;
    lock();
    taut_list_unlink(&v->link);
    v->id = 0;
    pthread_mutex_unlock(&all.lock);
}

void taut_vitals_each(void (*fn)(taut_vitals *v, void *arg), void *arg) {
    lock();
    for (taut_list *n = all.loops.next; n != &all.loops; n = n->next)
        fn(TAUT_CONTAINER(n, taut_vitals, link), arg);
    pthread_mutex_unlock(&all.lock);
}

void taut_vitals_times(const taut_vitals *v, uint64_t now_ns, uint64_t *active_ns,
                       uint64_t *idle_ns) {
    uint64_t mark_ns = LOAD(v->mark_ns), open_ns = now_ns > mark_ns ? now_ns - mark_ns : 0;
    uint32_t phase = LOAD(v->pulse->phase);
    *active_ns = LOAD(v->active_ns) + (phase == TAUT_PHASE_RUNNING ? open_ns : 0);
    *idle_ns = LOAD(v->idle_ns) + (phase == TAUT_PHASE_POLLING ? open_ns : 0);
}

void taut_vitals_keep(taut_vitals *v) {
    _Atomic uint64_t *active = v->then_active_ns, *idle = v->then_idle_ns;
    atomic_store_explicit(&active[1], LOAD(active[0]), memory_order_relaxed);
    atomic_store_explicit(&idle[1], LOAD(idle[0]), memory_order_relaxed);
    atomic_store_explicit(&active[0], LOAD(v->active_ns), memory_order_relaxed);
    atomic_store_explicit(&idle[0], LOAD(v->idle_ns), memory_order_relaxed);
}

unsigned taut_vitals_utilization(const taut_vitals *v, uint64_t now_ns) {
    uint64_t active_ns, idle_ns;
    taut_vitals_times(v, now_ns, &active_ns, &idle_ns);
    active_ns -= LOAD(v->then_active_ns[1]);
    uint64_t all_ns = active_ns + idle_ns - LOAD(v->then_idle_ns[1]);
    return all_ns == 0 ? 0 : (unsigned)((double)active_ns * 1000 / (double)all_ns);
}

void taut_vitals_gc_done(unsigned generation, uint64_t lasted_ns, uint64_t collected,
                         uint64_t uncollectable) {
    if (generation >= TAUT_GC_GENERATIONS)
        return;
    taut_gc_vitals *gc = &taut_vitals_gc[generation];
    taut_vitals_count(&gc->count, 1);
    taut_vitals_count(&gc->sum_ns, lasted_ns);
    taut_vitals_count(&gc->collected, collected);
    taut_vitals_count(&gc->uncollectable, uncollectable);
    if (lasted_ns > LOAD(gc->longest_ns))
        atomic_store_explicit(&gc->longest_ns, lasted_ns, memory_order_relaxed);
}
