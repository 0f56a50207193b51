/* io/routes: what is the same route, the bound, cut texts, how they are written. */
#include <stdio.h>
#include <string.h>
#include "check.h"
#include "io/metrics.h"
#include "io/routes.h"

static unsigned find(const char *method, const char *path) {
    return taut_routes_find(method, strlen(method), path, strlen(path));
}

static void finds_the_same(void) {
    unsigned before = taut_routes_count();
    unsigned get = find("GET", "/a"), post = find("POST", "/a"), longer = find("GET", "/ab");
    CHECK(get != post && post != longer && get != longer);
    CHECK_EQ(find("GET", "/a"), get);
    CHECK_EQ(find("POST", "/a"), post);
    CHECK_EQ(find("GET", "/ab"), longer);
    CHECK_EQ(strcmp(taut_routes_at(post)->method, "POST"), 0);
    CHECK_EQ(strcmp(taut_routes_at(post)->path, "/a"), 0);
    CHECK_EQ(taut_routes_count(), before + 3);
}

static void cuts_long_texts(void) {
    char path[300];
    memset(path, 'x', sizeof path);
    path[0] = '/';
    memcpy(path + TAUT_ROUTE_PATH_MAX - 2, "\xc3\xa9", 2); /* would be cut in two */
    unsigned i = taut_routes_find("GET", 3, path, sizeof path);
    CHECK_EQ(strlen(taut_routes_at(i)->path), TAUT_ROUTE_PATH_MAX - 2);
    CHECK_EQ(taut_routes_find("GET", 3, path, sizeof path), i);
    unsigned m = find("A-METHOD-THAT-IS-LONG", "/");
    CHECK_EQ(strlen(taut_routes_at(m)->method), TAUT_ROUTE_METHOD_MAX - 1);
}

static void writes_them(void) {
    unsigned i = find("GET", "/a\"b\\c\n");
    atomic_store(&taut_routes_at(i)->requests, 7);
    atomic_store(&taut_routes_at(i)->lag_ns, 1500000000);
    taut_buf text;
    taut_buf_init(&text);
    CHECK_EQ(taut_metrics_write(&text), 0);
    CHECK_EQ(taut_buf_append(&text, "", 1), 0);
    const char *all = (const char *)taut_buf_bytes(&text);
    CHECK(strstr(all, "\ntaut_route_requests_total{method=\"GET\","
                      "route=\"/a\\\"b\\\\c\\n\"} 7\n"));
    CHECK(strstr(all, "\ntaut_route_lag_seconds_total{method=\"GET\","
                      "route=\"/a\\\"b\\\\c\\n\"} 1.500000000\n"));
    CHECK(!strstr(all, "route=\"other\"")); /* nothing was counted there */
    taut_buf_free(&text);
}

static void is_bounded(void) {
    char path[32];
    for (int i = 0; i < 3 * TAUT_ROUTES_MAX; i++) {
        snprintf(path, sizeof path, "/%d", i);
        CHECK(find("GET", path) < TAUT_ROUTES_MAX);
    }
    CHECK_EQ(taut_routes_count(), TAUT_ROUTES_MAX);
    CHECK_EQ(find("GET", "/one-more"), TAUT_ROUTE_OTHER);
    CHECK(find("GET", "/0") != TAUT_ROUTE_OTHER); /* those that are there stay */
    CHECK_EQ(strcmp(taut_routes_at(TAUT_ROUTE_OTHER)->path, "other"), 0);
}

static const check_test tests[] = {
    CHECK_TEST(finds_the_same),
    CHECK_TEST(cuts_long_texts),
    CHECK_TEST(writes_them),
    CHECK_TEST(is_bounded),
};
CHECK_MAIN(tests)
