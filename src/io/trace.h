/* What the flight recorders of all loops have (io/recorder.h), as a trace in Chrome's JSON format,
 * which ui.perfetto.dev and chrome://tracing show: an object with "traceEvents". Each loop has a
 * track of its turns and waits, of its callbacks, of its collections and of its stalls; each task
 * has one of its steps. Times are microseconds of CLOCK_MONOTONIC.
 *
 * Steps and callbacks between two looks at a clock share the time between them evenly, which their
 * "args" say ("of": among how many), except that one which stalled has what the watchdog measured.
 * The first and the last of a turn include what the loop itself did before and behind them.
 *
 * The text is made piece by piece. It needs 1.1 MiB while it is made, and 24 bytes for each task in
 * it, up to 3 MiB. One thread at a time, any; without the GIL. */
#ifndef TAUT_IO_TRACE_H
#define TAUT_IO_TRACE_H

#include "base/buf.h"
#include "io/recorder.h"

/* What things are called, for people. Each writes at most `room` bytes, not terminated, and says
 * how many; 0: it is not known. `ctx` is theirs. */
typedef struct {
    /* A task that has not ended, of the loop whose recorder this is, made before `before_ns`; its
     * place, too, when that is 0. */
    size_t (*task)(void *ctx, const taut_recorder *of, const void *task, uint64_t before_ns,
                   uint64_t *place, char *to, size_t room);
    /* value and more of a CALL; more and 0 of an ENDED. */
    size_t (*object)(void *ctx, uint64_t value, uint64_t more, char *to, size_t room);
    /* `more` of a CREATED or QUEUED. */
    size_t (*place)(void *ctx, uint64_t more, char *to, size_t room);
    void (*free)(void *ctx);
} taut_trace_names;

typedef struct taut_trace taut_trace;
/* Owns `ctx` from then on. NULL when memory is out; then ctx has been freed. */
taut_trace *taut_trace_new(const taut_trace_names *names, void *ctx);
/* Appends the next piece, of 64 KiB or somewhat more. 1: there is more; 0: that was all, or a
 * negative error: the trace is not whole. */
int taut_trace_more(taut_trace *t, taut_buf *out) TAUT_MUST_USE;
void taut_trace_free(taut_trace *t);

#endif
