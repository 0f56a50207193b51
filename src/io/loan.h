/* A file descriptor that the user lends to the loop, and the blocking mode that it is given back
 * with. The mode belongs to the open file description, which may be shared: with duplicates, with
 * processes that inherited it, and in the case of the standard streams with the shell.
 *
 *  - A socket is not touched: each call on it says for itself that it must not wait.
 *  - A terminal or an anonymous pipe that is one of the process's standard streams is opened once
 *    more, non-blocking, so that print() and other processes go on as before.
 *  - Anything else becomes non-blocking, and blocking again when the last transport that shares
 *    its description has returned it.
 *
 * Callers serialise all calls of the process (the binding by the GIL). No allocation. */
#ifndef TAUT_IO_LOAN_H
#define TAUT_IO_LOAN_H

#include <stdint.h>
#include "base/assert.h"
#include "base/list.h"

enum { TAUT_LOAN_OTHER = 0, TAUT_LOAN_PIPE, TAUT_LOAN_SOCKET, TAUT_LOAN_CHARACTER };

typedef struct {
    taut_list link; /* of all loans; unlinked: not taken, or returned */
    int kind;       /* TAUT_LOAN_... */
    int fd;         /* the user's number */
    int own_fd;     /* what to work on instead: ours, closed when returned; -1: `fd` itself */
    int restore;    /* whether the description is to block again */
    uint32_t forks; /* of the process that took it */
    uint64_t device, inode;
} taut_loan;

/* Looks at the fd (fstat) without touching it: fills `loan`; the kind, or a negative error. */
int taut_loan_inspect(taut_loan *loan, int fd) TAUT_MUST_USE;
/* After inspect. `busy`: something else of this loop watches the number, and epoll knows only one
 * registration of a number. 0 or a negative error with nothing changed. */
int taut_loan_take(taut_loan *loan, int busy) TAUT_MUST_USE;
/* What to read, write and poll. */
static inline int taut_loan_fd(const taut_loan *loan) {
    return loan->own_fd >= 0 ? loan->own_fd : loan->fd;
}
/* From now on taut_loan_fd is a number of our own. 0 or a negative error. */
int taut_loan_duplicate(taut_loan *loan) TAUT_MUST_USE;
/* Whether taut_loan_fd still is the file that was lent: the user may have closed the number, and
 * it may name another file by now. */
int taut_loan_is_intact(const taut_loan *loan);
/* Idempotent. In a forked child, which shares the description with its parent, nothing but our own
 * fd is closed. The user's fd stays open, and must not have been closed before, if it is to block
 * again. */
void taut_loan_return(taut_loan *loan);

#endif
