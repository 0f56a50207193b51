/* See process.h. */
#include "io/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/mem.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
/* On 32-bit machines the plain calls take 16-bit ids. */
#ifdef SYS_setreuid32
#define CALL_SETREUID SYS_setreuid32
#define CALL_SETREGID SYS_setregid32
#define CALL_SETGROUPS SYS_setgroups32
#else
#define CALL_SETREUID SYS_setreuid
#define CALL_SETREGID SYS_setregid
#define CALL_SETGROUPS SYS_setgroups
#endif

/* The child calls little more than the kernel. */
#define STACK_SIZE (32 * 1024)
#define FIRST_FD 3

unsigned taut_process_without;

/* What the child writes; the parent reads it when the child executes the program or is gone. */
typedef struct {
    int err; /* 0: nothing failed */
    taut_process_step failed;
} child_report;

typedef struct {
    const taut_process_spec *spec;
    child_report *report;
    sigset_t mask; /* the program's */
} child_start;

/* ---- in the child: no memory may be allocated, no lock taken --------------------------------- */

/* It runs on a stack that AddressSanitizer does not know. */
#define IN_CHILD __attribute__((no_sanitize("address"))) static

IN_CHILD int inheritable(int fd) {
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || !(flags & FD_CLOEXEC))
        return flags < 0 ? -1 : 0;
    return fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC);
}

IN_CHILD int set_fds(const taut_process_spec *spec) {
    int from[3];
    for (size_t i = 0; i < spec->keep_count; i++) {
        if (inheritable(spec->keep_fds[i]) < 0)
            return -1;
    }
    for (int i = 0; i < 3; i++) {
        from[i] = spec->stdio[i];
        /* Below i it is about to be replaced. */
        if (from[i] != -1 && from[i] < i &&
            (from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, FIRST_FD)) < 0)
            return -1;
    }
    for (int i = 0; i < 3; i++) {
        if (from[i] != -1 && (from[i] == i ? inheritable(i) : dup2(from[i], i)) < 0)
            return -1;
    }
    return 0;
}

/* As sigaction() of the handlers alone: what is ignored stays so, as exec() has it. */
IN_CHILD int set_signals(const taut_process_spec *spec, const sigset_t *mask) {
    struct sigaction standard, now;
    memset(&standard, 0, sizeof standard);
    standard.sa_handler = SIG_DFL;
    for (int i = 1; i < NSIG; i++) {
        if (i == SIGKILL || i == SIGSTOP || sigaction(i, NULL, &now) < 0)
            continue;
        int restore = spec->restore_signals && (i == SIGPIPE || i == SIGXFSZ);
        if ((now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN) || restore)
            (void)sigaction(i, &standard, NULL);
    }
    return pthread_sigmask(SIG_SETMASK, mask, NULL);
}

/* The kernel's calls: those of libc would change every thread of the parent. */
IN_CHILD int set_ids(const taut_process_spec *spec) {
    if (spec->set_groups && syscall(CALL_SETGROUPS, spec->group_count, spec->groups) < 0)
        return -1;
    if (spec->set_gid && syscall(CALL_SETREGID, spec->gid, spec->gid) < 0)
        return -1;
    if (spec->set_uid && syscall(CALL_SETREUID, spec->uid, spec->uid) < 0)
        return -1;
    return 0;
}

IN_CHILD int is_kept(const taut_process_spec *spec, int fd) {
    for (size_t i = 0; i < spec->keep_count; i++) {
        if (spec->keep_fds[i] == fd)
            return 1;
    }
    return 0;
}

typedef struct {
    uint64_t ino;
    int64_t off;
    unsigned short size;
    unsigned char type;
    char name[];
} directory_entry; /* of getdents64 */

/* Without close_range(2): what /proc lists, or every possible number. */
IN_CHILD void close_listed(const taut_process_spec *spec) {
    int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct rlimit limit;
    if (dir < 0) {
        int end = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < INT_MAX
                      ? (int)limit.rlim_cur
                      : 65536;
        for (int fd = FIRST_FD; fd < end; fd++) {
            if (!is_kept(spec, fd))
                close(fd);
        }
        return;
    }
    _Alignas(directory_entry) char entries[1024];
    long size;
    while ((size = syscall(SYS_getdents64, dir, entries, sizeof entries)) > 0) {
        for (long at = 0; at < size;) {
            const directory_entry *e = (const directory_entry *)(const void *)(entries + at);
            int fd = 0;
            for (const char *c = e->name; *c >= '0' && *c <= '9'; c++)
                fd = fd * 10 + (*c - '0');
            if (fd >= FIRST_FD && fd != dir && !is_kept(spec, fd))
                close(fd);
            at += e->size;
        }
    }
    close(dir);
}

