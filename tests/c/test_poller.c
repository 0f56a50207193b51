/* io/poller: interest, generations, foreign fds whose numbers are reused, duplicates, hang-ups. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/list.h"
#include "io/poller.h"
#include "check.h"

typedef struct {
    taut_watch watch;
    taut_poller *poller;
    int calls;
    uint32_t events; /* of the last call */
    void (*then)(void *arg);
    void *arg;
} probe;

static void on_event(taut_watch *w, uint32_t events) {
    probe *p = TAUT_CONTAINER(w, probe, watch);
    p->calls++;
    p->events = events;
    if (p->then)
        p->then(p->arg);
}

static void probe_init(probe *p, taut_poller *poller, int fd) {
    *p = (probe){.poller = poller};
    taut_watch_init(&p->watch, fd, on_event);
}

static void pair(int fds[2]) {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
}

static taut_poller *new_poller(void) {
    taut_poller *p = NULL;
    CHECK_EQ(taut_poller_new(&p), 0);
    return p;
}

static int poll_once(taut_poller *p) {
    int n = taut_poller_wait(p, 0);
    CHECK(n >= 0);
    taut_poller_dispatch(p);
    return n;
}

static void directions(void) {
    taut_poller *p = new_poller();
    int fds[2];
    probe a;
    pair(fds);
    probe_init(&a, p, fds[0]);
    CHECK_EQ(taut_poller_want(p, &a.watch, 0), 0);
    CHECK_EQ(taut_poller_count(p), 0);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    CHECK_EQ(taut_poller_count(p), 1);
    CHECK_EQ(poll_once(p), 0);
    CHECK(write(fds[1], "x", 1) == 1);
    poll_once(p);
    CHECK_EQ(a.calls, 1);
    CHECK_EQ(a.events, TAUT_READ);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ | TAUT_WRITE), 0);
    poll_once(p);
    CHECK_EQ(a.events, TAUT_READ | TAUT_WRITE);
    taut_poller_remove(p, &a.watch, 1);
    CHECK_EQ(taut_poller_count(p), 0);
    CHECK_EQ(poll_once(p), 0);
    taut_poller_remove(p, &a.watch, 1); /* harmless */
    CHECK_EQ(a.calls, 2);
    taut_poller_free(p);
    close(fds[0]);
    close(fds[1]);
}

static void dropping_is_lazy(void) {
    taut_poller *p = new_poller();
    int fds[2];
    probe a;
    pair(fds);
    probe_init(&a, p, fds[0]);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    CHECK_EQ(taut_poller_want(p, &a.watch, 0), 0);
    CHECK_EQ(a.watch.armed, TAUT_READ); /* no system call yet */
    CHECK_EQ(taut_poller_count(p), 1);  /* and the slot is kept */
    CHECK(write(fds[1], "x", 1) == 1);
    CHECK_EQ(poll_once(p), 1);
    CHECK_EQ(a.calls, 0);
    CHECK_EQ(a.watch.armed, 0);
    CHECK_EQ(poll_once(p), 0); /* the kernel knows now: no busy loop */
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    poll_once(p);
    CHECK_EQ(a.calls, 1);
    /* Of two directions the unwanted one goes, the other stays. */
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ | TAUT_WRITE), 0);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    CHECK_EQ(a.watch.armed, TAUT_READ | TAUT_WRITE);
    poll_once(p);
    CHECK_EQ(a.events, TAUT_READ);
    CHECK_EQ(a.watch.armed, TAUT_READ);
    taut_poller_remove(p, &a.watch, 0);
    taut_poller_free(p);
    close(fds[0]);
    close(fds[1]);
}

static void hang_up(void) {
    taut_poller *p = new_poller();
    int fds[2];
    probe a;
    pair(fds);
    probe_init(&a, p, fds[0]);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ | TAUT_WRITE), 0);
    close(fds[1]);
    poll_once(p);
    CHECK_EQ(a.events, TAUT_READ | TAUT_WRITE | TAUT_HUP);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    poll_once(p);
    CHECK_EQ(a.events, TAUT_READ | TAUT_HUP);
    /* epoll reports it even for an empty interest: once is enough for a watch that wants nothing.
     */
    CHECK_EQ(taut_poller_want(p, &a.watch, 0), 0);
    poll_once(p);
    CHECK_EQ(a.calls, 3);
    CHECK_EQ(a.events, TAUT_HUP);
    CHECK_EQ(poll_once(p), 0);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    poll_once(p);
    CHECK_EQ(a.events, TAUT_READ | TAUT_HUP);
    taut_poller_remove(p, &a.watch, 1);
    taut_poller_free(p);
    close(fds[0]);
}

