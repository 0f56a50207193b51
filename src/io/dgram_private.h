/* What dgram.c (state, queue, closing) and dgram_read.c share. */
#ifndef TAUT_IO_DGRAM_PRIVATE_H
#define TAUT_IO_DGRAM_PRIVATE_H

#include <errno.h>
#include "io/dgram.h"

/* dgram_read.c. One readiness event: a bounded number of datagrams. */
void taut_dgram_read_event(taut_dgram *d);
/* Delivers what was kept, as far as it may be. */
void taut_dgram_kept_deliver(taut_dgram *d);
void taut_dgram_kept_drop(taut_dgram *d);
/* dgram.c. Ends the socket with an error, unless it has ended already. */
void taut_dgram_break(taut_dgram *d, int err);

static inline int taut_dgram_would_block(ssize_t rc) {
    return rc == -EAGAIN || rc == -EINTR;
}

#endif
