#include "binding/stall_code.h"
#include "check.h"

#define SECOND UINT64_C(1000000000)

static taut_stack stack;

static uint32_t put(const char *text) {
    size_t size = strlen(text) + 1;
    uint32_t at = stack.text_size;
    memcpy(stack.text + at, text, size);
    stack.text_size += (uint32_t)size;
    return at;
}

typedef struct {
    const char *file, *name;
} frame;

/* A callback of the user's at frame `site`, asleep for a second; the last frame runs the loop. */
static taut_stall_signs signs(const frame *list, uint32_t count, uint32_t site) {
    memset(&stack, 0, sizeof stack);
    stack.text_size = 1;
    for (uint32_t i = 0; i < count; i++)
        stack.frames[i] =
            (taut_frame){.file = put(list[i].file), .name = put(list[i].name), .line = 7};
    stack.count = count;
    return (taut_stall_signs){.stack = &stack,
                              .site_at = site,
                              .site_is_user = 1,
                              .end = count - 1,
                              .coroutine = TAUT_STACK_NONE,
                              .sleeps = 1,
                              .lasted_ns = SECOND,
                              .threshold_ns = SECOND / 20};
}
#define SIGNS(list, site) signs(list, sizeof list / sizeof *list, site)

static void is(const taut_stall_signs *s, const char *code, uint32_t blame, const char *cause) {
    taut_stall_verdict v = taut_stall_judge(s);
    CHECK(v.code != NULL);
    if (strcmp(v.code, code) != 0 || strstr(v.cause, cause) == NULL)
        fprintf(stderr, "  %s: %s\n", v.code, v.cause);
    CHECK(strcmp(v.code, code) == 0);
    CHECK(strstr(v.cause, cause) != NULL && v.remedy != NULL);
    CHECK_EQ(v.blame, blame);
}

static const frame direct[] = {{"/srv/app.py", "main"}, {"/lib/taut/loop.py", "run"}};
static const frame by_requests[] = {{"/usr/lib/python3.11/socket.py", "SocketIO.readinto"},
                                    {"/usr/lib/python3.11/http/client.py", "HTTPResponse.begin"},
                                    {"/v/site-packages/urllib3/connection.py", "getresponse"},
                                    {"/v/site-packages/requests/api.py", "get"},
                                    {"/srv/app.py", "main"},
                                    {"/lib/taut/loop.py", "run"}};

static void the_users_call_counts(void) {
    taut_stall_signs s = SIGNS(by_requests, 4);
    is(&s, "sync-driver", 4, "requests waits");
    s.site_is_user = 0; /* all of it is installed: whoever called the library */
    s.site_at = 0;
    is(&s, "sync-driver", 4, "requests waits");
    s.cpu = 90; /* it computes in there */
    s.sleeps = 0;
    s.site_is_user = 1;
    s.site_at = 4;
    is(&s, "cpu-bound-step", 4, "computes");
    s.sleeps = 1; /* by now it waits */
    is(&s, "sync-driver", 4, "requests waits");
}

static void the_asynchronous_side_is_none(void) {
    static const frame redis[] = {{"/v/site-packages/redis/asyncio/client.py", "Redis.get"},
                                  {"/srv/app.py", "main"},
                                  {"/lib/taut/loop.py", "run"}};
    static const frame httpx[] = {{"/v/site-packages/httpx/_client.py", "AsyncClient.send"},
                                  {"/srv/app.py", "main"},
                                  {"/lib/taut/loop.py", "run"}};
    taut_stall_signs s = SIGNS(redis, 1);
    is(&s, "blocking-call", 1, "asleep in a call");
    s = SIGNS(httpx, 1);
    is(&s, "blocking-call", 1, "asleep in a call");
    s.blocked = TAUT_BLOCKED_DISK;
    is(&s, "blocking-call", 1, "file");
}

static void c_is_known_by_what_it_waits_for(void) {
    taut_stall_signs s = SIGNS(direct, 0);
    for (int i = TAUT_BLOCKED_UNKNOWN; i <= TAUT_BLOCKED_CHILD; i++) {
        s.blocked = (enum taut_blocked)i;
        is(&s, i == TAUT_BLOCKED_SOCKET ? "sync-driver" : "blocking-call", 0, "");
    }
    s.blocked = TAUT_BLOCKED_SLEEP;
    is(&s, "blocking-call", 0, "time.sleep()");
}

static void what_computes(void) {
    static const frame context[] = {{"/usr/lib/python3.11/ssl.py", "create_default_context"},
                                    {"/srv/app.py", "main"},
                                    {"/lib/taut/loop.py", "run"}};
    taut_stall_signs s = SIGNS(direct, 0);
    s.cpu = 97;
    is(&s, "cpu-bound-step", 0, "computes");
    s.moves = 1;
    is(&s, "cpu-bound-step", 0, "computes");
    s.lasted_ns = 5 * SECOND;
    is(&s, "never-yields", 0, "5 s");
    s.moves = 0; /* one call into C */
    is(&s, "cpu-bound-step", 0, "computes");
    s = SIGNS(context, 1);
    is(&s, "blocking-call", 1, "SSLContext");
    s.cpu = 97;
    is(&s, "cpu-bound-step", 1, "SSLContext");
}

static void starved_threads_are_not_to_blame(void) {
    taut_stall_signs s = SIGNS(direct, 0);
    s.lasted_ns = s.threshold_ns;
    s.cpu = 40;
    s.delay = 60;
    CHECK(taut_stall_judge(&s).code == NULL);
    s.lasted_ns = 3 * s.threshold_ns; /* with a CPU it would have been 1.2 thresholds */
    is(&s, "cpu-bound-step", 0, "computes");
    s.cpu = 0; /* and asleep for the rest */
    is(&s, "blocking-call", 0, "asleep");
    s.sleeps = 0; /* in line for a CPU, which nobody has counted yet */
    CHECK(taut_stall_judge(&s).code == NULL);
}

static void the_rest(void) {
    taut_stall_signs s = SIGNS(direct, 0);
    s.in_signal = 1;
    is(&s, "slow-signal-handler", 0, "signal");
    s.awaits_gil = 1;
    is(&s, "gil-held", TAUT_STALL_GIL_HOLDER, "GIL");
    s.in_gc = 1;
    is(&s, "gc-pause", TAUT_STALL_NOBODY, "garbage");
    s.collects = 1;
    is(&s, "gc-pause", 0, "gc.collect()");
    s = SIGNS(direct, 0);
    s.end = 0; /* it is in the loop itself */
    is(&s, "blocking-call", TAUT_STALL_NOBODY, "own code");
    s.blocked = TAUT_BLOCKED_LOCK;
    is(&s, "gil-held", TAUT_STALL_NOBODY, "GIL");
    s.cpu = 97;
    CHECK(taut_stall_judge(&s).code == NULL);
}

static const check_test tests[] = {CHECK_TEST(the_users_call_counts),
                                   CHECK_TEST(the_asynchronous_side_is_none),
                                   CHECK_TEST(c_is_known_by_what_it_waits_for),
                                   CHECK_TEST(what_computes),
                                   CHECK_TEST(starved_threads_are_not_to_blame),
                                   CHECK_TEST(the_rest)};
CHECK_MAIN(tests)
