/* The ready queue's ring: FIFO of 32-byte entries, capacity a power of two, grows by doubling.
 * The ring owns only its storage; what an entry's words mean (and who drops references) is the
 * business of whoever pushes and pops. One thread. */
#ifndef TAUT_BASE_RING_H
#define TAUT_BASE_RING_H

#include <stddef.h>
#include <stdint.h>
#include "base/assert.h"

typedef struct {
    void *a, *b, *c;
    uint64_t kind;
} taut_entry;

typedef struct {
    taut_entry *slots;
    size_t mask; /* capacity - 1 */
    size_t head; /* index of the oldest entry, runs freely */
    size_t tail; /* one past the newest, runs freely */
} taut_ring;

/* 0 or -ENOMEM; capacity is rounded up to a power of two. */
int taut_ring_init(taut_ring *r, size_t capacity) TAUT_MUST_USE;
void taut_ring_free(taut_ring *r);
/* Doubles the storage; 0 or -ENOMEM with the ring unchanged. */
int taut_ring_grow(taut_ring *r) TAUT_MUST_USE;

static inline size_t taut_ring_count(const taut_ring *r) {
    return r->tail - r->head;
}

/* 0 or -ENOMEM with nothing pushed. */
TAUT_MUST_USE static inline int taut_ring_push(taut_ring *r, taut_entry e) {
    if (TAUT_UNLIKELY(r->tail - r->head > r->mask)) {
        int rc = taut_ring_grow(r);
        if (rc < 0)
            return rc;
    }
    r->slots[r->tail++ & r->mask] = e;
    return 0;
}
/* The ring must not be empty. */
static inline taut_entry taut_ring_pop(taut_ring *r) {
    taut_debug_assert(taut_ring_count(r) > 0);
    return r->slots[r->head++ & r->mask];
}
/* The i-th entry from the oldest, 0 <= i < count. Valid until the next push or pop. */
static inline taut_entry *taut_ring_at(taut_ring *r, size_t i) {
    return &r->slots[(r->head + i) & r->mask];
}

#endif
