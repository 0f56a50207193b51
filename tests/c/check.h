/* What every C test uses: checks that end the process, a list of tests, and the walk through every
 * allocation of a scenario.
 *   static const check_test tests[] = {CHECK_TEST(name), ...};
 *   CHECK_MAIN(tests)
 * `test_x NAME` runs that one only. */
#ifndef TAUT_TESTS_CHECK_H
#define TAUT_TESTS_CHECK_H

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"

typedef struct {
    const char *name;
    void (*run)(void);
} check_test;

#define CHECK_TEST(name)                                                                           \
    { #name, name }

#define CHECK(e)                                                                                   \
    do {                                                                                           \
        if (!(e))                                                                                  \
            check_fail(__FILE__, __LINE__, #e);                                                    \
    } while (0)

/* Integers only; prints both sides. */
#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        intmax_t check_a_ = (intmax_t)(a), check_b_ = (intmax_t)(b);                               \
        if (check_a_ != check_b_) {                                                                \
            fprintf(stderr, "  %s = %" PRIdMAX ", %s = %" PRIdMAX "\n", #a, check_a_, #b,          \
                    check_b_);                                                                     \
            check_fail(__FILE__, __LINE__, #a " == " #b);                                          \
        }                                                                                          \
    } while (0)

/* What is being done, for the message of a failed check: set by check_every_allocation. */
static uint64_t check_failing_nth __attribute__((unused));
static int check_failing_onwards __attribute__((unused));

_Noreturn static inline void check_fail(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what);
    if (check_failing_nth)
        fprintf(stderr, "  with allocation %" PRIu64 "%s failing\n", check_failing_nth,
                check_failing_onwards ? " and all later ones" : "");
    fflush(NULL);
    _Exit(1);
}

/* It has limits of its own on descriptors, threads and children. */
static inline int check_under_valgrind(void) {
    const char *preloaded = getenv("LD_PRELOAD");
    return preloaded != NULL && strstr(preloaded, "vgpreload") != NULL;
}

/* Open file descriptors of this process. */
static inline int check_fd_count(void) {
    int n = -1; /* the directory's own */
    DIR *d = opendir("/proc/self/fd");
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* Runs `scenario` once undisturbed, then with its allocation 1, 2, ... N failing, alone and with
 * all later ones; each time nothing may leak, and undisturbed it still works afterwards.
 * `scenario` gets 1 when allocations may fail: then it checks only what must hold even so. */
static inline void check_every_allocation(void (*scenario)(int may_fail)) {
    taut_mem_stats before, after;
    scenario(0);
    int fds = check_fd_count();
    for (int onwards = 0; onwards < 2; onwards++) {
        for (uint64_t nth = 1, hits = 1; hits > 0; nth++) {
            CHECK(nth < 10000);
            taut_mem_stats_get(&before);
            check_failing_nth = nth;
            check_failing_onwards = onwards;
            taut_mem_fail_set(nth, onwards);
            scenario(1);
            hits = taut_mem_fail_hits();
            taut_mem_fail_set(0, 0);
            taut_mem_stats_get(&after);
            CHECK_EQ(after.live_blocks, before.live_blocks);
            CHECK_EQ(check_fd_count(), fds);
        }
    }
    check_failing_nth = 0;
    scenario(0);
}

static inline int check_main(const check_test *tests, size_t count, int argc, char **argv) {
    int ran = 0;
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
            continue;
        printf("%s\n", tests[i].name);
        fflush(stdout);
        tests[i].run();
        ran++;
    }
    if (!ran)
        fprintf(stderr, "no such test\n");
    return ran ? 0 : 2;
}

#define CHECK_MAIN(tests)                                                                          \
    int main(int argc, char **argv) {                                                              \
        return check_main(tests, sizeof(tests) / sizeof *(tests), argc, argv);                     \
    }

#endif
