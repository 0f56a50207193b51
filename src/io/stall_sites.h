/* Which places in the code have stalled, and which of them may be told of again: a new one at once,
 * then less and less often, a second apart and later ten minutes, unless it got much worse. What is
 * kept back is counted. Pure; a table of fixed size, whose oldest entry makes room. */
#ifndef TAUT_IO_STALL_SITES_H
#define TAUT_IO_STALL_SITES_H

#include <stdint.h>

#define TAUT_STALL_LABEL_MAX 320
#define TAUT_STALL_SITES_KEPT 64

typedef struct {
    uint64_t hash; /* 0: free */
    uint64_t shown_ns, quiet_ns;
    uint64_t longest_shown_ns;
    uint64_t unshown, longest_unshown_ns;
    char label[TAUT_STALL_LABEL_MAX];
} taut_stall_spot;

/* Zeroed memory is an empty table. */
typedef struct {
    taut_stall_spot at[TAUT_STALL_SITES_KEPT];
} taut_stall_sites;

/* The site of that hash, NULL when it is not known. */
taut_stall_spot *taut_stall_sites_find(taut_stall_sites *sites, uint64_t hash);
/* The same, made when there is none; `label` (of TAUT_STALL_LABEL_MAX bytes) is what it is called
 * from now on. */
taut_stall_spot *taut_stall_sites_take(taut_stall_sites *sites, uint64_t hash, const char *label);
/* One that has been quiet about something for long and seems to be over; with `all`, any that has
 * been quiet. NULL: none. */
taut_stall_spot *taut_stall_sites_quiet(taut_stall_sites *sites, uint64_t now_ns, int all);
/* Whether a stall of the site that has lasted so long may be told. */
int taut_stall_site_may_speak(const taut_stall_spot *s, uint64_t now_ns, uint64_t lasted_ns);
/* It is told. How many were not since the last one that was. */
uint64_t taut_stall_site_speaks(taut_stall_spot *s, uint64_t now_ns, uint64_t lasted_ns);
/* A stall of the site is over, of which was told or not. */
void taut_stall_site_over(taut_stall_spot *s, uint64_t lasted_ns, int was_told);

#endif
