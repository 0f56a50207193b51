/* Log-linear histogram of uint64 values: fixed memory, no allocation, relative error at most
 * 1/16. Written by one thread with relaxed atomics, readable by any. */
#ifndef TAUT_BASE_HIST_H
#define TAUT_BASE_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define TAUT_HIST_SUB_BITS 4
#define TAUT_HIST_BUCKETS ((64 - TAUT_HIST_SUB_BITS + 1) << TAUT_HIST_SUB_BITS)

typedef struct {
    _Atomic uint64_t counts[TAUT_HIST_BUCKETS];
    _Atomic uint64_t count, sum, max;
} taut_hist;

void taut_hist_init(taut_hist *h);
void taut_hist_add(taut_hist *h, uint64_t value);
/* The upper edge of the bucket that holds the q-quantile (0 <= q <= 1); 0 when empty; never above
 * the largest value seen. */
uint64_t taut_hist_quantile(const taut_hist *h, double q);
/* The bucket of a value, and the smallest and largest value of a bucket. */
unsigned taut_hist_bucket(uint64_t value);
uint64_t taut_hist_bucket_low(unsigned bucket);
uint64_t taut_hist_bucket_high(unsigned bucket);

#endif
