/* io/findings: what is the same finding, who makes room, cut texts, waiting, forks, memory. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "check.h"
#include "io/findings.h"

static taut_finding got;

static uint64_t add(const char *code, const char *file, int line) {
    return taut_findings_add(&(taut_finding_new){
        .code = code, .file = file, .line = line, .cause = "why", .remedy = "do", .evidence = "e"});
}

static int count_all(void) {
    int n = 0;
    for (uint64_t change = 0; taut_findings_next(change, &got); change = got.change)
        n++;
    return n;
}

static void same_is_counted(void) {
    uint64_t id = add("blocking-call", "app.py", 7);
    CHECK(id > 0);
    CHECK(add("blocking-call", "app.py", 8) != id);
    CHECK(add("gc-pause", "app.py", 7) != id);
    CHECK_EQ(count_all(), 3);
    uint64_t before = taut_findings_change();
    CHECK_EQ(taut_findings_add(&(taut_finding_new){.code = "blocking-call",
                                                   .file = "app.py",
                                                   .line = 7,
                                                   .cause = "newer",
                                                   .state = TAUT_FINDING_ONGOING}),
             id);
    CHECK_EQ(count_all(), 3);
    CHECK(taut_findings_next(before, &got));
    CHECK_EQ(got.id, id);
    CHECK_EQ(got.count, 2);
    CHECK_EQ(got.state, TAUT_FINDING_ONGOING);
    CHECK_EQ(strcmp(got.cause, "newer"), 0);
    CHECK_EQ(strcmp(got.evidence, ""), 0);
    CHECK(got.first_ns <= got.last_ns);
    CHECK(!taut_findings_next(got.change, &got));
    taut_findings_clear();
    CHECK_EQ(count_all(), 0);
}

static void updates(void) {
    uint64_t id = add("shutdown-hung", "", 0);
    CHECK_EQ(taut_findings_update(id, NULL, TAUT_FINDING_OVER), 0);
    CHECK(taut_findings_next(0, &got));
    CHECK_EQ(got.state, TAUT_FINDING_OVER);
    CHECK_EQ(got.count, 1);
    CHECK_EQ(strcmp(got.evidence, "e"), 0);
    CHECK_EQ(taut_findings_update(id, "more", TAUT_FINDING_OVER), 0);
    CHECK(taut_findings_next(0, &got));
    CHECK_EQ(strcmp(got.evidence, "more"), 0);
    CHECK_EQ(taut_findings_update(id + 1, "x", TAUT_FINDING_SEEN), -2 /* ENOENT */);
    taut_findings_clear();
}

static void oldest_makes_room(void) {
    uint64_t first = add("code", "f.py", 1), second = add("code", "f.py", 2);
    for (int line = 3; line <= TAUT_FINDINGS_MAX; line++)
        CHECK(add("code", "f.py", line) > 0);
    CHECK_EQ(add("code", "f.py", 1), first); /* seen again: no longer the oldest */
    uint64_t newest = add("code", "f.py", 1000);
    CHECK(newest > 0);
    CHECK_EQ(count_all(), TAUT_FINDINGS_MAX);
    int seen_first = 0, seen_second = 0, seen_newest = 0;
    for (uint64_t change = 0; taut_findings_next(change, &got); change = got.change) {
        seen_first |= got.id == first;
        seen_second |= got.id == second;
        seen_newest |= got.id == newest;
    }
    CHECK(seen_first && seen_newest && !seen_second);
    taut_findings_clear();
}

static void texts_are_cut(void) {
    char file[600], cause[2000];
    memset(file, 'f', sizeof file - 1);
    memset(cause, 0, sizeof cause);
    for (size_t i = 0; i + 3 < sizeof cause; i += 3)
        memcpy(cause + i, "\xe2\x82\xac", 3);
    file[sizeof file - 1] = '\0';
    uint64_t id = taut_findings_add(&(taut_finding_new){.code = "c", .file = file, .cause = cause});
    CHECK(taut_findings_next(0, &got));
    CHECK_EQ(strlen(got.file), sizeof got.file - 1);
    CHECK_EQ(strlen(got.cause) % 3, 0); /* no half character */
    CHECK(strlen(got.cause) > sizeof got.cause - 4);
    /* Found again, the cut name is the same name. */
    CHECK_EQ(taut_findings_add(&(taut_finding_new){.code = "c", .file = file}), id);
    taut_findings_clear();
}

