/* See child.h. */
#include "io/child.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/list.h"
#include "base/mem.h"
#include "io/process.h"

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define BY_PIDFD ((idtype_t)3) /* P_PIDFD, which older headers lack */

void taut_child_init_none(taut_child *c) {
    *c = (taut_child){.pid = -1,
                      .pidfd = -1,
                      .exit_fd = -1,
                      .state = TAUT_CHILD_LOST,
                      .code = TAUT_CHILD_LOST_CODE};
    taut_watch_init(&c->watch, -1, NULL);
}

void taut_child_init(taut_child *c, pid_t pid, int pidfd) {
    taut_child_init_none(c);
    c->pid = pid;
    c->pidfd = pidfd;
    c->state = TAUT_CHILD_RUNS;
    if (pidfd < 0 && !(taut_process_without & TAUT_PROCESS_NO_PIDFD))
        c->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Once it is reaped, and no event is waited for, the pidfd is good for nothing. */
static void close_pidfd(taut_child *c) {
    if (c->pidfd >= 0)
        close(c->pidfd);
    c->pidfd = -1;
}

static void set_code(taut_child *c, const siginfo_t *info) {
    c->state = TAUT_CHILD_ENDED;
    c->code = info->si_code == CLD_EXITED ? info->si_status : -info->si_status;
}

static int wait_now(idtype_t by, int id, siginfo_t *info) {
    int rc;
    do {
        rc = waitid(by, (id_t)id, info, WEXITED | WNOHANG);
    } while (rc < 0 && errno == EINTR);
    return rc;
}

int taut_child_poll(taut_child *c) {
    if (c->state != TAUT_CHILD_RUNS)
        return 1;
    siginfo_t info = {.si_pid = 0};
    int rc = -1;
    if (c->pidfd >= 0)
        rc = wait_now(BY_PIDFD, c->pidfd, &info);
    /* Linux 5.2 has the pidfd, 5.4 the wait for it. As long as nobody has reaped the child, its
     * number is its own. */
    if (c->pidfd < 0 || (rc < 0 && errno == EINVAL))
        rc = wait_now(P_PID, c->pid, &info);
    if (rc < 0) {
        c->state = TAUT_CHILD_LOST;
        c->code = TAUT_CHILD_LOST_CODE;
    } else if (info.si_pid != 0) {
        set_code(c, &info);
    }
    if (c->state == TAUT_CHILD_RUNS)
        return 0;
    if (c->poller == NULL)
        close_pidfd(c);
    return 1;
}

/* ---- a thread in place of the pidfd ---------------------------------------------------------- */

typedef struct {
    pid_t pid;
    int write_fd;
} waiter;

static void *waiter_main(void *arg) {
    waiter *w = arg;
    siginfo_t info;
    while (waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    int fd = w->write_fd;
    taut_free(w);
    close(fd); /* last: who is told may look whether the memory has been given back */
    return NULL;
}

static int start_thread(waiter *w) {
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    int rc = pthread_attr_init(&attr);
    if (rc != 0)
        return -rc;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&thread, &attr, waiter_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return -rc;
}

static int start_waiter(taut_child *c) {
    int fds[2];
    waiter *w = taut_malloc(sizeof *w);
    if (w == NULL)
        return -ENOMEM;
    int rc = pipe2(fds, O_CLOEXEC) < 0 ? -errno : 0;
    if (rc == 0) {
        *w = (waiter){.pid = c->pid, .write_fd = fds[1]};
        rc = start_thread(w);
        if (rc == 0) {
            c->exit_fd = fds[0];
            return 0;
        }
        close(fds[0]);
        close(fds[1]);
    }
    taut_free(w);
    return rc;
}

/* ---- watching -------------------------------------------------------------------------------- */

static void close_exit_fd(taut_child *c) {
    if (c->exit_fd >= 0 && c->exit_fd != c->pidfd)
        close(c->exit_fd);
    c->exit_fd = -1;
}

static void on_event(taut_watch *watch, uint32_t events);

static int watch_exit_fd(taut_child *c) {
    taut_watch_init(&c->watch, c->exit_fd, on_event);
    return taut_poller_want(c->poller, &c->watch, TAUT_READ);
}

static void finish(taut_child *c) {
    taut_child_free(c);
    c->ended(c);
}

static void on_event(taut_watch *watch, uint32_t events) {
    taut_child *c = TAUT_CONTAINER(watch, taut_child, watch);
    if (taut_child_poll(c)) {
        finish(c);
        return;
    }
    /* It is dead, but a debugger has yet to be told, and until then nobody may reap it. */
    taut_poller *p = c->poller;
    void (*ended)(taut_child *) = c->ended;
    taut_child_unwatch(c);
    c->poller = p;
    c->ended = ended;
    int rc = start_waiter(c);
    if (rc == 0)
        rc = watch_exit_fd(c);
    if (rc < 0) {
        c->state = TAUT_CHILD_LOST;
        c->code = TAUT_CHILD_LOST_CODE;
        finish(c);
    }
}

int taut_child_watch(taut_child *c, taut_poller *p, void (*ended)(taut_child *c)) {
    c->poller = p;
    c->ended = ended;
    int rc = 0;
    if (c->pidfd >= 0)
        c->exit_fd = c->pidfd;
    else
        rc = start_waiter(c);
    if (rc == 0)
        rc = watch_exit_fd(c);
    if (rc < 0)
        taut_child_unwatch(c);
    return rc;
}

void taut_child_unwatch(taut_child *c) {
    if (c->poller != NULL)
        taut_poller_remove(c->poller, &c->watch, 1);
    c->poller = NULL;
    close_exit_fd(c);
}

/* ---- the rest -------------------------------------------------------------------------------- */

int taut_child_signal(taut_child *c, int signum) {
    if (taut_child_poll(c))
        return 0;
    int rc = -1;
    if (c->pidfd >= 0)
        rc = (int)syscall(SYS_pidfd_send_signal, c->pidfd, signum, NULL, 0);
    /* It is not reaped, so the number is still its own. */
    if (c->pidfd < 0 || (rc < 0 && errno == ENOSYS))
        rc = kill(c->pid, signum);
    return rc < 0 && errno != ESRCH ? -errno : 0;
}

void taut_child_free(taut_child *c) {
    taut_child_unwatch(c);
    close_pidfd(c);
}
