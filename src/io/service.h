/* Threads that serve the doctor, beside the watchdog: plain C that never takes the GIL, with every
 * signal blocked, a small stack and, where the kernel permits it, an fd table of their own
 * (io/private_fds.h). */
#ifndef TAUT_IO_SERVICE_H
#define TAUT_IO_SERVICE_H

#include <pthread.h>
#include "base/assert.h"
#include "io/loop.h"

/* Starts `main_fn(arg)`. Returns once the thread has left the process's fd table, so that it never
 * takes a number there which the program is about to use. `name`: at most 15 bytes, static. 0 with
 * *thread, which is to be joined or detached, or a negative error. */
int taut_service_start(pthread_t *thread, const char *name, void *(*main_fn)(void *arg),
                       void *arg) TAUT_MUST_USE;
/* taut_loop_wake for a thread with an fd table of its own. The caller keeps the loop open. */
void taut_service_wake_loop(taut_loop *l);

#endif
