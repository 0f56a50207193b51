/* base/hist: bucket edges, the error bound, quantiles against a sorted array. */
#include "base/hist.h"
#include "check.h"
#include "random.h"

static taut_hist hist;

static void buckets_tile_the_range(void) {
    CHECK_EQ(taut_hist_bucket_low(0), 0);
    for (unsigned b = 0; b < TAUT_HIST_BUCKETS; b++) {
        uint64_t low = taut_hist_bucket_low(b), high = taut_hist_bucket_high(b);
        CHECK(low <= high);
        CHECK_EQ(taut_hist_bucket(low), b);
        CHECK_EQ(taut_hist_bucket(high), b);
        if (b + 1 < TAUT_HIST_BUCKETS)
            CHECK(taut_hist_bucket_low(b + 1) == high + 1);
        else
            CHECK(high == UINT64_MAX);
    }
}

static void relative_error_is_bounded(void) {
    uint64_t rnd = 1;
    for (int i = 0; i < 200000; i++) {
        uint64_t v = random_next(&rnd) >> random_below(&rnd, 64);
        unsigned b = taut_hist_bucket(v);
        CHECK(b < TAUT_HIST_BUCKETS);
        uint64_t low = taut_hist_bucket_low(b), high = taut_hist_bucket_high(b);
        CHECK(low <= v && v <= high);
        CHECK(high - v <= v / 16);
    }
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void quantiles(void) {
    static uint64_t values[10000];
    static const double qs[] = {0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
    for (uint64_t seed = 0; seed < 10; seed++) {
        uint64_t rnd = seed, sum = 0;
        size_t n = 1 + random_below(&rnd, 10000);
        taut_hist_init(&hist);
        for (size_t i = 0; i < n; i++) {
            values[i] = random_next(&rnd) >> (10 + random_below(&rnd, 50));
            sum += values[i];
            taut_hist_add(&hist, values[i]);
        }
        qsort(values, n, sizeof *values, compare);
        CHECK_EQ(hist.count, n);
        CHECK_EQ(hist.sum, sum);
        CHECK_EQ(hist.max, values[n - 1]);
        for (size_t i = 0; i < sizeof qs / sizeof *qs; i++) {
            size_t rank = (size_t)(qs[i] * (double)n);
            rank += (double)rank < qs[i] * (double)n;
            uint64_t exact = values[rank ? rank - 1 : 0];
            uint64_t got = taut_hist_quantile(&hist, qs[i]);
            CHECK(got >= exact && got - exact <= exact / 16);
            CHECK(got <= values[n - 1]);
        }
    }
}

static void corners(void) {
    taut_hist_init(&hist);
    CHECK_EQ(taut_hist_quantile(&hist, 0.5), 0);
    taut_hist_add(&hist, 1000);
    CHECK_EQ(taut_hist_quantile(&hist, 0), 1000); /* never above the largest */
    CHECK_EQ(taut_hist_quantile(&hist, 1), 1000);
    taut_hist_add(&hist, UINT64_MAX);
    CHECK(taut_hist_quantile(&hist, 1) == UINT64_MAX);
    CHECK(taut_hist_quantile(&hist, 0.5) >= 1000 && taut_hist_quantile(&hist, 0.5) <= 1062);
    taut_hist_init(&hist);
    taut_hist_add(&hist, 0);
    CHECK_EQ(taut_hist_quantile(&hist, 1), 0);
}

static const check_test tests[] = {CHECK_TEST(buckets_tile_the_range),
                                   CHECK_TEST(relative_error_is_bounded), CHECK_TEST(quantiles),
                                   CHECK_TEST(corners)};
CHECK_MAIN(tests)