typedef struct {
    taut_poller *poller;
    probe *victim, *heir;
    int heir_fd;
} removal;

static void remove_victim(void *arg) {
    removal *r = arg;
    taut_poller_remove(r->poller, &r->victim->watch, 1);
    if (r->heir) { /* takes over the victim's slot while its event still waits in the batch */
        probe_init(r->heir, r->poller, r->heir_fd);
        CHECK_EQ(taut_poller_want(r->poller, &r->heir->watch, TAUT_READ), 0);
    }
}

/* Two ready watches, each of which removes the other: exactly one runs, whatever the order. */
static void removed_during_dispatch(void) {
    for (int with_heir = 0; with_heir < 2; with_heir++) {
        taut_poller *p = new_poller();
        int a_fd = eventfd(1, 0), b_fd = eventfd(1, 0), quiet_fd = eventfd(0, 0);
        probe a, b, heir = {0};
        removal of_a = {p, &b, with_heir ? &heir : NULL, quiet_fd};
        removal of_b = {p, &a, with_heir ? &heir : NULL, quiet_fd};
        probe_init(&a, p, a_fd);
        probe_init(&b, p, b_fd);
        a.then = b.then = remove_victim;
        a.arg = &of_a;
        b.arg = &of_b;
        CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
        CHECK_EQ(taut_poller_want(p, &b.watch, TAUT_READ), 0);
        CHECK_EQ(poll_once(p), 2);
        CHECK_EQ(a.calls + b.calls, 1);
        CHECK_EQ(heir.calls, 0);
        CHECK_EQ(taut_poller_count(p), 1u + (unsigned)with_heir);
        taut_poller_free(p);
        close(a_fd);
        close(b_fd);
        close(quiet_fd);
    }
}

static void foreign_number_is_reused(void) {
    taut_poller *p = new_poller();
    int old[2], new[2];
    probe a;
    pair(old);
    probe_init(&a, p, old[0]);
    a.watch.foreign = 1;
    CHECK_EQ(taut_poller_arm(p, &a.watch, TAUT_READ), 0);
    /* The user closes it, and the next socket gets its number. */
    pair(new);
    CHECK(dup2(new[0], old[0]) == old[0]);
    close(new[0]);
    CHECK(write(new[1], "x", 1) == 1);
    CHECK_EQ(poll_once(p), 0); /* nobody told the kernel about the new one */
    CHECK_EQ(taut_poller_arm(p, &a.watch, TAUT_READ), 0);
    CHECK_EQ(poll_once(p), 1);
    CHECK_EQ(a.calls, 1);
    /* Once more, and now it is closed for good. */
    close(old[0]);
    CHECK_EQ(taut_poller_arm(p, &a.watch, TAUT_READ), -EBADF);
    CHECK_EQ(taut_poller_arm(p, &a.watch, 0), 0);
    CHECK_EQ(poll_once(p), 0);
    taut_poller_remove(p, &a.watch, 1);
    CHECK_EQ(taut_poller_count(p), 0);
    taut_poller_free(p);
    close(old[1]);
    close(new[1]);
}

static void foreign_number_has_another_registration(void) {
    taut_poller *p = new_poller();
    int fd = eventfd(1, 0);
    probe a, b;
    probe_init(&a, p, fd);
    probe_init(&b, p, fd);
    CHECK_EQ(taut_poller_arm(p, &a.watch, TAUT_READ), 0);
    taut_poller_remove(p, &a.watch, 0); /* said to be closed, but it is not */
    CHECK_EQ(taut_poller_arm(p, &b.watch, TAUT_READ), 0);
    CHECK_EQ(poll_once(p), 1);
    CHECK_EQ(a.calls, 0);
    CHECK_EQ(b.calls, 1);
    taut_poller_remove(p, &b.watch, 1);
    taut_poller_free(p);
    close(fd);
}

