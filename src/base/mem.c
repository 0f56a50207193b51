#include "base/mem.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>

static _Atomic uint64_t allocs, frees, live_bytes;

/* The failure hook: `fail_in` counts down to the refused allocation, 0 = off. The hook is off in
 * production, where it costs one relaxed load of a read-mostly line. */
static struct {
    _Atomic int armed;
    _Atomic int onwards;
    _Atomic uint64_t fail_in;
    _Atomic uint64_t hits;
} hook;

#define LOAD(v) atomic_load_explicit(&(v), memory_order_relaxed)
#define STORE(v, x) atomic_store_explicit(&(v), (x), memory_order_relaxed)
#define ADD(v, x) atomic_fetch_add_explicit(&(v), (x), memory_order_relaxed)
#define SUB(v, x) atomic_fetch_sub_explicit(&(v), (x), memory_order_relaxed)

/* Says whether the allocation asked for now is to be refused. */
static int refused(void) {
    if (TAUT_LIKELY(!LOAD(hook.armed)))
        return 0;
    uint64_t left = LOAD(hook.fail_in);
    while (left && !atomic_compare_exchange_weak(&hook.fail_in, &left, left - 1))
        ;
    if (left == 1 || (left == 0 && LOAD(hook.onwards))) {
        ADD(hook.hits, 1);
        return 1;
    }
    return 0;
}

static void *counted(void *block) {
    if (block) {
        ADD(allocs, 1);
        ADD(live_bytes, malloc_usable_size(block));
    }
    return block;
}

void *taut_malloc(size_t size) {
    if (refused() || size > PTRDIFF_MAX)
        return NULL;
    /* malloc(0) may yield NULL, which would read as "out of memory". */
    return counted(malloc(size ? size : 1));
}

void *taut_calloc(size_t count, size_t size) {
    size_t total;
    if (refused() || __builtin_mul_overflow(count, size, &total) || total > PTRDIFF_MAX)
        return NULL;
    return counted(calloc(1, total ? total : 1));
}

void *taut_realloc_array(void *block, size_t count, size_t size) {
    size_t total;
    if (refused() || __builtin_mul_overflow(count, size, &total) || total > PTRDIFF_MAX)
        return NULL;
    size_t before = block ? malloc_usable_size(block) : 0;
    void *grown = realloc(block, total ? total : 1);
    if (!grown)
        return NULL;
    if (!block)
        return counted(grown);
    ADD(live_bytes, malloc_usable_size(grown) - before); /* wraps when it shrank: still right */
    return grown;
}

void taut_free(void *block) {
    if (!block)
        return;
    ADD(frees, 1);
    SUB(live_bytes, malloc_usable_size(block));
    free(block);
}

void taut_mem_stats_get(taut_mem_stats *out) {
    /* Frees first: a block freed in between then counts as live rather than as freed twice. */
    out->frees = LOAD(frees);
    out->allocs = LOAD(allocs);
    out->live_blocks = out->allocs - out->frees;
    out->live_bytes = LOAD(live_bytes);
}

void taut_mem_fail_set(uint64_t nth, int onwards) {
    STORE(hook.armed, 0);
    STORE(hook.fail_in, nth);
    STORE(hook.onwards, onwards);
    STORE(hook.hits, 0);
    STORE(hook.armed, nth != 0);
}

uint64_t taut_mem_fail_hits(void) {
    return LOAD(hook.hits);
}
