/* io/stall_sites: who may speak, and when. */
#include <stdio.h>

#include "base/clock.h"
#include "check.h"
#include "io/stall_sites.h"

#define S TAUT_NS_PER_S
#define MS TAUT_NS_PER_MS

static taut_stall_sites table;
static char label[TAUT_STALL_LABEL_MAX] = "at a.py:3 in f";

/* A stall of 60 ms that is over. Whether it was told. */
static int stalls(uint64_t hash, uint64_t now_ns, uint64_t lasted_ns) {
    taut_stall_spot *s = taut_stall_sites_take(&table, hash, label);
    int speaks = taut_stall_site_may_speak(s, now_ns, lasted_ns);
    if (speaks)
        (void)taut_stall_site_speaks(s, now_ns, lasted_ns);
    taut_stall_site_over(s, lasted_ns, speaks);
    return speaks;
}

static void a_site_speaks_less_and_less_often(void) {
    static const uint64_t expected_s[] = {100, 101, 103, 107,  115,  131, 163,
                                          227, 355, 611, 1123, 1723, 2323};
    size_t told = 0;
    table = (taut_stall_sites){0};
    for (uint64_t now_ns = 100 * S; now_ns < 2500 * S; now_ns += 100 * MS)
        if (stalls(7, now_ns, 60 * MS)) {
            CHECK(told < sizeof expected_s / sizeof *expected_s);
            CHECK_EQ(now_ns / S, expected_s[told]);
            told++;
        }
    CHECK_EQ(told, sizeof expected_s / sizeof *expected_s);
}

static void another_site_or_a_much_longer_stall_speaks_at_once(void) {
    table = (taut_stall_sites){0};
    CHECK(stalls(7, 100 * S, 60 * MS));
    CHECK(!stalls(7, 100 * S + 1, 60 * MS));
    CHECK(stalls(8, 100 * S + 2, 60 * MS));
    CHECK(!stalls(7, 100 * S + 3, 239 * MS));
    CHECK(stalls(7, 100 * S + 4, 240 * MS));
}

static void what_was_kept_back_is_counted(void) {
    table = (taut_stall_sites){0};
    CHECK(stalls(7, 100 * S, 60 * MS));
    CHECK(taut_stall_sites_quiet(&table, 200 * S, 1) == NULL);
    CHECK(!stalls(7, 100 * S + 1, 60 * MS));
    CHECK(!stalls(7, 100 * S + 2, 80 * MS));
    CHECK(taut_stall_sites_quiet(&table, 150 * S, 0) == NULL);
    taut_stall_spot *s = taut_stall_sites_quiet(&table, 150 * S, 1);
    CHECK(s != NULL && s == taut_stall_sites_quiet(&table, 160 * S, 0));
    CHECK_EQ(s->longest_unshown_ns, 80 * MS);
    CHECK_EQ(taut_stall_site_speaks(s, 160 * S, 80 * MS), 2);
    CHECK(taut_stall_sites_quiet(&table, 900 * S, 1) == NULL);
}

static void after_an_hour_it_begins_anew(void) {
    table = (taut_stall_sites){0};
    for (uint64_t now_ns = 100 * S; now_ns < 3000 * S; now_ns += S)
        (void)stalls(7, now_ns, 60 * MS);
    CHECK(stalls(7, 9000 * S, 60 * MS));
    CHECK(!stalls(7, 9000 * S + 500 * MS, 60 * MS));
    CHECK(stalls(7, 9001 * S, 60 * MS));
}

static void the_oldest_makes_room(void) {
    table = (taut_stall_sites){0};
    for (uint64_t hash = 1; hash <= TAUT_STALL_SITES_KEPT; hash++)
        CHECK(stalls(hash, (100 + hash) * S, 60 * MS));
    CHECK(stalls(1000, 500 * S, 60 * MS));
    CHECK(taut_stall_sites_find(&table, 1) == NULL);
    CHECK(taut_stall_sites_find(&table, 2) != NULL);
    CHECK(taut_stall_sites_find(&table, 1000) != NULL);
}

static const check_test tests[] = {
    CHECK_TEST(a_site_speaks_less_and_less_often),
    CHECK_TEST(another_site_or_a_much_longer_stall_speaks_at_once),
    CHECK_TEST(what_was_kept_back_is_counted),
    CHECK_TEST(after_an_hour_it_begins_anew),
    CHECK_TEST(the_oldest_makes_room),
};
CHECK_MAIN(tests)