IN_CHILD void close_others(const taut_process_spec *spec) {
    unsigned from = FIRST_FD;
    for (size_t i = 0; i <= spec->keep_count; i++) {
        unsigned end = i < spec->keep_count ? (unsigned)spec->keep_fds[i] : UINT_MAX;
        if (end < from)
            continue; /* 0 to 2 are never closed */
        if (end > from && ((taut_process_without & TAUT_PROCESS_NO_CLOSE_RANGE) ||
                           syscall(SYS_close_range, from, end - (end != UINT_MAX), 0) < 0)) {
            close_listed(spec);
            return;
        }
        from = end + 1;
    }
}

IN_CHILD void execute(const taut_process_spec *spec) {
    int err = 0;
    for (size_t i = 0; spec->paths[i] != NULL; i++) {
        execve(spec->paths[i], spec->argv, spec->envp);
        if (err == 0 && errno != ENOENT && errno != ENOTDIR)
            err = errno;
    }
    if (err != 0)
        errno = err;
}

/* Returns the step that failed, with errno. */
IN_CHILD taut_process_step set_up(const child_start *start) {
    const taut_process_spec *spec = start->spec;
    if (set_fds(spec) < 0)
        return TAUT_PROCESS_SETUP;
    if (spec->cwd != NULL && chdir(spec->cwd) < 0)
        return TAUT_PROCESS_CWD;
    if (spec->umask >= 0)
        umask((mode_t)spec->umask);
    if (set_signals(spec, &start->mask) != 0 || (spec->new_session && setsid() < 0) ||
        (spec->process_group >= 0 && setpgid(0, spec->process_group) < 0) || set_ids(spec) < 0)
        return TAUT_PROCESS_SETUP;
    if (spec->close_fds)
        close_others(spec);
    execute(spec);
    return TAUT_PROCESS_EXEC;
}

IN_CHILD int child_main(void *arg) {
    const child_start *start = arg;
    taut_process_step failed = set_up(start);
    start->report->failed = failed;
    start->report->err = errno;
    _exit(127);
}

/* ---- in the parent --------------------------------------------------------------------------- */

static void reap(pid_t pid) {
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static int clone_child(child_start *start, void *stack, int flags, pid_t *pid, int *pidfd) {
    void *top = (char *)stack + STACK_SIZE; /* malloc aligns as the stack wants it */
    if (!(taut_process_without & TAUT_PROCESS_NO_PIDFD)) {
        *pid = clone(child_main, top, flags | CLONE_PIDFD, start, pidfd);
        if (*pid >= 0)
            return 0;
        if (errno != EINVAL)
            return -errno;
    }
    *pid = clone(child_main, top, flags, start);
    return *pid < 0 ? -errno : 0;
}

/* With the signals blocked and whatever is needed allocated. */
static int start_child(child_start *start, void *stack, int flags, pid_t *pid, int *pidfd,
                       taut_process_step *failed) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &start->mask);
    int rc = clone_child(start, stack, flags, pid, pidfd);
    pthread_sigmask(SIG_SETMASK, &start->mask, NULL);
    if (rc < 0)
        return rc;
    if (start->report->err == 0)
        return 0;
    reap(*pid);
    if (*pidfd >= 0)
        close(*pidfd);
    *pid = *pidfd = -1;
    *failed = start->report->failed;
    return -start->report->err;
}

int taut_process_spawn(const taut_process_spec *spec, pid_t *pid, int *pidfd,
                       taut_process_step *failed) {
    child_report own = {0, TAUT_PROCESS_CLONE}, *shared = NULL;
    child_start start = {.spec = spec, .report = &own};
    int flags = CLONE_VFORK | SIGCHLD;
    *pid = *pidfd = -1;
    *failed = TAUT_PROCESS_CLONE;
    if (spec->set_uid || spec->set_gid || spec->set_groups) {
        /* run_as: changing ids makes the memory that the process has undumpable, and what another
         * user may trace should not be ours. It only shares a page for the report. */
        shared = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED)
            return -errno;
        start.report = shared;
    } else {
        flags |= CLONE_VM;
    }
    void *stack = taut_malloc(STACK_SIZE);
    int rc = stack == NULL ? -ENOMEM : start_child(&start, stack, flags, pid, pidfd, failed);
    taut_free(stack);
    if (shared != NULL)
        munmap(shared, sizeof own);
    return rc;
}