/* A file that lives on in a duplicate keeps its registration, which no epoll_ctl can name. */
static void duplicate_outlives_the_fd(void) {
    taut_poller *p = new_poller();
    int fd = eventfd(1, 0), other_fd = eventfd(1, 0), copy = dup(fd);
    probe a, other, closed;
    probe_init(&a, p, fd);
    probe_init(&other, p, other_fd);
    probe_init(&closed, p, eventfd(0, 0));
    closed.watch.foreign = 1;
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    CHECK_EQ(taut_poller_want(p, &other.watch, TAUT_READ), 0);
    CHECK_EQ(taut_poller_arm(p, &closed.watch, TAUT_READ), 0);
    close(closed.watch.fd);
    taut_poller_remove(p, &a.watch, 0);
    close(fd);
    CHECK_EQ(poll_once(p), 2); /* the void event and the other's */
    CHECK_EQ(poll_once(p), 1); /* shaken off */
    CHECK_EQ(a.calls, 0);
    CHECK_EQ(other.calls, 2);
    taut_poller_free(p);
    close(copy);
    close(other_fd);
}

static void duplicate_of_a_foreign_fd(void) {
    taut_poller *p = new_poller();
    int fd = eventfd(1, 0), copy = dup(fd), next = eventfd(0, 0);
    probe a;
    probe_init(&a, p, fd);
    a.watch.foreign = 1;
    CHECK_EQ(taut_poller_arm(p, &a.watch, TAUT_READ), 0);
    CHECK(dup2(next, fd) == fd); /* the number now means something that is not readable */
    CHECK_EQ(taut_poller_arm(p, &a.watch, TAUT_READ), 0);
    CHECK_EQ(poll_once(p), 1); /* the old file, through the copy */
    CHECK_EQ(a.calls, 0);
    CHECK_EQ(poll_once(p), 0);
    CHECK(write(next, &(uint64_t){1}, 8) == 8);
    poll_once(p);
    CHECK_EQ(a.calls, 1);
    taut_poller_free(p);
    close(fd);
    close(copy);
    close(next);
}

static void refused_fds(void) {
    taut_poller *p = new_poller();
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), gone = dup(file);
    probe a;
    CHECK(file >= 0);
    probe_init(&a, p, file);
    CHECK_EQ(taut_poller_arm(p, &a.watch, TAUT_READ), -EPERM);
    CHECK_EQ(a.watch.want, 0);
    CHECK_EQ(taut_poller_count(p), 0);
    close(gone);
    probe_init(&a, p, gone);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_WRITE), -EBADF);
    CHECK_EQ(a.watch.slot, TAUT_WATCH_NO_SLOT);
    taut_poller_free(p);
    close(file);
}

static void waiting(void) {
    taut_poller *p = new_poller();
    uint64_t start = taut_clock_now_ns();
    CHECK_EQ(taut_poller_wait(p, 3 * TAUT_NS_PER_MS), 0);
    CHECK(taut_clock_now_ns() - start >= 3 * TAUT_NS_PER_MS); /* never early */
    taut_poller_dispatch(p);
    taut_poller_free(p);
}

static void on_signal(int sig) {
    (void)sig;
}

static void interrupted(void) {
    taut_poller *p = new_poller();
    struct sigaction act = {.sa_handler = on_signal}, before;
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {0};
    CHECK(sigaction(SIGALRM, &act, &before) == 0);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    CHECK_EQ(taut_poller_wait(p, TAUT_NEVER_NS), -EINTR);
    CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
    CHECK(sigaction(SIGALRM, &before, NULL) == 0);
    taut_poller_dispatch(p); /* nothing left from an earlier wait */
    taut_poller_free(p);
}

static void cut(void *arg) {
    taut_poller_cut(arg);
}

static void cut_short(void) {
    taut_poller *p = new_poller();
    probe probes[10];
    int calls = 0;
    for (int i = 0; i < 10; i++) {
        probe_init(&probes[i], p, eventfd(1, 0));
        probes[i].then = cut;
        probes[i].arg = p;
        CHECK_EQ(taut_poller_want(p, &probes[i].watch, TAUT_READ), 0);
    }
    CHECK_EQ(poll_once(p), 10);
    for (int i = 0; i < 10; i++)
        calls += probes[i].calls;
    CHECK_EQ(calls, 1);
    CHECK_EQ(poll_once(p), 10); /* nothing was lost */
    taut_poller_free(p);
    for (int i = 0; i < 10; i++)
        close(probes[i].watch.fd);
}

static void steps_the_pulse(void) {
    taut_poller *p = new_poller();
    taut_pulse pulse = {0};
    probe a;
    taut_poller_set_pulse(p, &pulse);
    probe_init(&a, p, eventfd(1, 0));
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    poll_once(p);
    poll_once(p);
    CHECK_EQ(pulse.sequence, 2);
    close(a.watch.fd);
    taut_poller_free(p);
}

