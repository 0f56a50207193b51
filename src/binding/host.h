/* Whether the host gives a loop's thread the CPU that it asks for: the finding host-starved. */
#ifndef TAUT_BINDING_HOST_H
#define TAUT_BINDING_HOST_H

#include <stdint.h>
#include <sys/types.h>
#include "io/pulse.h"

typedef struct {
    uint64_t last_ns, sequence; /* of the latest look, and ... */
    int was_active;             /* ... whether the loop had moved until then */
    uint64_t mark_ns, mark_delay_ns, late_ns;
    uint64_t id; /* of the finding while it is ongoing, else 0 */
} taut_host_watch;

/* On the watchdog's thread, at each of its looks at a loop; reads /proc once a second at most. A
 * look that comes late says that the whole process was stopped, or starved. */
void taut_host_look(taut_host_watch *h, const taut_pulse *pulse, pid_t native_id, uint64_t now_ns);

#endif
