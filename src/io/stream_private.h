/* What stream.c (state, reading, closing) and stream_write.c (queue, flushing) share. */
#ifndef TAUT_IO_STREAM_PRIVATE_H
#define TAUT_IO_STREAM_PRIVATE_H

#include "io/stream.h"

/* Ends the stream with an error, unless it has ended already. */
void taut_stream_break(taut_stream *s, int err);
/* Stops all I/O, drops the queue and schedules closed(err). */
void taut_stream_finish(taut_stream *s, int err);
/* End-of-turn work: flush, or deliver a `closed` that the ready queue could not take. */
void taut_stream_turn_end(void *arg);
void taut_stream_closed_deliver(void *arg);
/* Asks for writability, or gives it up. 0 or negative error. */
int taut_stream_want_write(taut_stream *s, int on) TAUT_MUST_USE;
/* Nothing is left to send: carries out what waited for that. */
void taut_stream_drained(taut_stream *s);
/* stream_sendfile.c: the queue is empty, send from s->file. Returns 1 when the struct is gone. */
int taut_stream_sendfile_go(taut_stream *s) TAUT_MUST_USE;
/* Ends the sending from a file, if one is under way, with an error. */
void taut_stream_sendfile_fail(taut_stream *s, int err);
/* Releases every segment and the queue's storage. */
void taut_stream_queue_drop(taut_stream *s);

/* Runs `call` (which may detach, and its owner free, the stream); 1 when the struct is gone. */
#define TAUT_STREAM_CALL(s, call)                                                                  \
    __extension__({                                                                                \
        int gone_ = 0, *outer_ = (s)->gone;                                                        \
        (s)->gone = &gone_;                                                                        \
        call;                                                                                      \
        if (!gone_)                                                                                \
            (s)->gone = outer_;                                                                    \
        else if (outer_)                                                                           \
            *outer_ = 1;                                                                           \
        gone_;                                                                                     \
    })

#endif
