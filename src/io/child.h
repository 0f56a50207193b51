/* A child process until its end is known. Its pidfd tells the poller; the child is reaped once, by
 * waitid(2) on this very process, on whatever thread asks first. No signal handler takes part, and
 * a signal that we send never reaches a later process of the same number.
 *
 * Where the kernel has no pidfd, a thread waits for the child without reaping it and closes a pipe,
 * whose other end takes the place of the pidfd.
 *
 * The calls for one child come one after another (the binding's under the GIL), those that name a
 * loop on its thread. */
#ifndef TAUT_IO_CHILD_H
#define TAUT_IO_CHILD_H

#include <sys/types.h>
#include "io/poller.h"

typedef struct taut_child taut_child;
struct taut_child {
    pid_t pid;
    int pidfd;   /* -1: none */
    int exit_fd; /* readable once it has ended: the pidfd or a pipe; -1 until watched */
    enum { TAUT_CHILD_RUNS, TAUT_CHILD_ENDED, TAUT_CHILD_LOST } state;
    int code; /* exit code, or the negative number of the signal that ended it */
    taut_watch watch;
    taut_poller *poller; /* NULL unless watched */
    void (*ended)(taut_child *c);
};
/* What a child that somebody else has reaped is taken to have returned, as in asyncio. */
#define TAUT_CHILD_LOST_CODE 255

/* No child: as one that is lost. To be freed, or initialised again. */
void taut_child_init_none(taut_child *c);
/* Takes `pidfd`; -1: one is opened for the pid, where the kernel has them. */
void taut_child_init(taut_child *c, pid_t pid, int pidfd);
/* `ended` is called once, from the poller's dispatch, with c->state and c->code set; it may free
 * the child. 0 or negative error. */
int taut_child_watch(taut_child *c, taut_poller *p, void (*ended)(taut_child *c)) TAUT_MUST_USE;
/* `ended` will not be called. Harmless when not watched. */
void taut_child_unwatch(taut_child *c);
/* Reaps it if it has ended; 1 when it has (or when somebody else has reaped it), 0 while it runs.
 * Never waits. */
int taut_child_poll(taut_child *c);
/* 0, also when it has ended already; negative error. */
int taut_child_signal(taut_child *c, int signum);
/* Gives back the fds. It is neither killed nor reaped. */
void taut_child_free(taut_child *c);

#endif
