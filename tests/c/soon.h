/* Waiting for another thread to bring something about. */
#ifndef TAUT_TESTS_SOON_H
#define TAUT_TESTS_SOON_H

#include <sched.h>
#include "base/clock.h"
#include "check.h"

/* Fails when `e` has not become true within 20 s. */
#define CHECK_SOON(e)                                                                              \
    do {                                                                                           \
        uint64_t soon_end_ = taut_clock_now_ns() + 20 * TAUT_NS_PER_S;                             \
        while (!(e)) {                                                                             \
            CHECK(taut_clock_now_ns() < soon_end_ && "in time: " #e);                              \
            sched_yield();                                                                         \
        }                                                                                          \
    } while (0)

#endif
