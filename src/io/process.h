/* Starting a program in a child process. The child is made by clone(2) and shares the parent's
 * memory until it executes the program, while the calling thread stands still (as after vfork): no
 * page table is copied, no hook of fork() runs, and any number of threads may start children at
 * once. Signals are blocked meanwhile, so that no handler runs in the child. Only a child that is
 * to have other user or group ids gets a copy of the memory (see run_as below). */
#ifndef TAUT_IO_PROCESS_H
#define TAUT_IO_PROCESS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/assert.h"

/* What to run and how; borrowed for the time of the call. Each list ends with NULL. */
typedef struct {
    const char *const *paths; /* tried in turn until one can be executed */
    char *const *argv;
    char *const *envp;
    const char *cwd; /* NULL: the caller's */
    int stdio[3];    /* the caller's fds that become 0, 1 and 2; -1: inherited as it is */
    /* Fds that the program inherits, ascending and without repetition; made inheritable. */
    const int *keep_fds;
    size_t keep_count;
    int close_fds;       /* all from 3 on but `keep_fds`; otherwise close-on-exec decides */
    int restore_signals; /* SIGPIPE and SIGXFSZ, which CPython ignores, get their default */
    int new_session;     /* setsid() */
    pid_t process_group; /* setpgid(0, ...); -1: the caller's */
    int umask;           /* -1: the caller's */
    int set_uid, set_gid, set_groups; /* whether uid, gid, groups below count */
    uid_t uid;
    gid_t gid;
    const gid_t *groups;
    size_t group_count;
} taut_process_spec;

typedef enum {
    TAUT_PROCESS_CLONE = 1, /* no child could be made */
    TAUT_PROCESS_SETUP,     /* the child could not set up its fds, ids, session ... */
    TAUT_PROCESS_CWD,       /* ... or enter cwd */
    TAUT_PROCESS_EXEC,      /* no path could be executed: the first error but ENOENT, ENOTDIR */
} taut_process_step;

/* Returns once the program runs (where fork() is made of the clone, as valgrind and user-mode
 * emulators do it, before that: then a failure is an exit code of 127, as with posix_spawn): 0 with
 * its pid, and a close-on-exec pidfd for the caller to close
 * (-1 where the kernel has none: before 5.2). Otherwise a negative error and the step that failed;
 * a child that did not get as far as the program has been reaped. Any thread. */
int taut_process_spawn(const taut_process_spec *spec, pid_t *pid, int *pidfd,
                       taut_process_step *failed) TAUT_MUST_USE;

/* Tests only: do as on a kernel without these. */
enum { TAUT_PROCESS_NO_PIDFD = 1, TAUT_PROCESS_NO_CLOSE_RANGE = 2 };
extern unsigned taut_process_without;

#endif
