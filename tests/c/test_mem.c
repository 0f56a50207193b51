/* base/mem: counting, size checks and the failure hook. */
#include <pthread.h>
#include "base/mem.h"
#include "check.h"

static taut_mem_stats stats(void) {
    taut_mem_stats s;
    taut_mem_stats_get(&s);
    return s;
}

static void counts(void) {
    taut_mem_stats before = stats();
    char *a = taut_malloc(100);
    char *b = taut_calloc(10, 10);
    CHECK(a && b);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(b[i], 0);
    taut_mem_stats now = stats();
    CHECK_EQ(now.allocs - before.allocs, 2);
    CHECK_EQ(now.live_blocks - before.live_blocks, 2);
    CHECK(now.live_bytes - before.live_bytes >= 200);
    a = taut_realloc_array(a, 1000, 10);
    CHECK(a != NULL);
    CHECK(stats().live_bytes - before.live_bytes >= 10100);
    a = taut_realloc_array(a, 1, 1);
    CHECK(a != NULL);
    CHECK(stats().live_bytes - before.live_bytes < 5000);
    CHECK_EQ(stats().live_blocks - before.live_blocks, 2);
    taut_free(a);
    taut_free(b);
    taut_free(NULL);
    now = stats();
    CHECK_EQ(now.live_blocks, before.live_blocks);
    CHECK_EQ(now.live_bytes, before.live_bytes);
    CHECK_EQ(now.frees - before.frees, 2);
}

static void empty_blocks(void) {
    void *blocks[] = {taut_malloc(0), taut_calloc(0, 8), taut_calloc(8, 0),
                      taut_realloc_array(NULL, 0, 4)};
    for (int i = 0; i < 4; i++) {
        CHECK(blocks[i] != NULL); /* NULL would mean out of memory */
        taut_free(blocks[i]);
    }
}

static void absurd_sizes(void) {
    taut_mem_stats before = stats();
    volatile size_t half = SIZE_MAX / 2 + 1, huge = SIZE_MAX;
    CHECK(taut_malloc(huge) == NULL);
    CHECK(taut_malloc(half) == NULL);
    CHECK(taut_calloc(half, 2) == NULL);
    CHECK(taut_calloc(huge, huge) == NULL);
    char *block = taut_malloc(10);
    CHECK(block != NULL);
    block[9] = 'x';
    CHECK(taut_realloc_array(block, half, 4) == NULL);
    CHECK_EQ(block[9], 'x'); /* still ours */
    taut_free(block);
    CHECK_EQ(stats().live_bytes, before.live_bytes);
}

static void one_failure(void) {
    taut_mem_fail_set(2, 0);
    void *a = taut_malloc(1), *b = taut_malloc(1), *c = taut_malloc(1);
    CHECK(a && !b && c);
    CHECK_EQ(taut_mem_fail_hits(), 1);
    taut_mem_fail_set(1, 0);
    CHECK_EQ(taut_mem_fail_hits(), 0);
    CHECK(taut_realloc_array(a, 100, 1) == NULL);
    CHECK_EQ(taut_mem_fail_hits(), 1);
    taut_mem_fail_set(0, 0);
    taut_free(a);
    taut_free(c);
}

static void failures_onwards(void) {
    taut_mem_fail_set(2, 1);
    void *a = taut_calloc(1, 1);
    CHECK(a != NULL);
    for (int i = 0; i < 5; i++)
        CHECK(taut_malloc(1) == NULL);
    CHECK_EQ(taut_mem_fail_hits(), 5);
    taut_mem_fail_set(0, 0);
    void *b = taut_malloc(1);
    CHECK(b != NULL);
    taut_free(a);
    taut_free(b);
}

static void *churn(void *arg) {
    for (int i = 0; i < 20000; i++) {
        void *p = taut_malloc((size_t)(i % 300));
        p = p ? taut_realloc_array(p, 3, 100) : NULL;
        CHECK(p != NULL);
        taut_free(p);
    }
    return arg;
}

static void many_threads(void) {
    taut_mem_stats before = stats();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, churn, NULL) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK_EQ(stats().allocs - before.allocs, 80000);
    CHECK_EQ(stats().frees - before.frees, 80000);
    CHECK_EQ(stats().live_bytes, before.live_bytes);
}

static const check_test tests[] = {CHECK_TEST(counts),           CHECK_TEST(empty_blocks),
                                   CHECK_TEST(absurd_sizes),     CHECK_TEST(one_failure),
                                   CHECK_TEST(failures_onwards), CHECK_TEST(many_threads)};
CHECK_MAIN(tests)
