/* Who has the interpreter's lock (GIL) and who waits for it, seen from a thread that does neither.
 * Any thread, without the GIL. Where the interpreter's layout is not known, or the kernel does not
 * tell what a thread sleeps in, the answers are "unknown". */
#ifndef TAUT_BINDING_GIL_H
#define TAUT_BINDING_GIL_H

#include <sys/types.h>
#include "io/thread_stat.h"

/* Whether a thread that sleeps in this call waits for the GIL: 1, 0, or -1: unknown. */
int taut_gil_is_awaited(const taut_thread_call *call);
/* The thread that holds the GIL, or held it last, unless it is `tstate`'s: 0 with its state (which
 * may be stale) and its id as the kernel counts, else -1. */
int taut_gil_holder(const void *tstate, const void **holder, pid_t *native_id);

#endif
