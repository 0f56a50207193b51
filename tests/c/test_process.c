/* io/process: what a started program finds, and what is said when it cannot be started. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "io/process.h"
#include "check.h"

#define OUTPUT_MAX 4096
#define THREADS 4
#define CHILDREN 25

static char *const env[] = {"ONE=1", "PATH=/nowhere", NULL};

/* /bin/sh -c script, with its output taken; its exit code must be `code`. */
static const char *run_with(taut_process_spec spec, const char *script, int code) {
    static char output[OUTPUT_MAX];
    static const char *const paths[] = {"/bin/sh", NULL};
    char *const argv[] = {"sh", "-c", (char *)(uintptr_t)script, NULL};
    int fds[2], pidfd, status;
    pid_t pid;
    taut_process_step failed;
    CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
    spec.paths = paths;
    spec.argv = argv;
    spec.envp = env;
    spec.stdio[1] = fds[1];
    CHECK_EQ(taut_process_spawn(&spec, &pid, &pidfd, &failed), 0);
    close(fds[1]);
    size_t size = 0;
    ssize_t n;
    while ((n = read(fds[0], output + size, sizeof output - 1 - size)) > 0)
        size += (size_t)n;
    output[size] = '\0';
    close(fds[0]);
    CHECK((pidfd >= 0) != !!(taut_process_without & TAUT_PROCESS_NO_PIDFD));
    if (pidfd >= 0) {
        CHECK_EQ(fcntl(pidfd, F_GETFD), FD_CLOEXEC);
        close(pidfd);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), code);
    return output;
}

static taut_process_spec plain(void) {
    return (taut_process_spec){.stdio = {-1, -1, -1},
                               .close_fds = 1,
                               .restore_signals = 1,
                               .process_group = -1,
                               .umask = -1};
}

static void check_output(taut_process_spec spec, const char *script, const char *expected) {
    const char *got = run_with(spec, script, 0);
    if (strcmp(got, expected) != 0) {
        fprintf(stderr, "  %s\n  gave %s\n  not  %s\n", script, got, expected);
        check_fail(__FILE__, __LINE__, "output");
    }
}

/* Everything is given back, whatever happened. */
static void check_no_child_left(void) {
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_EQ(errno, ECHILD);
}

static void programs_get_arguments_and_environment(void) {
    check_output(plain(), "echo $0 $ONE $PATH $HOME", "sh 1 /nowhere\n");
    (void)run_with(plain(), "exit 7", 7);
    check_no_child_left();
}

static void options_reach_the_program(void) {
    taut_process_spec spec = plain();
    spec.cwd = "/usr";
    check_output(spec, "pwd", "/usr\n");
    spec = plain();
    spec.umask = 027;
    check_output(spec, "umask", "0027\n");
    const char *show = "read pid rest < /proc/self/stat; set -- ${rest#*) }; "
                       "[ $3 = $pid ] && echo leads group; [ $4 = $pid ] && echo leads session; :";
    check_output(plain(), show, "");
    spec = plain();
    spec.process_group = 0;
    check_output(spec, show, "leads group\n");
    spec = plain();
    spec.new_session = 1;
    check_output(spec, show, "leads group\nleads session\n");
}

static void ids_are_changed(void) {
    taut_process_spec spec = plain();
    gid_t groups[] = {7, 8};
    if (geteuid() != 0) {
        spec.set_uid = 1;
        spec.uid = geteuid(); /* to oneself anybody may */
        (void)run_with(spec, ":", 0);
        return;
    }
    const char *show = "/usr/bin/grep -E '^(Uid|Gid|Groups)' /proc/self/status | /usr/bin/tr -s "
                       "'\\t\\n' '  '";
    spec.set_uid = spec.set_gid = spec.set_groups = 1;
    spec.uid = 65533;
    spec.gid = 65532;
    spec.groups = groups;
    spec.group_count = 2;
    check_output(spec, show,
                 "Uid: 65533 65533 65533 65533 Gid: 65532 65532 65532 65532 Groups: 7 "
                 "8 ");
    spec.group_count = 0;
    spec.set_uid = spec.set_gid = 0;
    check_output(spec, show, "Uid: 0 0 0 0 Gid: 0 0 0 0 Groups: ");
    CHECK_EQ(geteuid(), 0);
}

/* ---- file descriptors ------------------------------------------------------------------------ */

static const char *const list_fds = "for fd in /proc/self/fd/*; do fd=${fd##*/}; "
                                    "[ -e /proc/$$/fd/$fd ] && echo $fd; done; :";

static void check_open_fds(taut_process_spec spec, const int *kept, size_t count) {
    char expected[256] = "0\n1\n2\n", *end = expected + strlen(expected);
    for (size_t i = 0; i < count; i++)
        end += snprintf(end, 16, "%d\n", kept[i]);
    spec.keep_fds = kept;
    spec.keep_count = count;
    check_output(spec, list_fds, expected);
}