static void json(void) {
    taut_buf buf;
    taut_json_out w;
    taut_findings_add(&(taut_finding_new){
        .code = "c", .cause = "a \"b\"", .evidence = "one\n\ntwo", .file = "x.py", .line = 3});
    CHECK(taut_findings_next(0, &got));
    taut_buf_init(&buf);
    taut_json_out_init(&w, &buf);
    taut_findings_write(&w, &got);
    CHECK_EQ(taut_json_out_end(&w), 0);
    CHECK_EQ(taut_buf_append(&buf, "", 1), 0);
    const char *text = (const char *)taut_buf_bytes(&buf);
    CHECK(strstr(text, "\"code\":\"c\",\"state\":\"seen\",\"count\":1,") != NULL);
    CHECK(
        strstr(text, "\"file\":\"x.py\",\"line\":3,\"function\":\"\",\"cause\":\"a \\\"b\\\"\"") !=
        NULL);
    CHECK(strstr(text, "\"evidence\":[\"one\",\"\",\"two\"]}") != NULL);
    taut_buf_free(&buf);
    taut_findings_clear();
}

static _Atomic int told;
static void on_change(void) {
    atomic_fetch_add(&told, 1);
}

static void *wait_main(void *arg) {
    *(uint64_t *)arg = taut_findings_wait(*(uint64_t *)arg, TAUT_NEVER_NS);
    return NULL;
}

static void waiting(void) {
    pthread_t thread;
    uint64_t change = taut_findings_change(), before = change;
    taut_findings_on_change(on_change);
    CHECK_EQ(pthread_create(&thread, NULL, wait_main, &change), 0);
    add("code", "w.py", 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(change > before);
    CHECK_EQ(atomic_load(&told), 1);
    CHECK(taut_findings_wait(before, TAUT_NEVER_NS) == change); /* it has changed already */
    uint64_t until_ns = taut_clock_now_ns() + 20 * TAUT_NS_PER_MS;
    CHECK(taut_findings_wait(change, until_ns) == change);
    CHECK(taut_clock_now_ns() >= until_ns);
    taut_findings_on_change(NULL);
    taut_findings_clear();
}

static void forked_child_starts_empty(void) {
    add("code", "f.py", 1);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        int ok = count_all() == 0 && add("code", "f.py", 2) > 0 && count_all() == 1;
        taut_findings_clear();
        _exit(ok ? 0 : 1);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(count_all(), 1);
    taut_findings_clear();
}

static void withdrawn(void) {
    taut_finding f;
    uint64_t once = add("code", "w.py", 1), twice = add("code", "w.py", 2);
    CHECK(taut_findings_get(once, &f) && f.id == once && f.line == 1);
    CHECK_EQ(add("code", "w.py", 2), twice);
    taut_findings_withdraw(once);
    taut_findings_withdraw(once); /* is gone: harmless */
    CHECK(!taut_findings_get(once, &f));
    CHECK_EQ(count_all(), 1);
    uint64_t change = taut_findings_change();
    taut_findings_withdraw(twice);
    CHECK(taut_findings_next(change, &f) && f.id == twice && f.count == 1);
    CHECK_EQ(f.state, TAUT_FINDING_OVER);
    taut_findings_withdraw(twice);
    CHECK_EQ(count_all(), 0);
}

static void without_memory(void) {
    taut_mem_fail_set(1, 1);
    uint64_t id = add("code", "m.py", 1);
    taut_mem_fail_set(0, 0);
    CHECK(id > 0);
    CHECK_EQ(count_all(), 1);
    taut_findings_clear();
}

static const check_test tests[] = {CHECK_TEST(same_is_counted),
                                   CHECK_TEST(updates),
                                   CHECK_TEST(oldest_makes_room),
                                   CHECK_TEST(texts_are_cut),
                                   CHECK_TEST(json),
                                   CHECK_TEST(waiting),
                                   CHECK_TEST(forked_child_starts_empty),
                                   CHECK_TEST(withdrawn),
                                   CHECK_TEST(without_memory)};
CHECK_MAIN(tests)
