/* The plain build of io/sys.h: writing without SIGPIPE where no flag keeps it away. Include
 * io/sys.h instead.
 *
 * No flag keeps a write to a pipe from raising SIGPIPE. CPython ignores the signal, but a program
 * that embeds it, or that calls signal(SIGPIPE, SIG_DFL), does not. A handler of the program's own
 * is left to run, as it does with asyncio. */
#ifndef TAUT_IO_SYS_PIPE_H
#define TAUT_IO_SYS_PIPE_H

#include <signal.h>
#include <sys/uio.h>
#include <time.h>
#include "io/sys_linux.h"

typedef struct {
    sigset_t old;
    int masked, pending;
} taut_sys_pipe_mask;

static inline int taut_sys_sigpipe_ends(void) {
    struct sigaction now;
    return sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL;
}

/* With `guard`, blocks the signal for the time of one call. */
static inline void taut_sys_pipe_mask_begin(taut_sys_pipe_mask *m, int guard) {
    sigset_t only, pending;
    m->masked = guard;
    if (!guard)
        return;
    sigemptyset(&only);
    sigaddset(&only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &only, &m->old);
    sigemptyset(&pending);
    sigpending(&pending);
    m->pending = sigismember(&pending, SIGPIPE);
}

/* Takes back the signal that the call has raised: it goes to the thread that writes. */
static inline void taut_sys_pipe_mask_end(const taut_sys_pipe_mask *m, ssize_t rc) {
    const struct timespec at_once = {0};
    sigset_t only;
    if (!m->masked)
        return;
    sigemptyset(&only);
    sigaddset(&only, SIGPIPE);
    while (rc == -EPIPE && !m->pending &&
           TAUT_SYS_RC(sigtimedwait(&only, NULL, &at_once)) == -EINTR)
        ;
    pthread_sigmask(SIG_SETMASK, &m->old, NULL);
}

static inline ssize_t taut_sys_writev(int fd, const struct iovec *iov, int count, int guard) {
    taut_sys_pipe_mask mask;
    taut_sys_pipe_mask_begin(&mask, guard);
    ssize_t n = TAUT_SYS_RC(writev(fd, iov, count));
    taut_sys_pipe_mask_end(&mask, n);
    return n;
}

#endif