static void other_fds_are_closed(void) {
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = open("/dev/null", i % 2 ? O_RDONLY : O_RDONLY | O_CLOEXEC);
        CHECK(fds[i] > 2);
    }
    int high = /* last also in the order of the alphabet */ fcntl(fds[0], F_DUPFD, 900);
    int some[] = {fds[0], fds[1], high}, standard[] = {0, 2, fds[3]};
    for (unsigned without = 0; without < 4; without += TAUT_PROCESS_NO_CLOSE_RANGE) {
        taut_process_without = without;
        check_open_fds(plain(), NULL, 0);
        check_open_fds(plain(), some, 3);
        check_open_fds(plain(), some + 1, 1);
        taut_process_spec spec = plain();
        spec.keep_fds = standard;
        spec.keep_count = 3;
        char expected[64];
        snprintf(expected, sizeof expected, "0\n1\n2\n%d\n", fds[3]);
        check_output(spec, list_fds, expected);
    }
    taut_process_without = 0;
    taut_process_spec spec = plain();
    spec.close_fds = 0; /* now close-on-exec decides */
    const char *listed = run_with(spec, list_fds, 0);
    for (int i = 0; i < 4; i++) {
        char line[16];
        snprintf(line, sizeof line, "\n%d\n", fds[i]);
        CHECK_EQ(strstr(listed, line) != NULL, i % 2);
    }
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    close(high);
}

/* Standard fds that trade places: none is lost by being replaced too early. */
static void standard_fds_trade_places(void) {
    int saved[3], pidfd, status, files[3];
    pid_t pid;
    taut_process_step failed;
    char text[64];
    static const char *const paths[] = {"/bin/sh", NULL};
    char *const argv[] = {"sh", "-c", "echo zero >&0; echo one >&1; echo two >&2", NULL};
    for (int i = 0; i < 3; i++) {
        saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
        files[i] = memfd_create("standard", MFD_CLOEXEC);
        CHECK(files[i] >= 0);
    }
    for (int i = 0; i < 3; i++)
        CHECK_EQ(dup3(files[i], i, O_CLOEXEC) < 0, 0);
    taut_process_spec spec = plain();
    spec.stdio[0] = 1;
    spec.stdio[1] = 2;
    spec.stdio[2] = 0;
    spec.paths = paths;
    spec.argv = argv;
    spec.envp = env;
    int rc = taut_process_spawn(&spec, &pid, &pidfd, &failed);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    CHECK_EQ(rc, 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    close(pidfd);
    static const char *const expected[] = {"two\n", "zero\n", "one\n"};
    for (int i = 0; i < 3; i++) {
        ssize_t n = pread(files[i], text, sizeof text - 1, 0);
        CHECK(n >= 0);
        text[n] = '\0';
        CHECK(strcmp(text, expected[i]) == 0);
        close(files[i]);
    }
}

/* ---- signals --------------------------------------------------------------------------------- */

static void on_signal(int signum) {}

/* What this program ignores: what it was told to, and what it was started with (by glibc's
 * posix_spawn(), for one, which leaves 32 and 33 ignored). */
static unsigned long ignored_here(void) {
    char line[128];
    unsigned long set = 0;
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "SigIgn: %lx", &set) == 1)
            break;
    fclose(f);
    return set;
}

static void check_signals(taut_process_spec spec, unsigned long blocked, unsigned long ignored) {
    const char *status = run_with(spec, "exec /bin/cat /proc/self/status", 0);
    char expected[128];
    snprintf(expected, sizeof expected, "SigBlk:\t%016lx\nSigIgn:\t%016lx\nSigCgt:\t%016x\n",
             blocked, ignored, 0);
    if (strstr(status, expected) == NULL) {
        fprintf(stderr, "  no %s in %s\n", expected, status);
        check_fail(__FILE__, __LINE__, "signals");
    }
}

static void signals_are_as_for_any_program(void) {
    struct sigaction handler = {.sa_handler = on_signal}, ignored = {.sa_handler = SIG_IGN}, old[3];
    sigset_t one, before, after;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &one, &before);
    sigaction(SIGTERM, &handler, &old[0]);
    sigaction(SIGPIPE, &ignored, &old[1]);
    sigaction(SIGUSR2, &ignored, &old[2]);
    taut_process_spec spec = plain();
    unsigned long here = ignored_here();
    CHECK_EQ(here & 0x1800, 0x1800);
    check_signals(spec, 0x200, here & ~(1UL << (SIGPIPE - 1) | 1UL << (SIGXFSZ - 1)));
    spec.restore_signals = 0;
    check_signals(spec, 0x200, here);
    /* The caller's own are untouched. */
    struct sigaction now;
    sigaction(SIGTERM, &old[0], &now);
    CHECK(now.sa_handler == on_signal);
    sigaction(SIGPIPE, &old[1], &now);
    CHECK(now.sa_handler == SIG_IGN);
    sigaction(SIGUSR2, &old[2], NULL);
    pthread_sigmask(SIG_SETMASK, &before, &after);
    CHECK_EQ(memcmp(&one, &after, sizeof(long)), 0);
}

