/* What the doctor has found out about this process: a bounded table of findings. Any thread adds,
 * with or without the GIL, and any thread reads; a short lock is all it takes. What is found again
 * is counted and not listed twice. When the table is full, the finding that was seen last the
 * longest ago makes room.
 *
 * All texts are UTF-8, copied, and cut where they are too long. Times are CLOCK_REALTIME, since a
 * finding is read beside the logs of other machines. After fork() the child's table is empty. */
#ifndef TAUT_IO_FINDINGS_H
#define TAUT_IO_FINDINGS_H

#include <stddef.h>
#include <stdint.h>
#include "base/json_out.h"

#define TAUT_FINDINGS_MAX 128

enum taut_finding_state {
    TAUT_FINDING_SEEN = 0,    /* an event that is over as soon as it is told */
    TAUT_FINDING_ONGOING = 1, /* it lasts; somebody will say when it is over */
    TAUT_FINDING_OVER = 2,
};

typedef struct {
    uint64_t id;     /* from 1 on, never used again */
    uint64_t change; /* grows with each change of any finding */
    uint64_t count;  /* how often it was found */
    uint64_t first_ns, last_ns;
    uint64_t key;   /* what makes two findings the same: of code, file, line and function */
    int state;      /* enum taut_finding_state */
    int line;       /* 0: none */
    char code[40];  /* stable: "blocking-call", ...; docs/findings has a page for each */
    char file[256]; /* as in a traceback; "" when no line is to blame */
    char function[128];
    char cause[480];     /* one sentence */
    char remedy[640];    /* one sentence, with the code to write instead */
    char evidence[2400]; /* lines: counts, times, stacks */
} taut_finding;

/* What to add; NULL texts are empty. */
typedef struct {
    const char *code, *file, *function, *cause, *remedy, *evidence;
    int line;
    enum taut_finding_state state;
} taut_finding_new;

/* Adds it or, when there is one of the same code, file, line and function, counts that one once
 * more and replaces its texts and state. Returns its id, 0 when the user does not want to hear of
 * it (io/ignore.h). Takes no memory. */
uint64_t taut_findings_add(const taut_finding_new *f);
/* Replaces evidence (NULL: stays) and state of a finding without counting it again. 0, or -ENOENT:
 * it has made room for another one. */
int taut_findings_update(uint64_t id, const char *evidence, enum taut_finding_state state);
/* What was added has turned out to be something else: as if taut_findings_add had been called once
 * less. What was found that once only is gone; else it is over. */
void taut_findings_withdraw(uint64_t id);
/* Copies the finding that changed first after `change` (0: of all). 1, or 0 when there is none. */
int taut_findings_next(uint64_t change, taut_finding *out);
/* Copies the finding of that id. 1, or 0 when it has made room for another one. */
int taut_findings_get(uint64_t id, taut_finding *out);
/* The newest change, 0 while there was none. One relaxed load. */
uint64_t taut_findings_change(void);
/* Forgets all. */
void taut_findings_clear(void);
/* One finding as a JSON object; times in seconds since the epoch. */
void taut_findings_write(taut_json_out *w, const taut_finding *f);

/* Waits until something has changed after `change`, until somebody calls taut_findings_wake, or for
 * the time until_ns (TAUT_NEVER_NS: none). Returns the newest change. Not with the GIL held. */
uint64_t taut_findings_wait(uint64_t change, uint64_t until_ns);
/* Lets go of all that wait now. */
void taut_findings_wake(void);
/* `fn` is called after each change, on whatever thread made it, without the lock; NULL: nobody. It
 * must be quick and may not add findings. */
void taut_findings_on_change(void (*fn)(void));

#endif
