/* When the journal is to hear again of a finding that it has: at once when it has lasted and is
 * over, or lasts longer than it ever did; else after 1 s, 10 s, a minute, and ten minutes from then
 * on, however often it was found meanwhile. An hour of silence makes it new. Pure: no clock, no
 * memory. */
#ifndef TAUT_IO_PACE_H
#define TAUT_IO_PACE_H

#include "io/findings.h"

/* Zeroed: of a finding that was never written. */
typedef struct {
    uint64_t count; /* as written last, 0: never */
    int state;
    uint64_t written_ns, quiet_ns;
    /* Since when it has been seen to be ongoing, found for the how manieth time; and how long that
     * has to last to be told before the time. */
    uint64_t run_ns, run_count, lasting_ns;
} taut_pace;

/* It has been found `count` times and is in this state: when that is to be written, at once where
 * this is not after now_ns; TAUT_NEVER_NS: it stands there already. */
uint64_t taut_pace_due(taut_pace *p, uint64_t count, int state, uint64_t now_ns);
/* It was written so. */
void taut_pace_written(taut_pace *p, uint64_t count, int state, uint64_t now_ns);

#endif
