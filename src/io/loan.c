/* See loan.h. */
#include "io/loan.h"

#include <errno.h>
#include <stdio.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>
#include "io/forks.h"
#include "io/sys.h"

#define STANDARD_STREAMS 3 /* 0, 1 and 2 */

static taut_list loans = {&loans, &loans};

static int status_flags(int fd) {
    return TAUT_SYS_RC(fcntl(fd, F_GETFL));
}

static int set_blocking(int fd, int blocking) {
    int flags = status_flags(fd);
    if (flags < 0)
        return flags;
    int wanted = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    return wanted == flags ? 0 : TAUT_SYS_RC(fcntl(fd, F_SETFL, wanted));
}

/* Whether two numbers name one open file description: 1, 0, or negative when the kernel does not
 * say (a sandbox, a kernel without kcmp). */
static int same_description(int a, int b) {
    if (a == b)
        return 1;
    pid_t self = getpid();
    long rc =
        TAUT_SYS_RC(syscall(SYS_kcmp, self, self, KCMP_FILE, (unsigned long)a, (unsigned long)b));
    return rc < 0 ? (rc == -EBADF ? 0 : -1) : rc == 0;
}

static int is_standard_stream(int fd) {
    for (int stream = 0; stream < STANDARD_STREAMS; stream++) {
        if (same_description(fd, stream) > 0)
            return 1;
    }
    return 0;
}

/* Whether opening the file again gives the same thing. Not a pseudo-terminal's master: that would
 * make a new one. Not a FIFO with a name: whether its last writer has gone is known to the first
 * description alone. */
static int can_reopen(const taut_loan *loan, int flags) {
    struct statfs fs;
    struct termios terminal;
    unsigned number;
    if (flags & O_DIRECT) /* a pipe of packets */
        return 0;
    if (loan->kind == TAUT_LOAN_PIPE)
        return fstatfs(loan->fd, &fs) == 0 && fs.f_type == PIPEFS_MAGIC;
    return loan->kind == TAUT_LOAN_CHARACTER && tcgetattr(loan->fd, &terminal) == 0 &&
           ioctl(loan->fd, TIOCGPTN, &number) < 0;
}

/* An open file description of our own, or a negative error. */
static int reopen(const taut_loan *loan, int flags) {
    char path[32];
    taut_loan again;
    snprintf(path, sizeof path, "/proc/self/fd/%d", loan->fd);
    int fd = TAUT_SYS_RC(open(path, (flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (fd < 0)
        return fd;
    if (taut_loan_inspect(&again, fd) == loan->kind && again.device == loan->device &&
        again.inode == loan->inode)
        return fd;
    taut_sys_close(fd);
    return -ENXIO;
}

int taut_loan_inspect(taut_loan *loan, int fd) {
    struct stat st;
    *loan = (taut_loan){.fd = fd, .own_fd = -1, .forks = taut_forks()};
    taut_list_init(&loan->link);
    int rc = TAUT_SYS_RC(fstat(fd, &st));
    if (rc < 0)
        return rc;
    loan->device = st.st_dev;
    loan->inode = st.st_ino;
    loan->kind = S_ISFIFO(st.st_mode)   ? TAUT_LOAN_PIPE
                 : S_ISSOCK(st.st_mode) ? TAUT_LOAN_SOCKET
                 : S_ISCHR(st.st_mode)  ? TAUT_LOAN_CHARACTER
                                        : TAUT_LOAN_OTHER;
    return loan->kind;
}

static int number_is_lent(const taut_loan *loan) {
    for (taut_list *l = loans.next; l != &loans; l = l->next) {
        const taut_loan *other = TAUT_CONTAINER(l, taut_loan, link);
        if (taut_loan_fd(other) == loan->fd && taut_loan_is_intact(other))
            return 1;
    }
    return 0;
}

int taut_loan_duplicate(taut_loan *loan) {
    if (loan->own_fd >= 0)
        return 0;
    int own = TAUT_SYS_RC(fcntl(loan->fd, F_DUPFD_CLOEXEC, STANDARD_STREAMS));
    if (own >= 0)
        loan->own_fd = own;
    return own < 0 ? own : 0;
}

int taut_loan_take(taut_loan *loan, int busy) {
    int flags = status_flags(loan->fd);
    if (flags < 0)
        return flags;
    int blocks = loan->kind != TAUT_LOAN_SOCKET && !(flags & O_NONBLOCK);
    if (blocks && can_reopen(loan, flags) && is_standard_stream(loan->fd)) {
        int own = reopen(loan, flags);
        if (own >= 0) {
            loan->own_fd = own;
            blocks = busy = 0;
        }
    }
    if (busy || number_is_lent(loan)) {
        int rc = taut_loan_duplicate(loan);
        if (rc < 0)
            return rc;
    }
    if (blocks) {
        int rc = set_blocking(loan->fd, 0);
        if (rc < 0) {
            taut_loan_return(loan);
            return rc;
        }
        loan->restore = 1;
    }
    taut_list_append(&loans, &loan->link);
    return 0;
}

int taut_loan_is_intact(const taut_loan *loan) {
    taut_loan now;
    return taut_loan_inspect(&now, taut_loan_fd(loan)) == loan->kind &&
           now.device == loan->device && now.inode == loan->inode;
}

/* The loan, not returned yet, that shares the description; NULL: none. Where the kernel does not
 * tell, one of the same file is taken for one: better that it stays non-blocking for a while. */
static taut_loan *sharer(const taut_loan *loan) {
    for (taut_list *l = loans.next; l != &loans; l = l->next) {
        taut_loan *other = TAUT_CONTAINER(l, taut_loan, link);
        if (other->forks == loan->forks && other->device == loan->device &&
            other->inode == loan->inode &&
            same_description(taut_loan_fd(loan), taut_loan_fd(other)) != 0)
            return other;
    }
    return NULL;
}

void taut_loan_return(taut_loan *loan) {
    taut_list_unlink(&loan->link);
    if (loan->restore && loan->forks == taut_forks() && taut_loan_is_intact(loan)) {
        taut_loan *other = sharer(loan);
        if (other)
            other->restore = 1;
        else
            (void)set_blocking(taut_loan_fd(loan), 1);
    }
    loan->restore = 0;
    if (loan->own_fd >= 0)
        taut_sys_close(loan->own_fd);
    loan->own_fd = -1;
}
