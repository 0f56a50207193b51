/* What the latest capture of a stall has seen, for what is told of it (stall.c) and what becomes of
 * it among the findings (stall_find.c). The watchdog's thread only: it tells right after it
 * captured. */
#ifndef TAUT_BINDING_STALL_H
#define TAUT_BINDING_STALL_H

#include "binding/gil.h"
#include "binding/watch.h"

#define TAUT_STALL_TASK_MAX 400

typedef struct {
    taut_stack stack;
    int have_stack, refused;
    uint32_t site_at, end; /* as in taut_stall_signs */
    int site_is_user;
    uint64_t stack_hash;
    char cause[512];
    char task[TAUT_STALL_TASK_MAX]; /* the task's name; "" when none */
    char request[200];              /* that it works for; "" when none is known */
    char state;                     /* of the loop's thread, as in /proc/self/task/N/stat */
    unsigned cpu, delay;            /* percent since the last sample with progress */
    int in_gc, in_signal;
    enum taut_blocked blocked;
    /* Another thread holds the GIL, for which the loop's thread waits. */
    int awaits_gil;
    pid_t holder_id;
    taut_stack holder;
    uint32_t holder_site;
} taut_stall_evidence;
extern taut_stall_evidence taut_stall_now;

/* The innermost frame among the first `end` that is the user's own, *is_user; else the innermost of
 * all. */
uint32_t taut_stall_site(const taut_stack *s, uint32_t end, int *is_user);
void taut_stall_say_duration(char *to, size_t size, uint64_t ns);

#endif
