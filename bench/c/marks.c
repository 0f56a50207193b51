/* What counting.py loads under callgrind: counts begin and end at calls of these. */
#include <valgrind/callgrind.h>

void bench_mark_begin(void);
void bench_mark_end(const char *name);

void bench_mark_begin(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

/* Writes what was counted since, as a file of its own which `name` describes. */
void bench_mark_end(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
