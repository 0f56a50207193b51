/* base/ring: first in, first out, across growth and wrap-around. */
#include <errno.h>
#include "base/ring.h"
#include "check.h"

static taut_entry entry(uint64_t n) {
    return (taut_entry){.a = (void *)(uintptr_t)(n + 1), .kind = n};
}

static void capacity_is_rounded(void) {
    static const struct {
        size_t asked, got;
    } cases[] = {{0, 1}, {1, 1}, {2, 2}, {3, 4}, {64, 64}, {65, 128}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        taut_ring r;
        CHECK_EQ(taut_ring_init(&r, cases[i].asked), 0);
        CHECK_EQ(r.mask + 1, cases[i].got);
        taut_ring_free(&r);
    }
    taut_ring r;
    CHECK_EQ(taut_ring_init(&r, SIZE_MAX), -ENOMEM);
    CHECK_EQ(taut_ring_init(&r, SIZE_MAX / 64 + 1), -ENOMEM);
}

/* Grows at every possible position of the oldest entry. */
static void growth_keeps_order(void) {
    for (uint64_t shift = 0; shift < 16; shift++) {
        taut_ring r;
        CHECK_EQ(taut_ring_init(&r, 8), 0);
        for (uint64_t i = 0; i < shift; i++) {
            CHECK_EQ(taut_ring_push(&r, entry(i)), 0);
            CHECK_EQ(taut_ring_pop(&r).kind, i);
        }
        for (uint64_t i = 0; i < 100; i++) {
            CHECK_EQ(taut_ring_push(&r, entry(i)), 0);
            CHECK_EQ(taut_ring_count(&r), i + 1);
        }
        for (uint64_t i = 0; i < 100; i++)
            CHECK_EQ(taut_ring_at(&r, i)->kind, i);
        for (uint64_t i = 0; i < 100; i++) {
            taut_entry e = taut_ring_pop(&r);
            CHECK_EQ(e.kind, i);
            CHECK(e.a == (void *)(uintptr_t)(i + 1));
        }
        CHECK_EQ(taut_ring_count(&r), 0);
        taut_ring_free(&r);
    }
}

static void indices_may_overflow(void) {
    taut_ring r;
    CHECK_EQ(taut_ring_init(&r, 4), 0);
    r.head = r.tail = SIZE_MAX - 2;
    for (uint64_t i = 0; i < 6; i++)
        CHECK_EQ(taut_ring_push(&r, entry(i)), 0);
    for (uint64_t i = 0; i < 6; i++)
        CHECK_EQ(taut_ring_pop(&r).kind, i);
    taut_ring_free(&r);
}

static void scenario(int may_fail) {
    taut_ring r;
    int rc = taut_ring_init(&r, 2);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    if (rc < 0)
        return;
    uint64_t pushed = 0, popped = 0;
    for (uint64_t i = 0; i < 50; i++) {
        rc = taut_ring_push(&r, entry(pushed));
        CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
        pushed += rc == 0;
        if (i % 5 == 4)
            CHECK_EQ(taut_ring_pop(&r).kind, popped++);
    }
    CHECK(may_fail || pushed == 50);
    while (taut_ring_count(&r))
        CHECK_EQ(taut_ring_pop(&r).kind, popped++);
    CHECK_EQ(popped, pushed);
    taut_ring_free(&r);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {CHECK_TEST(capacity_is_rounded), CHECK_TEST(growth_keeps_order),
                                   CHECK_TEST(indices_may_overflow), CHECK_TEST(out_of_memory)};
CHECK_MAIN(tests)
