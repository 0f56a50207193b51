/* io/pace: how often the journal hears of a finding that comes again and again. */
#include "base/clock.h"
#include "check.h"
#include "io/pace.h"

enum { SEEN = TAUT_FINDING_SEEN, ONGOING = TAUT_FINDING_ONGOING, OVER = TAUT_FINDING_OVER };

static taut_pace pace;
static uint64_t now_ns;

/* What the reporter does with a change or when it was told to come again: 1 when it writes. */
static int looks(uint64_t count, int state) {
    uint64_t due_ns = taut_pace_due(&pace, count, state, now_ns);
    if (due_ns > now_ns)
        return 0;
    taut_pace_written(&pace, count, state, now_ns);
    return 1;
}

static void begin(void) {
    pace = (taut_pace){.count = 0};
    now_ns = 1000 * TAUT_NS_PER_S;
}

static void a_finding_that_lasts_is_told_at_once_and_at_its_end(void) {
    begin();
    CHECK(looks(1, ONGOING));
    CHECK_EQ(taut_pace_due(&pace, 1, ONGOING, now_ns), TAUT_NEVER_NS); /* its evidence changed */
    now_ns += TAUT_NS_PER_MS;
    CHECK(looks(1, OVER));
    CHECK(!looks(1, OVER));
}

static void one_that_comes_again_is_told_at_growing_intervals(void) {
    static const uint64_t expected_s[] = {0, 1, 11, 71, 671, 1271, 1871};
    uint64_t told_s[16], count = 0;
    size_t told = 0;
    begin();
    for (uint64_t ms = 0; ms <= 2000 * 1000; ms += 100, now_ns += 100 * TAUT_NS_PER_MS)
        if (looks(++count, SEEN))
            told_s[told++] = ms / 1000;
    CHECK_EQ(told, sizeof expected_s / sizeof *expected_s);
    for (size_t i = 0; i < told; i++)
        CHECK_EQ(told_s[i], expected_s[i]);
}

static void what_was_put_off_is_due_later_without_another_change(void) {
    begin();
    CHECK(looks(1, SEEN));
    now_ns += TAUT_NS_PER_MS;
    uint64_t due_ns = taut_pace_due(&pace, 7, SEEN, now_ns);
    CHECK_EQ(due_ns, 1001 * TAUT_NS_PER_S);
    now_ns = due_ns;
    CHECK(looks(7, SEEN));
}

/* Stalls of 60 ms, ten in a second, each seen while it lasts and when it is over. */
static void short_stalls_in_a_row_are_told_when_they_are_over(void) {
    int lines = 0, ongoing = 0;
    begin();
    for (uint64_t count = 1; count <= 600; count++) {
        int began = looks(count, ONGOING);
        now_ns += 60 * TAUT_NS_PER_MS;
        lines += began + looks(count, OVER);
        ongoing += began;
        now_ns += 40 * TAUT_NS_PER_MS;
    }
    CHECK_EQ(ongoing, 1);
    CHECK_EQ(lines, 4); /* the first one's begin and end, after 1 s, after 10 s */
}

static void one_that_is_always_seen_while_it_lasts_is_told_all_the_same(void) {
    int lines = 0;
    begin();
    for (uint64_t count = 1; count <= 600; count++, now_ns += 100 * TAUT_NS_PER_MS)
        lines += looks(count, ONGOING);
    CHECK(lines >= 3 && lines <= 4);
}

static void a_hang_after_short_ones_is_told_while_it_lasts(void) {
    begin();
    CHECK(looks(1, SEEN));
    for (uint64_t count = 2; count < 700; count++, now_ns += 100 * TAUT_NS_PER_MS)
        (void)looks(count, OVER);
    CHECK(!looks(800, ONGOING));
    uint64_t due_ns = taut_pace_due(&pace, 800, ONGOING, now_ns);
    CHECK_EQ(due_ns, now_ns + TAUT_NS_PER_S);
    now_ns = due_ns;
    CHECK(looks(800, ONGOING));
    now_ns += 60 * TAUT_NS_PER_S;
    CHECK(looks(800, OVER)); /* its end too */
    /* The next one has to be worse to be told before the time. */
    CHECK(!looks(801, ONGOING));
    CHECK_EQ(taut_pace_due(&pace, 801, ONGOING, now_ns), now_ns + 2 * TAUT_NS_PER_S);
}

static void after_an_hour_it_is_new(void) {
    begin();
    CHECK(looks(1, SEEN));
    for (uint64_t count = 2; count < 1000; count++, now_ns += TAUT_NS_PER_S)
        (void)looks(count, SEEN);
    now_ns += 2 * 3600 * TAUT_NS_PER_S;
    CHECK(looks(2000, SEEN));
    now_ns += TAUT_NS_PER_S;
    CHECK(looks(2001, SEEN));
}

static const check_test tests[] = {
    CHECK_TEST(a_finding_that_lasts_is_told_at_once_and_at_its_end),
    CHECK_TEST(one_that_comes_again_is_told_at_growing_intervals),
    CHECK_TEST(what_was_put_off_is_due_later_without_another_change),
    CHECK_TEST(short_stalls_in_a_row_are_told_when_they_are_over),
    CHECK_TEST(one_that_is_always_seen_while_it_lasts_is_told_all_the_same),
    CHECK_TEST(a_hang_after_short_ones_is_told_while_it_lasts),
    CHECK_TEST(after_an_hour_it_is_new),
};
CHECK_MAIN(tests)