/* ---- what cannot be started ------------------------------------------------------------------ */

static void check_failure(taut_process_spec spec, const char *const *paths, int err,
                          taut_process_step step) {
    char *const argv[] = {"x", NULL};
    int pidfd = 77, fds = check_fd_count();
    pid_t pid = 77;
    taut_process_step failed = 0;
    spec.paths = paths;
    spec.argv = argv;
    spec.envp = env;
    CHECK_EQ(taut_process_spawn(&spec, &pid, &pidfd, &failed), err);
    CHECK_EQ(failed, step);
    CHECK_EQ(pid, -1);
    CHECK_EQ(pidfd, -1);
    CHECK_EQ(check_fd_count(), fds);
    check_no_child_left();
}

static void failures_name_their_step(void) {
    if (check_under_valgrind())
        return; /* makes a plain fork of the clone, whose memory is not ours: nobody hears of it */
    static const char *const none[] = {"/nowhere/x", "/dev/null/x", NULL};
    static const char *const barred[] = {"/nowhere/x", "/etc/passwd", "/dev/null/x", NULL};
    static const char *const first[] = {"/dev/null/x", "/nowhere/x", NULL};
    static const char *const good[] = {"/bin/true", NULL};
    for (int run_as = 0; run_as < 2; run_as++) {
        taut_process_spec spec = plain();
        spec.set_uid = run_as;
        spec.uid = geteuid();
        check_failure(spec, none, -ENOTDIR, TAUT_PROCESS_EXEC);
        check_failure(spec, first, -ENOENT, TAUT_PROCESS_EXEC);
        check_failure(spec, barred, -EACCES, TAUT_PROCESS_EXEC);
        spec.cwd = "/nowhere";
        check_failure(spec, good, -ENOENT, TAUT_PROCESS_CWD);
        spec.cwd = NULL;
        spec.process_group = 1;
        check_failure(spec, good, -EPERM, TAUT_PROCESS_SETUP);
        spec.process_group = -1;
        int closed = 1000;
        spec.keep_fds = &closed;
        spec.keep_count = 1;
        check_failure(spec, good, -EBADF, TAUT_PROCESS_SETUP);
        spec.keep_count = 0;
        spec.stdio[2] = 1000;
        check_failure(spec, good, -EBADF, TAUT_PROCESS_SETUP);
    }
}

static void allocation_walk(int may_fail) {
    static const char *const paths[] = {"/bin/true", NULL};
    char *const argv[] = {"true", NULL};
    for (int run_as = 0; run_as < 2; run_as++) {
        taut_process_spec spec = plain();
        int pidfd;
        pid_t pid;
        taut_process_step failed;
        spec.set_uid = run_as;
        spec.uid = geteuid();
        spec.paths = paths;
        spec.argv = argv;
        spec.envp = env;
        int rc = taut_process_spawn(&spec, &pid, &pidfd, &failed);
        if (rc < 0) {
            CHECK(may_fail);
            CHECK_EQ(rc, -ENOMEM);
            CHECK_EQ(failed, TAUT_PROCESS_CLONE);
            continue;
        }
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
        close(pidfd);
    }
}

static void memory_may_be_short(void) {
    check_every_allocation(allocation_walk);
}

/* ---- at once --------------------------------------------------------------------------------- */

static _Atomic int fork_hooks;
static void on_fork(void) {
    fork_hooks++;
}

static void *start_many(void *arg) {
    for (int i = 0; i < CHILDREN; i++)
        allocation_walk(0);
    return NULL;
}

static void threads_start_children_at_once(void) {
    pthread_t threads[THREADS];
    int fds = check_fd_count();
    CHECK_EQ(pthread_atfork(on_fork, on_fork, on_fork), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, start_many, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(check_fd_count(), fds);
    CHECK_EQ(fork_hooks, 0);
    check_no_child_left();
}

static void kernels_without_pidfd_do(void) {
    taut_process_without = TAUT_PROCESS_NO_PIDFD;
    (void)run_with(plain(), "exit 5", 5);
    taut_process_without = 0;
}

static const check_test tests[] = {
    CHECK_TEST(programs_get_arguments_and_environment),
    CHECK_TEST(options_reach_the_program),
    CHECK_TEST(ids_are_changed),
    CHECK_TEST(other_fds_are_closed),
    CHECK_TEST(standard_fds_trade_places),
    CHECK_TEST(signals_are_as_for_any_program),
    CHECK_TEST(failures_name_their_step),
    CHECK_TEST(memory_may_be_short),
    CHECK_TEST(threads_start_children_at_once),
    CHECK_TEST(kernels_without_pidfd_do),
};
CHECK_MAIN(tests)