#define MANY 300

static void scenario(int may_fail) {
    taut_poller *p = NULL;
    static probe probes[MANY];
    int rc = taut_poller_new(&p), in[MANY];
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    if (rc < 0)
        return;
    for (int i = 0; i < MANY; i++) {
        probe_init(&probes[i], p, eventfd(1, EFD_CLOEXEC));
        rc = taut_poller_want(p, &probes[i].watch, TAUT_READ);
        CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
        in[i] = rc == 0;
        CHECK_EQ(probes[i].watch.want, in[i] ? TAUT_READ : 0);
    }
    poll_once(p);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(probes[i].calls, in[i]);
        if (i % 3 == 0)
            taut_poller_remove(p, &probes[i].watch, 1);
    }
    poll_once(p);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(probes[i].calls, i % 3 == 0 ? in[i] : 2 * in[i]);
        taut_poller_remove(p, &probes[i].watch, 0);
        close(probes[i].watch.fd);
    }
    CHECK_EQ(taut_poller_count(p), 0);
    CHECK_EQ(poll_once(p), 0);
    taut_poller_free(p);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

/* The exit status of a forked child that runs `fn`. */
static int in_child(void (*fn)(void *), void *arg) {
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        fn(arg);
        _exit(0);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static struct {
    taut_poller *poller;
    probe owned, foreign;
    int fds[2], others[2];
} shared;

static void let_go(void *arg) {
    taut_poller_remove(shared.poller, &shared.owned.watch, 1);
    CHECK_EQ(taut_poller_arm(shared.poller, &shared.foreign.watch, 0), 0);
    taut_poller_free(shared.poller);
}

static void go_on(void *arg) {
    taut_poller *p = shared.poller;
    int mine[2];
    probe a;
    pair(mine);
    probe_init(&a, p, mine[0]);
    CHECK_EQ(taut_poller_want(p, &a.watch, TAUT_READ), 0);
    CHECK(write(mine[1], "x", 1) == 1);
    taut_poller_remove(p, &shared.owned.watch, 1);
    CHECK(write(shared.fds[1], "x", 1) == 1);
    CHECK(write(shared.others[1], "x", 1) == 1);
    CHECK_EQ(poll_once(p), 2);
    CHECK_EQ(a.calls, 1);
    CHECK_EQ(shared.owned.calls, 0);
    CHECK_EQ(shared.foreign.calls, 1);
    taut_poller_free(p);
}

static void a_forked_child_has_registrations_of_its_own(void) {
    taut_poller *p = shared.poller = new_poller();
    pair(shared.fds);
    pair(shared.others);
    probe_init(&shared.owned, p, shared.fds[0]);
    probe_init(&shared.foreign, p, shared.others[0]);
    shared.foreign.watch.foreign = 1;
    CHECK_EQ(taut_poller_want(p, &shared.owned.watch, TAUT_READ), 0);
    CHECK_EQ(taut_poller_arm(p, &shared.foreign.watch, TAUT_READ), 0);
    CHECK_EQ(in_child(let_go, NULL), 0);
    CHECK_EQ(in_child(go_on, NULL), 0);
    CHECK_EQ(poll_once(p), 2); /* the bytes that the child wrote */
    CHECK_EQ(shared.owned.calls, 1);
    CHECK_EQ(shared.foreign.calls, 1);
    taut_poller_free(p);
    for (int i = 0; i < 2; i++) {
        close(shared.fds[i]);
        close(shared.others[i]);
    }
}

static const check_test tests[] = {
    CHECK_TEST(directions),
    CHECK_TEST(dropping_is_lazy),
    CHECK_TEST(hang_up),
    CHECK_TEST(removed_during_dispatch),
    CHECK_TEST(foreign_number_is_reused),
    CHECK_TEST(foreign_number_has_another_registration),
    CHECK_TEST(duplicate_outlives_the_fd),
    CHECK_TEST(duplicate_of_a_foreign_fd),
    CHECK_TEST(refused_fds),
    CHECK_TEST(waiting),
    CHECK_TEST(interrupted),
    CHECK_TEST(cut_short),
    CHECK_TEST(steps_the_pulse),
    CHECK_TEST(out_of_memory),
    CHECK_TEST(a_forked_child_has_registrations_of_its_own),
};
CHECK_MAIN(tests)
