/* From what was seen of a stall to what it is: the code of the finding, whom to blame, and texts.
 * Pure: no call of the system or of the interpreter. */
#ifndef TAUT_BINDING_STALL_CODE_H
#define TAUT_BINDING_STALL_CODE_H

#include "binding/stall_remedy.h"

#define TAUT_NEVER_YIELDS_NS (UINT64_C(5) * 1000000000)

typedef struct {
    const taut_stack *stack;
    uint32_t site_at;   /* the user's innermost frame that the loop has called ... */
    int site_is_user;   /* ... or, where there is none, any: */
    uint32_t end;       /* frames from here on run the loop; 0: it has called nothing */
    uint32_t coroutine; /* the user's innermost frame of a coroutine, or TAUT_STACK_NONE */
    uint64_t lasted_ns, threshold_ns;
    unsigned cpu, delay;       /* percent of the time: on a CPU, waiting for one */
    int sleeps;                /* at this very moment ... */
    enum taut_blocked blocked; /* ... for this */
    int in_gc, collects;       /* a collection runs; the program has asked for it */
    int awaits_gil;            /* and another thread has it */
    int moves;                 /* the stack has changed during the stall */
    int in_signal;             /* the handler of a signal runs */
} taut_stall_signs;

/* Where to put the blame when it is no frame of the stack. */
#define TAUT_STALL_NOBODY UINT32_MAX
#define TAUT_STALL_GIL_HOLDER (UINT32_MAX - 1)

typedef struct {
    const char *code; /* NULL: nothing that can be said of it; the texts are then not set */
    const char *cause, *remedy;
    uint32_t blame; /* a frame of the stack */
} taut_stall_verdict;

taut_stall_verdict taut_stall_judge(const taut_stall_signs *s);

#endif
