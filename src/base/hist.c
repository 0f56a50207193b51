#include "base/hist.h"

#include <string.h>

#define SUB (1u << TAUT_HIST_SUB_BITS)
#define LOAD(v) atomic_load_explicit(&(v), memory_order_relaxed)
#define STORE(v, x) atomic_store_explicit(&(v), (x), memory_order_relaxed)

void taut_hist_init(taut_hist *h) {
    memset(h, 0, sizeof *h);
}

/* Values below 16 have a bucket each; above, every power of two is cut into 16 equal buckets. */
unsigned taut_hist_bucket(uint64_t value) {
    if (value < SUB)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - TAUT_HIST_SUB_BITS;
    return ((shift + 1) << TAUT_HIST_SUB_BITS) + (unsigned)(value >> shift) - SUB;
}

uint64_t taut_hist_bucket_low(unsigned bucket) {
    if (bucket < SUB)
        return bucket;
    unsigned shift = (bucket >> TAUT_HIST_SUB_BITS) - 1;
    return (uint64_t)(SUB + bucket % SUB) << shift;
}

uint64_t taut_hist_bucket_high(unsigned bucket) {
    if (bucket < SUB)
        return bucket;
    unsigned shift = (bucket >> TAUT_HIST_SUB_BITS) - 1;
    return taut_hist_bucket_low(bucket) + ((UINT64_C(1) << shift) - 1);
}

/* One writer, so a load and a store do; a read-modify-write would cost a locked instruction. */
void taut_hist_add(taut_hist *h, uint64_t value) {
    unsigned b = taut_hist_bucket(value);
    STORE(h->counts[b], LOAD(h->counts[b]) + 1);
    STORE(h->sum, LOAD(h->sum) + value);
    if (value > LOAD(h->max))
        STORE(h->max, value);
    STORE(h->count, LOAD(h->count) + 1);
}

uint64_t taut_hist_quantile(const taut_hist *h, double q) {
    uint64_t total = 0, seen = 0, max = LOAD(h->max);
    /* The buckets are summed rather than trusting `count`, which a writer may be ahead of. */
    for (unsigned b = 0; b < TAUT_HIST_BUCKETS; b++)
        total += LOAD(h->counts[b]);
    if (total == 0)
        return 0;
    double wanted = q * (double)total;
    uint64_t rank = wanted < 1 ? 1 : (uint64_t)wanted + ((double)(uint64_t)wanted < wanted);
    if (rank > total)
        rank = total;
    for (unsigned b = 0; b < TAUT_HIST_BUCKETS; b++) {
        seen += LOAD(h->counts[b]);
        if (seen >= rank) {
            uint64_t high = taut_hist_bucket_high(b);
            return high < max ? high : max;
        }
    }
    return max;
}
