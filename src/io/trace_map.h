/* The tracks of a trace's tasks: which number a task's track has. A hash table that grows; what has
 * gone in stays. One thread. */
#ifndef TAUT_IO_TRACE_MAP_H
#define TAUT_IO_TRACE_MAP_H

#include <stddef.h>
#include <stdint.h>
#include "base/assert.h"

typedef struct {
    uint64_t task;  /* 0: free */
    uint64_t place; /* where it was made, as the event has it; 0: not known */
    uint32_t tid;
    uint32_t named; /* the trace has said what it is called */
} taut_trace_track;

typedef struct {
    taut_trace_track *slots;
    size_t capacity, count; /* a power of two, or 0 */
} taut_trace_map;

/* Zeroed memory is an empty one; freed it is that again. */
void taut_trace_map_free(taut_trace_map *m);
/* The task's, new with tid 0 when there was none; valid until the next call. NULL when memory is
 * out. */
taut_trace_track *taut_trace_map_get(taut_trace_map *m, uint64_t task) TAUT_MUST_USE;

#endif
