/* Whom a stall delays: the tasks that stand in the loop's ready queue and those whose timers are
 * overdue, read from memory while the loop stalls, as frames.h reads frames. The loop itself does
 * and pays nothing for it. Loops of ours only. */
#ifndef TAUT_BINDING_VICTIMS_H
#define TAUT_BINDING_VICTIMS_H

#include <stddef.h>
#include <stdint.h>
#include "io/loop.h"

#define TAUT_VICTIMS_LISTED 20
#define TAUT_VICTIMS_DUE_MAX 128
#define TAUT_VICTIMS_REQUESTS_MAX 256

typedef struct {
    uint32_t tasks, others; /* in the ready queue */
    uint32_t due_count;     /* timers that are overdue or will be soon */
    struct {
        uint64_t due_ns;
        int is_task;
    } due[TAUT_VICTIMS_DUE_MAX];
    uint32_t listed;
    struct {
        uint64_t due_ns; /* 0: it is in the ready queue */
        int line;        /* where it was made; 0: unknown */
        char name[40], file[40];
    } at[TAUT_VICTIMS_LISTED];
    uint32_t requests; /* that these tasks work for, but the one whose step is the stall */
    struct {
        const void *request; /* what it is known by, not to be looked into */
        uint64_t due_ns;
        int route; /* of io/routes.h, -1: not known yet */
    } request[TAUT_VICTIMS_REQUESTS_MAX];
} taut_victims;

/* On the watchdog's thread, without the GIL. Timers up to `until_ns` are noted, so that a stall
 * which lasts until then is accounted for. `core` is that of a taut_pyloop that runs. */
void taut_victims_take(const taut_loop *core, uint64_t until_ns, taut_victims *out);
/* "delayed 3 tasks by up to 0.4 s: Task-3 (app.py:12), ..." and a newline, of a stall from since_ns
 * to now_ns; nothing when there were none. Returns the size. */
size_t taut_victims_say(const taut_victims *v, uint64_t since_ns, uint64_t now_ns, char *to,
                        size_t room);
/* "delayed 3 requests: GET /items/{id} 2 (up to 0.4 s), ..." in the same way. */
size_t taut_victims_say_requests(const taut_victims *v, uint64_t since_ns, uint64_t now_ns,
                                 char *to, size_t room);

#endif
