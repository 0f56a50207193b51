/* The console: the thread "taut-console" answers questions about this process on a Unix socket, and
 * gives its metrics on a TCP port if one was asked for, whatever the loops and the interpreter are
 * doing. A request on the Unix socket is one line; the answer is one JSON document, and then the
 * end. While nobody asks, the thread sleeps in one poll(2) without a timeout. A client has two
 * seconds to send its request, as long between any two reads of the answer, and ten in all.
 *
 * Any thread, but for the ops. After fork() the child has no console until it starts its own. */
#ifndef TAUT_IO_CONSOLE_H
#define TAUT_IO_CONSOLE_H

#include "base/buf.h"
#include "io/console_place.h"

/* The rest of a long answer, made as the client reads. `more` appends a piece: 1: there is more; 0:
 * that was all; a negative error: it is broken off. NULL: there is no rest. `free` comes once. */
typedef struct {
    int (*more)(void *ctx, taut_buf *out);
    void (*free)(void *ctx);
    void *ctx;
} taut_console_rest;

/* On the console's thread, one at a time. 0, or a negative error: the client hears nothing, and
 * there is no rest. */
typedef struct {
    int (*answer)(const char *request, taut_buf *out, taut_console_rest *rest);
    int (*metrics)(taut_buf *out); /* NULL: there are none */
} taut_console_ops;

/* Starts it, unless it runs or the place is nowhere. Where it cannot listen there is no console;
 * that of the metrics is said on stderr. 0, or a negative error: no thread. */
int taut_console_start(const taut_console_place *place, const taut_console_ops *ops);
/* Removes its socket, for good: the process ends. At exit() this happens by itself. */
void taut_console_leave(void);
/* Ends it and removes its socket; it may be started again. */
void taut_console_stop(void);
/* The kernel's id of the thread, 0 when there is none. For tests and tools. */
int taut_console_thread_id(void);

#endif
