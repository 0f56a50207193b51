#include "io/private_fds.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/err.h"
#include "io/sys.h"

#if defined(SYS_pidfd_open) && defined(SYS_pidfd_getfd) && defined(SYS_close_range)
#define HAVE_PIDFD_GETFD 1
#define UNSHARE (1U << 1) /* CLOSE_RANGE_UNSHARE: not in every header */
#else
#define HAVE_PIDFD_GETFD 0
#endif

/* The process, as an fd of the calling thread's own table; -1: it has none. */
static _Thread_local int process = -1;

#if HAVE_PIDFD_GETFD
/* A thread of this process has done it, so that there is nothing to try any more. */
static _Atomic int permitted;

static int process_open(void) {
    return (int)TAUT_SYS_RC(syscall(SYS_pidfd_open, getpid(), 0));
}

static int process_getfd(int pidfd, int fd) {
    return (int)TAUT_SYS_RC(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
}

/* A try, since there is no way back: the pidfd stands for any fd that is surely open. 0 or a
 * negative error. */
static int try_getfd(void) {
    int pidfd = process_open();
    if (pidfd < 0)
        return pidfd;
    int got = process_getfd(pidfd, pidfd);
    if (got >= 0)
        taut_sys_close(got);
    taut_sys_close(pidfd);
    return got < 0 ? got : 0;
}

int taut_private_fds_enter(void) {
    if (process >= 0)
        return 0;
    int rc = atomic_load_explicit(&permitted, memory_order_relaxed) ? 0 : try_getfd();
    if (rc < 0)
        return rc;
    rc = (int)TAUT_SYS_RC(syscall(SYS_close_range, 0U, ~0U, UNSHARE));
    if (rc < 0)
        return rc;
    process = process_open();
    if (process < 0)
        return process;
    atomic_store_explicit(&permitted, 1, memory_order_relaxed);
    return 0;
}

int taut_private_fds_get(int fd) {
    return process < 0 ? fd : process_getfd(process, fd);
}
#else
int taut_private_fds_enter(void) {
    return TAUT_E_UNSUPPORTED;
}

int taut_private_fds_get(int fd) {
    return fd;
}
#endif

int taut_private_fds_entered(void) {
    return process >= 0;
}

void taut_private_fds_put(int fd) {
    if (process >= 0 && fd >= 0)
        taut_sys_close(fd);
}

int taut_private_fds_write(int fd, const char *text, size_t size) {
    int to = taut_private_fds_get(fd), rc = to < 0 ? to : 0;
    while (rc == 0 && size > 0) {
        ssize_t n = taut_sys_write(to, text, size);
        if (n > 0) {
            text += n;
            size -= (size_t)n;
        } else if (n != -EINTR) {
            rc = n < 0 ? (int)n : -EIO;
        }
    }
    taut_private_fds_put(to);
    return rc;
}
