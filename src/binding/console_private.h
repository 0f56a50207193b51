/* What console.c (the loops' side) and console_answer.c (the thread's) share. */
#ifndef TAUT_BINDING_CONSOLE_PRIVATE_H
#define TAUT_BINDING_CONSOLE_PRIVATE_H

#include "binding/console.h"
#include "binding/listing.h"
#include "io/console.h"

enum taut_cancel_state {
    TAUT_CANCEL_FREE = 0,
    TAUT_CANCEL_QUEUED,  /* for whichever loop comes first */
    TAUT_CANCEL_TAKEN,   /* by one */
    TAUT_CANCEL_ASKED,   /* the task's cancel() has said yes, or is queued on its loop */
    TAUT_CANCEL_REFUSED, /* it has said no */
    TAUT_CANCEL_GONE,    /* there is no such task */
};

/* On the console's thread, without the GIL. */

/* Lets a live loop list all tasks: 1 with the members of a JSON array appended to `out` and whether
 * they are all there; 0: no loop has come. */
int taut_console_ask_tasks(taut_buf *out, int *complete);
/* Queues the cancellation of the task at that address, with that name unless it is "", and waits a
 * moment for what comes of it. TAUT_CANCEL_FREE: the queue is full. */
enum taut_cancel_state taut_console_ask_cancel(const void *task, const char *name);
/* The loops that run, as an array. */
void taut_console_put_loops(taut_json_out *w);

/* console_answer.c: one request, see io/console.h. */
int taut_console_answer(const char *request, taut_buf *out, taut_console_rest *rest);

#endif
