#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "check.h"
#include "io/thread_stat.h"

#define DEADLINE_NS (20 * TAUT_NS_PER_S)

/* A thread that sleeps in one call, until it is let go. */
typedef struct {
    void (*block)(void *arg);
    int fds[2];
    pthread_mutex_t lock;
    _Atomic pid_t native_id;
    _Atomic int done;
} sleeper;

static void in_read(void *arg) {
    char byte;
    CHECK_EQ(read(((sleeper *)arg)->fds[0], &byte, 1), 1);
}
static void in_poll(void *arg) {
    struct pollfd p = {.fd = ((sleeper *)arg)->fds[0], .events = POLLIN};
    CHECK_EQ(poll(&p, 1, -1), 1);
}
static void in_lock(void *arg) {
    pthread_mutex_lock(&((sleeper *)arg)->lock);
    pthread_mutex_unlock(&((sleeper *)arg)->lock);
}
static void in_sleep(void *arg) {
    struct timespec until;
    while (!((sleeper *)arg)->done) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += 50 * 1000 * 1000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
}
static void in_nap(void *arg) {
    while (!((sleeper *)arg)->done)
        usleep(50 * 1000);
}
static void in_wait(void *arg) {
    pid_t child = fork();
    if (child == 0) {
        char byte;
        _exit(read(((sleeper *)arg)->fds[0], &byte, 1) == 1 ? 0 : 1);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static void *sleeper_main(void *arg) {
    sleeper *s = arg;
    s->native_id = (pid_t)syscall(SYS_gettid);
    s->block(s);
    return NULL;
}

/* Until it sleeps for that. */
static void await(sleeper *s, enum taut_blocked wanted) {
    uint64_t end = taut_clock_now_ns() + DEADLINE_NS;
    for (;;) {
        taut_thread_call call = {.number = -1};
        if (s->native_id != 0)
            call = taut_thread_call_now(s->native_id);
        if (call.number >= 0 && taut_thread_blocked(s->native_id, &call) == wanted)
            break;
        if (taut_clock_now_ns() > end)
            check_fail(__FILE__, __LINE__, "the thread was not seen asleep");
        usleep(200);
    }
}

static void sleeps(void (*block)(void *), enum taut_blocked wanted, int sockets) {
    sleeper s = {.block = block, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t thread;
    if (sockets)
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s.fds), 0);
    else
        CHECK_EQ(pipe(s.fds), 0);
    pthread_mutex_lock(&s.lock);
    CHECK_EQ(pthread_create(&thread, NULL, sleeper_main, &s), 0);
    await(&s, wanted);
    s.done = 1;
    pthread_mutex_unlock(&s.lock);
    CHECK_EQ(write(s.fds[1], "x", 1), 1);
    pthread_join(thread, NULL);
    close(s.fds[0]);
    close(s.fds[1]);
}

static void what_it_sleeps_for(void) {
    sleeps(in_read, TAUT_BLOCKED_READ, 0);
    sleeps(in_read, TAUT_BLOCKED_SOCKET, 1);
    sleeps(in_poll, TAUT_BLOCKED_READ, 0);
    sleeps(in_poll, TAUT_BLOCKED_SOCKET, 1);
    sleeps(in_lock, TAUT_BLOCKED_LOCK, 0);
    sleeps(in_sleep, TAUT_BLOCKED_SLEEP, 0);
    sleeps(in_nap, TAUT_BLOCKED_NAP, 0);
    sleeps(in_wait, TAUT_BLOCKED_CHILD, 0);
}

static void other_calls(void) {
    int fds[2];
    taut_thread_call call = {.number = SYS_write};
    pid_t self = (pid_t)syscall(SYS_gettid);
    CHECK_EQ(pipe(fds), 0);
    call.args[0] = (unsigned long)fds[1];
    CHECK_EQ(taut_thread_blocked(self, &call), TAUT_BLOCKED_WRITE);
    close(fds[0]);
    close(fds[1]);
    CHECK_EQ(taut_thread_blocked(self, &call), TAUT_BLOCKED_UNKNOWN); /* no fd any more */
    call.number = SYS_fcntl;
    call.args[1] = F_SETLKW;
    CHECK_EQ(taut_thread_blocked(self, &call), TAUT_BLOCKED_FILE_LOCK);
    call.args[1] = F_GETFL;
    CHECK_EQ(taut_thread_blocked(self, &call), TAUT_BLOCKED_UNKNOWN);
    call.number = -1;
    CHECK_EQ(taut_thread_blocked(self, &call), TAUT_BLOCKED_UNKNOWN);
}

static void no_such_thread(void) {
    pid_t gone = fork(); /* a process is no thread of ours */
    if (gone == 0)
        _exit(0);
    CHECK_EQ(taut_thread_state(gone), 0);
    CHECK_EQ(taut_thread_delay_ns(gone), 0);
    CHECK_EQ(taut_thread_call_now(gone).number, -1);
    CHECK_EQ(waitpid(gone, NULL, 0), gone);
    CHECK_EQ(taut_thread_state((pid_t)syscall(SYS_gettid)), 'R');
}

static const check_test tests[] = {CHECK_TEST(what_it_sleeps_for), CHECK_TEST(other_calls),
                                   CHECK_TEST(no_such_thread)};
CHECK_MAIN(tests)
