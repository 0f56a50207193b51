/* A small pool of native threads for calls that block in libc (getaddrinfo). Threads start on
 * demand up to a maximum, block every signal, and end after 10 s of idleness. Never takes the GIL.
 */
#ifndef TAUT_IO_THREADPOOL_H
#define TAUT_IO_THREADPOOL_H

#include <stdint.h>
#include "base/assert.h"
#include "base/list.h"

typedef struct taut_threadpool taut_threadpool;
typedef struct taut_job taut_job;
struct taut_job {
    taut_list link;
    void (*work)(taut_job *j); /* on a pool thread */
    void (*done)(taut_job *j); /* on the same pool thread right after; hands the job back */
    int state;
};

int taut_threadpool_new(taut_threadpool **out, unsigned threads_max) TAUT_MUST_USE;
/* How long a thread waits for work before it ends (10 s). For threads that begin to wait later. */
void taut_threadpool_set_idle_ns(taut_threadpool *tp, uint64_t idle_ns);
/* Threads alive now. Any thread. */
unsigned taut_threadpool_threads(taut_threadpool *tp);
/* Threads alive, and jobs that wait for one. Any thread. */
void taut_threadpool_counts(taut_threadpool *tp, unsigned *threads, unsigned *queued);
/* Takes the job until `done`. 0, -ENOMEM or -EAGAIN when no thread could start. Any thread, as long
 * as the pool has not been released. */
int taut_threadpool_submit(taut_threadpool *tp, taut_job *j) TAUT_MUST_USE;
/* 1: taken back before it began (neither work nor done will run); 0: too late. Any thread,
 * and only before the release. */
int taut_threadpool_cancel(taut_threadpool *tp, taut_job *j);
/* Refuses new jobs, drops those not begun (their `done` runs on the calling thread with state
 * TAUT_JOB_DROPPED), waits for nothing: running threads free the pool when the last one ends. The
 * pool must not be used afterwards. NULL allowed. */
void taut_threadpool_release(taut_threadpool *tp);
enum { TAUT_JOB_QUEUED = 1, TAUT_JOB_RUNNING, TAUT_JOB_DONE, TAUT_JOB_DROPPED };

#endif
