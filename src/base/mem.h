/* Every allocation of the core goes through here: size-checked, counted, and able to fail on
 * command so that tests can walk through every out-of-memory path. Thread-safe. */
#ifndef TAUT_BASE_MEM_H
#define TAUT_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>
#include "base/assert.h"

/* Each returns NULL when memory is out, the product overflows, or the failure hook says so.
 * The caller owns the block and gives it back with taut_free (NULL allowed). */
void *taut_malloc(size_t size) TAUT_MUST_USE;
void *taut_calloc(size_t count, size_t size) TAUT_MUST_USE;
/* On failure the old block stays valid. */
void *taut_realloc_array(void *block, size_t count, size_t size) TAUT_MUST_USE;
void taut_free(void *block);

typedef struct {
    uint64_t allocs; /* calls that returned a block (realloc of NULL included) */
    uint64_t frees;
    uint64_t live_blocks;
    uint64_t live_bytes; /* as malloc_usable_size counts */
} taut_mem_stats;
void taut_mem_stats_get(taut_mem_stats *out);

/* Tests only. The nth allocation from now (1-based) fails; with `onwards`, every later one too.
 * nth 0 switches the hook off. taut_mem_fail_hits() says how many were refused since. */
void taut_mem_fail_set(uint64_t nth, int onwards);
uint64_t taut_mem_fail_hits(void);

#endif
