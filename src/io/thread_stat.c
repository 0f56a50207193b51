#include "io/thread_stat.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "io/peek.h"
#include "io/sys.h"

static ssize_t read_proc(pid_t native_id, const char *name, char *text, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)native_id, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = taut_sys_read(fd, text, size - 1);
    taut_sys_close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n;
}

char taut_thread_state(pid_t native_id) {
    char text[128];
    if (read_proc(native_id, "stat", text, sizeof text) <= 0)
        return 0;
    const char *end = strrchr(text, ')'); /* the thread's name may contain anything */
    return end != NULL && end[1] == ' ' ? end[2] : '\0';
}

uint64_t taut_thread_delay_ns(pid_t native_id) {
    char text[96], *end;
    if (read_proc(native_id, "schedstat", text, sizeof text) <= 0)
        return 0;
    (void)strtoull(text, &end, 10); /* the time on the CPU */
    return strtoull(end, NULL, 10);
}

taut_thread_call taut_thread_call_now(pid_t native_id) {
    taut_thread_call call = {.number = -1};
    char text[256], *at = text, *end;
    if (read_proc(native_id, "syscall", text, sizeof text) <= 0)
        return call;
    long number = strtol(text, &at, 10); /* "running" has none */
    if (at == text)
        return call;
    for (size_t i = 0; i < sizeof call.args / sizeof *call.args; i++, at = end)
        call.args[i] = strtoul(at, &end, 16);
    call.number = number;
    return call;
}

/* ---- what the call waits for ------------------------------------------------------------------
 */

static int is_terminal(dev_t device) {
    unsigned kind = major(device);
    return kind == 4 || kind == 5 || (kind >= 136 && kind <= 143);
}

static enum taut_blocked blocked_on(pid_t native_id, unsigned long fd, int writes) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/task/%d/fd/%d", (int)native_id, (int)fd);
    if (stat(path, &st) < 0)
        return TAUT_BLOCKED_UNKNOWN;
    if (S_ISSOCK(st.st_mode))
        return TAUT_BLOCKED_SOCKET;
    if (S_ISFIFO(st.st_mode))
        return writes ? TAUT_BLOCKED_WRITE : TAUT_BLOCKED_READ;
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode))
        return TAUT_BLOCKED_DISK;
    return S_ISCHR(st.st_mode) && is_terminal(st.st_rdev) ? TAUT_BLOCKED_TERMINAL
                                                          : TAUT_BLOCKED_UNKNOWN;
}

/* poll() of several: the first one counts. */
static enum taut_blocked blocked_in_poll(pid_t native_id, const taut_thread_call *call) {
    struct pollfd first = {.fd = -1};
    taut_peek p;
    int rc = -1;
    if (call->args[1] > 0 && taut_peek_begin(&p, TAUT_PEEK_VM) == 0) {
        rc = taut_peek_read(&p, &first, (const void *)call->args[0], sizeof first);
        taut_peek_end(&p);
    }
    if (rc < 0 || first.fd < 0)
        return TAUT_BLOCKED_UNKNOWN;
    return blocked_on(native_id, (unsigned long)first.fd, !(first.events & POLLIN));
}

/* CPython's time.sleep() says until when, libc's usleep() and nanosleep() for how long. */
static enum taut_blocked blocked_in_sleep(const taut_thread_call *call) {
    int until = call->args[0] == CLOCK_MONOTONIC && (call->args[1] & TIMER_ABSTIME);
    return until ? TAUT_BLOCKED_SLEEP : TAUT_BLOCKED_NAP;
}

enum taut_blocked taut_thread_blocked(pid_t native_id, const taut_thread_call *call) {
    switch (call->number) {
    case SYS_clock_nanosleep:
        return blocked_in_sleep(call);
    case SYS_nanosleep:
        return TAUT_BLOCKED_NAP;
    case SYS_futex:
        return TAUT_BLOCKED_LOCK;
    case SYS_connect:
    case SYS_accept:
    case SYS_accept4:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_sendto:
    case SYS_sendmsg:
        return TAUT_BLOCKED_SOCKET;
    case SYS_read:
    case SYS_readv:
        return blocked_on(native_id, call->args[0], 0);
    case SYS_write:
    case SYS_writev:
        return blocked_on(native_id, call->args[0], 1);
#ifdef SYS_poll
    case SYS_poll:
#endif
    case SYS_ppoll:
        return blocked_in_poll(native_id, call);
#ifdef SYS_open
    case SYS_open:
#endif
    case SYS_openat:
        return TAUT_BLOCKED_OPEN;
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_pread64:
    case SYS_pwrite64:
        return TAUT_BLOCKED_DISK;
    case SYS_flock:
        return TAUT_BLOCKED_FILE_LOCK;
    case SYS_fcntl:
        return call->args[1] == F_SETLKW ? TAUT_BLOCKED_FILE_LOCK : TAUT_BLOCKED_UNKNOWN;
    case SYS_wait4:
    case SYS_waitid:
        return TAUT_BLOCKED_CHILD;
    default:
        return TAUT_BLOCKED_UNKNOWN;
    }
}
