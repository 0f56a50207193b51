#include "io/trace_map.h"

#include "base/mem.h"

#define CAPACITY_MIN 256

void taut_trace_map_free(taut_trace_map *m) {
    taut_free(m->slots);
    *m = (taut_trace_map){NULL};
}

static taut_trace_track *slot_of(const taut_trace_map *m, uint64_t task) {
    size_t i = (size_t)((task * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
    for (;; i++) {
        taut_trace_track *s = &m->slots[i & (m->capacity - 1)];
        if (s->task == task || s->task == 0)
            return s;
    }
}

static int grow(taut_trace_map *m) {
    taut_trace_map larger = {.capacity = m->capacity == 0 ? CAPACITY_MIN : 2 * m->capacity,
                             .count = m->count};
    larger.slots = taut_calloc(larger.capacity, sizeof *larger.slots);
    if (larger.slots == NULL)
        return -1;
    for (size_t i = 0; i < m->capacity; i++)
        if (m->slots[i].task != 0)
            *slot_of(&larger, m->slots[i].task) = m->slots[i];
    taut_free(m->slots);
    *m = larger;
    return 0;
}

taut_trace_track *taut_trace_map_get(taut_trace_map *m, uint64_t task) {
    if (4 * (m->count + 1) > 3 * m->capacity && grow(m) < 0)
        return NULL;
    taut_trace_track *s = slot_of(m, task);
    if (s->task == 0) {
        s->task = task;
        m->count++;
    }
    return s;
}
