#include "base/ring.h"

#include <errno.h>
#include <string.h>
#include "base/mem.h"

int taut_ring_init(taut_ring *r, size_t capacity) {
    size_t rounded = 1;
    *r = (taut_ring){0};
    while (rounded < capacity) {
        if (rounded > SIZE_MAX / 2)
            return -ENOMEM;
        rounded *= 2;
    }
    r->slots = taut_realloc_array(NULL, rounded, sizeof *r->slots);
    if (!r->slots)
        return -ENOMEM;
    r->mask = rounded - 1;
    return 0;
}

void taut_ring_free(taut_ring *r) {
    taut_free(r->slots);
    *r = (taut_ring){0};
}

int taut_ring_grow(taut_ring *r) {
    size_t capacity = r->mask + 1, count = taut_ring_count(r), first = r->head & r->mask;
    if (capacity > SIZE_MAX / 2)
        return -ENOMEM;
    taut_entry *slots = taut_realloc_array(NULL, capacity * 2, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    /* The oldest entry moves to index 0, so the run that wrapped around becomes one piece. */
    size_t unwrapped = count < capacity - first ? count : capacity - first;
    memcpy(slots, r->slots + first, unwrapped * sizeof *slots);
    memcpy(slots + unwrapped, r->slots, (count - unwrapped) * sizeof *slots);
    taut_free(r->slots);
    *r = (taut_ring){.slots = slots, .mask = capacity * 2 - 1, .head = 0, .tail = count};
    return 0;
}
