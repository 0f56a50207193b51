#include "io/pace.h"

#include "base/clock.h"

#define FORGET_NS (3600 * TAUT_NS_PER_S)

static const uint64_t quiet_ns[] = {TAUT_NS_PER_S, 10 * TAUT_NS_PER_S, 60 * TAUT_NS_PER_S,
                                    600 * TAUT_NS_PER_S};
#define LEVELS (sizeof quiet_ns / sizeof *quiet_ns)
#define LASTING_NS TAUT_NS_PER_S

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

uint64_t taut_pace_due(taut_pace *p, uint64_t count, int state, uint64_t now_ns) {
    if (count == p->count && state == p->state)
        return TAUT_NEVER_NS;
    if (p->count == 0 || count == p->count)
        return now_ns;
    uint64_t due_ns = p->written_ns + p->quiet_ns;
    if (state != TAUT_FINDING_ONGOING)
        return due_ns;
    if (p->run_count != count) {
        p->run_count = count;
        p->run_ns = now_ns;
    }
    /* Its end, which may come in a moment, is worth waiting for. */
    return min_u64(p->run_ns + p->lasting_ns, due_ns + p->quiet_ns);
}

static uint64_t next_quiet(const taut_pace *p, uint64_t now_ns) {
    size_t level = 0;
    if (now_ns - p->written_ns < FORGET_NS)
        while (level < LEVELS - 1 && quiet_ns[level] <= p->quiet_ns)
            level++;
    return quiet_ns[level];
}

void taut_pace_written(taut_pace *p, uint64_t count, int state, uint64_t now_ns) {
    uint64_t lasted_ns =
        state == TAUT_FINDING_ONGOING && p->run_count == count ? now_ns - p->run_ns : 0;
    if (p->count == 0) {
        p->quiet_ns = quiet_ns[0];
        p->lasting_ns = LASTING_NS;
    } else if (count != p->count) {
        p->quiet_ns = next_quiet(p, now_ns);
        if (lasted_ns >= p->lasting_ns)
            p->lasting_ns = 2 * lasted_ns;
    }
    p->count = count;
    p->state = state;
    p->written_ns = now_ns;
}
