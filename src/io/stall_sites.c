#include "io/stall_sites.h"

#include <string.h>

#include "base/clock.h"

#define QUIET_NS TAUT_NS_PER_S /* between two reports of a site: doubles from here ... */
#define QUIET_MAX_NS (600 * TAUT_NS_PER_S) /* ... to here */
#define FORGET_NS (3600 * TAUT_NS_PER_S)   /* after which it is as good as new */
#define OVER_NS (60 * TAUT_NS_PER_S)       /* quiet for so long: nothing seems to follow */
#define MUCH_WORSE 4

static uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

taut_stall_spot *taut_stall_sites_find(taut_stall_sites *sites, uint64_t hash) {
    for (int i = 0; i < TAUT_STALL_SITES_KEPT; i++)
        if (sites->at[i].hash == hash)
            return &sites->at[i];
    return NULL;
}

taut_stall_spot *taut_stall_sites_take(taut_stall_sites *sites, uint64_t hash, const char *label) {
    taut_stall_spot *s = taut_stall_sites_find(sites, hash);
    if (s == NULL && (s = taut_stall_sites_find(sites, 0)) == NULL) {
        s = &sites->at[0];
        for (int i = 1; i < TAUT_STALL_SITES_KEPT; i++)
            if (sites->at[i].shown_ns < s->shown_ns)
                s = &sites->at[i];
        s->hash = 0;
    }
    if (s->hash == 0)
        *s = (taut_stall_spot){.hash = hash};
    memcpy(s->label, label, sizeof s->label);
    return s;
}

taut_stall_spot *taut_stall_sites_quiet(taut_stall_sites *sites, uint64_t now_ns, int all) {
    for (int i = 0; i < TAUT_STALL_SITES_KEPT; i++) {
        taut_stall_spot *s = &sites->at[i];
        if (s->hash != 0 && s->unshown > 0 &&
            (all || now_ns - s->shown_ns >= max_u64(s->quiet_ns, OVER_NS)))
            return s;
    }
    return NULL;
}

int taut_stall_site_may_speak(const taut_stall_spot *s, uint64_t now_ns, uint64_t lasted_ns) {
    return s->shown_ns == 0 || now_ns - s->shown_ns >= s->quiet_ns ||
           lasted_ns / MUCH_WORSE >= max_u64(s->longest_shown_ns, 1);
}

uint64_t taut_stall_site_speaks(taut_stall_spot *s, uint64_t now_ns, uint64_t lasted_ns) {
    uint64_t unshown = s->unshown;
    if (s->shown_ns == 0 || now_ns - s->shown_ns > FORGET_NS)
        s->quiet_ns = QUIET_NS;
    else if ((s->quiet_ns *= 2) > QUIET_MAX_NS)
        s->quiet_ns = QUIET_MAX_NS;
    s->shown_ns = now_ns;
    s->longest_shown_ns = max_u64(s->longest_shown_ns, lasted_ns);
    s->unshown = s->longest_unshown_ns = 0;
    return unshown;
}

void taut_stall_site_over(taut_stall_spot *s, uint64_t lasted_ns, int was_told) {
    if (was_told) {
        s->longest_shown_ns = max_u64(s->longest_shown_ns, lasted_ns);
        return;
    }
    s->unshown++;
    s->longest_unshown_ns = max_u64(s->longest_unshown_ns, lasted_ns);
}
