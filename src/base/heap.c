#include "base/heap.h"

#include <errno.h>
#include "base/mem.h"

#define ARITY 4
#define CAPACITY_MIN 64

static int before(const taut_heap_item *a, const taut_heap_item *b) {
    return a->key < b->key || (a->key == b->key && a->seq < b->seq);
}

static void place(taut_heap *h, size_t index, taut_heap_item item) {
    h->items[index] = item;
    item.node->index = index;
}

/* Puts `item` where it belongs on the path from `index` to the root. */
static void sift_up(taut_heap *h, size_t index, taut_heap_item item) {
    while (index > 0) {
        size_t parent = (index - 1) / ARITY;
        if (!before(&item, &h->items[parent]))
            break;
        place(h, index, h->items[parent]);
        index = parent;
    }
    place(h, index, item);
}

/* Puts `item` where it belongs on a path from `index` to the leaves. */
static void sift_down(taut_heap *h, size_t index, taut_heap_item item) {
    for (;;) {
        size_t child = index * ARITY + 1;
        if (child >= h->count)
            break;
        size_t end = child + ARITY < h->count ? child + ARITY : h->count, least = child;
        while (++child < end)
            if (before(&h->items[child], &h->items[least]))
                least = child;
        if (!before(&h->items[least], &item))
            break;
        place(h, index, h->items[least]);
        index = least;
    }
    place(h, index, item);
}

void taut_heap_init(taut_heap *h) {
    *h = (taut_heap){0};
}

void taut_heap_free(taut_heap *h) {
    taut_free(h->items);
    *h = (taut_heap){0};
}

int taut_heap_push(taut_heap *h, taut_heap_node *n, uint64_t key) {
    taut_debug_assert(n->index == TAUT_HEAP_OUT);
    if (h->count == h->capacity) {
        size_t capacity = h->capacity ? h->capacity * 2 : CAPACITY_MIN;
        taut_heap_item *items = taut_realloc_array(h->items, capacity, sizeof *items);
        if (!items)
            return -ENOMEM;
        h->items = items;
        h->capacity = capacity;
    }
    h->count++;
    sift_up(h, h->count - 1, (taut_heap_item){.key = key, .seq = h->next_seq++, .node = n});
    return 0;
}

void taut_heap_remove(taut_heap *h, taut_heap_node *n) {
    size_t index = n->index;
    taut_assert(index < h->count && h->items[index].node == n);
    n->index = TAUT_HEAP_OUT;
    taut_heap_item last = h->items[--h->count];
    if (index == h->count)
        return;
    if (index > 0 && before(&last, &h->items[(index - 1) / ARITY]))
        sift_up(h, index, last);
    else
        sift_down(h, index, last);
}

taut_heap_node *taut_heap_pop(taut_heap *h) {
    taut_assert(h->count > 0);
    taut_heap_node *n = h->items[0].node;
    taut_heap_remove(h, n);
    return n;
}

void taut_heap_sweep(taut_heap *h, int (*drop)(taut_heap_node *n, void *arg), void *arg) {
    size_t kept = 0;
    for (size_t i = 0; i < h->count; i++) {
        taut_heap_item item = h->items[i];
        /* Out before the call: `drop` may free the node when it takes it. */
        item.node->index = TAUT_HEAP_OUT;
        if (!drop(item.node, arg))
            place(h, kept++, item);
    }
    h->count = kept;
    if (kept > 1)
        for (size_t i = (kept - 2) / ARITY + 1; i-- > 0;)
            sift_down(h, i, h->items[i]);
}
