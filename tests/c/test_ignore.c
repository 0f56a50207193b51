/* io/ignore: what is a rule, what it matches, how many there can be; findings ask it. */
#include <errno.h>
#include <stdio.h>
#include "check.h"
#include "io/findings.h"
#include "io/ignore.h"

static int add(const char *rule) {
    return taut_ignore_add(rule, strlen(rule));
}

static void what_is_no_rule(void) {
    static const char *const bad[] = {"",  "Code",  "a b", "@a.py", "code@", "code@:7",
                                      "-", "code1", "**",  "*a",    "co*",   "code:3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_EQ(add(bad[i]), -EINVAL);
    char text[400];
    memset(text, 'a', sizeof text);
    CHECK_EQ(taut_ignore_add(text, 40), -EINVAL);
    text[1] = '@';
    CHECK_EQ(taut_ignore_add(text, 2 + 256), -EINVAL);
    CHECK(!taut_ignores("code", "a.py", 7));
}

static void codes_files_lines(void) {
    CHECK_EQ(add("gc-pause"), 0);
    CHECK(taut_ignores("gc-pause", "", 0));
    CHECK(taut_ignores("gc-pause", "/srv/app.py", 7));
    CHECK(!taut_ignores("gc-pauses", "", 0));
    CHECK(!taut_ignores("gc", "", 0));

    CHECK_EQ(add("sync-driver@old/db.py"), 0);
    CHECK(taut_ignores("sync-driver", "/srv/old/db.py", 7));
    CHECK(taut_ignores("sync-driver", "old/db.py", 0));
    CHECK(!taut_ignores("sync-driver", "/srv/cold/db.py", 7));
    CHECK(!taut_ignores("sync-driver", "db.py", 7));
    CHECK(!taut_ignores("sync-driver", "", 0));

    CHECK_EQ(add("deadlock@app.py:12"), 0);
    CHECK(taut_ignores("deadlock", "/srv/app.py", 12));
    CHECK(!taut_ignores("deadlock", "/srv/app.py", 1));
    CHECK(!taut_ignores("deadlock", "/srv/app.py", 0));

    CHECK_EQ(add("*@/vendored.py"), 0);
    CHECK(taut_ignores("anything", "/srv/vendored.py", 3));
    CHECK(!taut_ignores("anything", "/srv/unvendored.py", 3));

    CHECK_EQ(add("nested-run@odd:name.py"), 0); /* no line */
    CHECK(taut_ignores("nested-run", "/srv/odd:name.py", 3));
}

static void findings_ask(void) {
    CHECK_EQ(add("gc-pause"), 0);
    CHECK_EQ(taut_findings_add(&(taut_finding_new){.code = "gc-pause"}), 0);
    CHECK_EQ(taut_findings_change(), 0);
    CHECK(taut_findings_add(&(taut_finding_new){.code = "deadlock", .file = "a.py"}) > 0);
    taut_findings_clear();
}

static void lists(void) {
    const char *bad = NULL;
    size_t size = 0;
    CHECK_EQ(taut_ignore_add_all("", &bad, &size), 0);
    CHECK_EQ(taut_ignore_add_all(" fd-growth, ,time-wait@a.py:3,", &bad, &size), 0);
    CHECK(taut_ignores("fd-growth", "", 0) && taut_ignores("time-wait", "a.py", 3));
    CHECK_EQ(taut_ignore_add_all("nested-run,Wrong,worse!,retry-storm", &bad, &size), -EINVAL);
    CHECK_EQ(size, 5);
    CHECK_EQ(memcmp(bad, "Wrong", 5), 0);
    CHECK(taut_ignores("retry-storm", "", 0));
}

static void there_is_an_end(void) {
    char rule[40];
    int taken = 0, rc = add("gc-pause");
    for (int i = 0; rc == 0 && i < 2 * TAUT_IGNORE_MAX; i++) {
        snprintf(rule, sizeof rule, "queue-growth@a.py:%d", i + 1);
        taken += (rc = add(rule)) == 0;
    }
    CHECK_EQ(rc, -ENOSPC);
    CHECK(taken > 0 && taken < TAUT_IGNORE_MAX);
    CHECK_EQ(add("gc-pause"), 0); /* it is there */
    CHECK_EQ(add("host-starved"), -ENOSPC);
}

static const check_test tests[] = {CHECK_TEST(what_is_no_rule), CHECK_TEST(codes_files_lines),
                                   CHECK_TEST(findings_ask), CHECK_TEST(lists),
                                   CHECK_TEST(there_is_an_end)};
CHECK_MAIN(tests)
