/* base/buf against a plain array. */
#include <errno.h>
#include "base/buf.h"
#include "check.h"
#include "random.h"

#define PATTERN(i) ((uint8_t)((i)*31 + ((i) >> 8)))

static void run_random(uint64_t seed) {
    taut_buf b;
    uint64_t rnd = seed, written = 0, read = 0;
    uint8_t chunk[3000];
    taut_buf_init(&b);
    for (int step = 0; step < 2000; step++) {
        if (random_below(&rnd, 2)) {
            size_t size = random_below(&rnd, sizeof chunk);
            for (size_t i = 0; i < size; i++)
                chunk[i] = PATTERN(written + i);
            CHECK_EQ(taut_buf_append(&b, chunk, size), 0);
            written += size;
        } else {
            size_t size = random_below(&rnd, taut_buf_size(&b) + 1);
            for (size_t i = 0; i < size; i++)
                CHECK_EQ(taut_buf_bytes(&b)[i], PATTERN(read + i));
            taut_buf_consume(&b, size);
            read += size;
        }
        CHECK_EQ(taut_buf_size(&b), written - read);
    }
    taut_buf_free(&b);
}

static void random_operations(void) {
    for (uint64_t seed = 0; seed < 20; seed++)
        run_random(seed);
}

static void reserve_then_commit(void) {
    taut_buf b;
    taut_buf_init(&b);
    uint8_t *room = taut_buf_reserve(&b, 1000);
    CHECK(room != NULL);
    memset(room, 'x', 1000);
    taut_buf_commit(&b, 10); /* less than reserved */
    CHECK_EQ(taut_buf_size(&b), 10);
    CHECK(taut_buf_reserve(&b, 0) != NULL);
    CHECK(taut_buf_reserve(&b, SIZE_MAX) == NULL);
    CHECK(taut_buf_reserve(&b, SIZE_MAX - 10) == NULL);
    CHECK_EQ(taut_buf_size(&b), 10);
    CHECK_EQ(taut_buf_bytes(&b)[9], 'x');
    taut_buf_free(&b);
}

static void drained_burst_gives_its_memory_back(void) {
    taut_buf b;
    static uint8_t big[100 * 1024];
    taut_buf_init(&b);
    CHECK_EQ(taut_buf_append(&b, big, sizeof big), 0);
    taut_buf_consume(&b, sizeof big - 1);
    CHECK(b.capacity >= sizeof big);
    taut_buf_consume(&b, 1);
    CHECK_EQ(b.capacity, 0);
    CHECK_EQ(taut_buf_append(&b, big, 1000), 0);
    taut_buf_consume(&b, 1000);
    CHECK(b.capacity >= 1000); /* a small one is kept for the next time */
    taut_buf_free(&b);
}

/* A queue that never runs empty must not grow with what has passed through. */
static void steady_queue_stays_small(void) {
    taut_buf b;
    uint8_t chunk[1000] = {0};
    taut_buf_init(&b);
    CHECK_EQ(taut_buf_append(&b, chunk, sizeof chunk), 0);
    for (int i = 0; i < 10000; i++) {
        CHECK_EQ(taut_buf_append(&b, chunk, sizeof chunk), 0);
        taut_buf_consume(&b, sizeof chunk);
    }
    CHECK(b.capacity <= 8192);
    taut_buf_free(&b);
}

static void scenario(int may_fail) {
    taut_buf b;
    uint64_t written = 0, read = 0;
    taut_buf_init(&b);
    for (int i = 0; i < 100; i++) {
        uint8_t chunk[100];
        for (size_t k = 0; k < sizeof chunk; k++)
            chunk[k] = PATTERN(written + k);
        int rc = taut_buf_append(&b, chunk, sizeof chunk);
        CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
        written += rc == 0 ? sizeof chunk : 0;
        CHECK_EQ(taut_buf_size(&b), written - read);
        if (i % 4 == 3 && taut_buf_size(&b) >= 50) {
            CHECK_EQ(taut_buf_bytes(&b)[49], PATTERN(read + 49));
            taut_buf_consume(&b, 50);
            read += 50;
        }
    }
    for (size_t k = 0; k < written - read; k++)
        CHECK_EQ(taut_buf_bytes(&b)[k], PATTERN(read + k));
    taut_buf_free(&b);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {CHECK_TEST(random_operations), CHECK_TEST(reserve_then_commit),
                                   CHECK_TEST(drained_burst_gives_its_memory_back),
                                   CHECK_TEST(steady_queue_stays_small), CHECK_TEST(out_of_memory)};
CHECK_MAIN(tests)
