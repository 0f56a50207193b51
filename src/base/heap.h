/* Intrusive 4-ary min-heap ordered by (key, seq): equal keys leave in the order of arrival.
 * The heap owns its index array, never the nodes. One thread. */
#ifndef TAUT_BASE_HEAP_H
#define TAUT_BASE_HEAP_H

#include <stddef.h>
#include <stdint.h>
#include "base/assert.h"

#define TAUT_HEAP_OUT SIZE_MAX

typedef struct {
    size_t index; /* TAUT_HEAP_OUT when in no heap */
} taut_heap_node;

typedef struct {
    uint64_t key, seq;
    taut_heap_node *node;
} taut_heap_item;

typedef struct {
    taut_heap_item *items;
    size_t count, capacity;
    uint64_t next_seq;
} taut_heap;

void taut_heap_init(taut_heap *h);
void taut_heap_free(taut_heap *h); /* must be empty of nodes the caller still uses */
static inline void taut_heap_node_init(taut_heap_node *n) {
    n->index = TAUT_HEAP_OUT;
}
/* 0 or -ENOMEM with nothing pushed. The node must be out. */
int taut_heap_push(taut_heap *h, taut_heap_node *n, uint64_t key) TAUT_MUST_USE;
/* NULL when empty. */
static inline taut_heap_item *taut_heap_top(taut_heap *h) {
    return h->count ? h->items : NULL;
}
/* The heap must not be empty. The node is out afterwards. */
taut_heap_node *taut_heap_pop(taut_heap *h);
/* The node must be in. O(log n). */
void taut_heap_remove(taut_heap *h, taut_heap_node *n);
/* Drops every node for which `drop` says true, in one O(n) pass, and restores the order. `drop`
 * must not touch the heap; nodes it takes are out afterwards. */
void taut_heap_sweep(taut_heap *h, int (*drop)(taut_heap_node *n, void *arg), void *arg);

#endif
