/* The monotonic clock in nanoseconds. The core's deadlines are absolute values of it. Modules of
 * src/io read it through io/sys.h, so that a simulated clock can stand in. */
#ifndef TAUT_BASE_CLOCK_H
#define TAUT_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define TAUT_NS_PER_S UINT64_C(1000000000)
#define TAUT_NS_PER_MS UINT64_C(1000000)
#define TAUT_NEVER_NS UINT64_MAX

static inline uint64_t taut_clock_now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * TAUT_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Nanoseconds since the epoch, for what people read; it may jump. */
static inline uint64_t taut_clock_real_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * TAUT_NS_PER_S + (uint64_t)ts.tv_nsec;
}

#endif
