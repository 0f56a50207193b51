/* Readiness by epoll, level-triggered. A taut_watch is one fd's registration, embedded in whatever
 * owns the fd; the poller owns nothing but the epoll fd and a slot table.
 * Each registration carries a generation, so an event fetched before a watch was removed (or its
 * fd number reused) never reaches the wrong callback. One thread: the loop's. */
#ifndef TAUT_IO_POLLER_H
#define TAUT_IO_POLLER_H

#include <stdint.h>
#include "base/assert.h"
#include "io/pulse.h"

#define TAUT_READ 1u
#define TAUT_WRITE 2u
/* Error or hang-up; always comes with the wanted directions set as well. epoll reports it even for
 * an empty interest, so a watch that wants nothing gets a bare TAUT_HUP and should be removed; a
 * later taut_poller_want registers it again. */
#define TAUT_HUP 4u

typedef struct taut_poller taut_poller;
typedef struct taut_watch taut_watch;
/* Called during taut_poller_dispatch. It may remove or free its own watch, or any other. */
typedef void (*taut_watch_fn)(taut_watch *w, uint32_t events);

struct taut_watch {
    int fd;
    uint32_t slot;  /* TAUT_WATCH_NO_SLOT when not registered */
    uint32_t want;  /* directions the owner wants now */
    uint32_t armed; /* directions the kernel has */
    int foreign;    /* the fd belongs to the user, who may close and reuse its number */
    taut_watch_fn fn;
};
#define TAUT_WATCH_NO_SLOT UINT32_MAX

int taut_poller_new(taut_poller **out) TAUT_MUST_USE; /* 0 or negative error */
void taut_poller_free(taut_poller *p);                /* watches still in are forgotten */
int taut_poller_fd(const taut_poller *p);

void taut_watch_init(taut_watch *w, int fd, taut_watch_fn fn);
/* Owned fds (foreign == 0). Adding a direction reaches the kernel at once; dropping one is lazy:
 * the kernel is told only when an event comes that nobody wants. want == 0 keeps the slot.
 * 0 or a negative error with `want` unchanged. */
int taut_poller_want(taut_poller *p, taut_watch *w, uint32_t want) TAUT_MUST_USE;
/* Foreign fds: each call issues epoll_ctl and recovers from ENOENT (the number was closed and
 * reused) and EEXIST (a dup). want == 0 disarms in the kernel. -EPERM: a regular file. */
int taut_poller_arm(taut_poller *p, taut_watch *w, uint32_t want) TAUT_MUST_USE;
/* Forgets the watch; its callback never runs again. `fd_open` 0: the fd is already closed, or is
 * about to be by its only owner, so that no epoll_ctl is needed. Harmless when not registered. */
void taut_poller_remove(taut_poller *p, taut_watch *w, int fd_open);

/* Waits up to timeout_ns (0: do not wait, TAUT_NEVER_NS: for ever) and keeps the events; returns
 * how many, 0 on timeout, -EINTR, or another negative error. Dispatch calls the callbacks. */
int taut_poller_wait(taut_poller *p, uint64_t timeout_ns) TAUT_MUST_USE;
void taut_poller_dispatch(taut_poller *p);
/* Only the foreign watches' callbacks; returns how many events are left for taut_poller_dispatch,
 * which must come before the next wait to find them. */
int taut_poller_dispatch_foreign(taut_poller *p);
/* From a callback of the dispatch: it is the last. The other events come back with the next wait,
 * being level-triggered. */
void taut_poller_cut(taut_poller *p);
/* A new epoll instance with all that is registered in the old one; 0, or a negative error with the
 * old one kept. A poller inherited by fork() takes nothing out of the parent's instance, and is
 * renewed by the first call that has to register or to wait. */
int taut_poller_renew(taut_poller *p);
/* Every callback of a dispatch becomes a step of `pulse` (NULL: none), which must outlive the
 * poller. */
void taut_poller_set_pulse(taut_poller *p, taut_pulse *pulse);
/* Watches registered now. */
uint32_t taut_poller_count(const taut_poller *p);

#endif
