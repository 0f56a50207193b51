/* io/loan: a user's fd is fit for the loop while lent, and comes back as it was. */
#include <pty.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "check.h"
#include "io/forks.h"
#include "io/loan.h"
#include "loop_fixture.h"

static int blocks(int fd) {
    int flags = fcntl(fd, F_GETFL);
    CHECK(flags >= 0);
    return !(flags & O_NONBLOCK);
}

#define TAKE(loan, fd, busy)                                                                       \
    taut_loan loan;                                                                                \
    CHECK(taut_loan_inspect(&(loan), fd) > 0);                                                     \
    CHECK_EQ(taut_loan_take(&(loan), busy), 0)

static void kinds(void) {
    int pipes[2], sockets[2];
    taut_loan loan;
    CHECK_EQ(pipe(pipes), 0);
    fx_unix_pair(sockets);
    int null = open("/dev/null", O_RDONLY), directory = open("/", O_RDONLY);
    CHECK_EQ(taut_loan_inspect(&loan, pipes[0]), TAUT_LOAN_PIPE);
    CHECK_EQ(taut_loan_inspect(&loan, sockets[0]), TAUT_LOAN_SOCKET);
    CHECK_EQ(taut_loan_inspect(&loan, null), TAUT_LOAN_CHARACTER);
    CHECK_EQ(taut_loan_inspect(&loan, directory), TAUT_LOAN_OTHER);
    CHECK_EQ(taut_loan_inspect(&loan, -1), -EBADF);
    taut_loan_return(&loan); /* harmless */
    close(pipes[0]);
    close(pipes[1]);
    close(sockets[0]);
    close(sockets[1]);
    close(null);
    close(directory);
}

static void comes_back_blocking(void) {
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    TAKE(loan, fds[0], 0);
    CHECK_EQ(taut_loan_fd(&loan), fds[0]);
    CHECK(!blocks(fds[0]));
    CHECK(blocks(fds[1]));
    CHECK(taut_loan_is_intact(&loan));
    taut_loan_return(&loan);
    CHECK(blocks(fds[0]));
    taut_loan_return(&loan);
    CHECK_EQ(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(taut_loan_inspect(&loan, fds[0]), TAUT_LOAN_PIPE);
    CHECK_EQ(taut_loan_take(&loan, 0), 0);
    taut_loan_return(&loan);
    CHECK(!blocks(fds[0])); /* as it was */
    close(fds[0]);
    close(fds[1]);
}

static void a_socket_is_not_touched(void) {
    int fds[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    TAKE(loan, fds[0], 0);
    CHECK(blocks(fds[0]));
    taut_loan_return(&loan);
    CHECK(blocks(fds[0]));
    close(fds[0]);
    close(fds[1]);
}

/* Two numbers of one description: it blocks again when both are back, in either order. */
static void shared_description(void) {
    for (int first = 0; first < 2; first++) {
        int fds[2];
        CHECK_EQ(pipe(fds), 0);
        int other = dup(fds[0]);
        TAKE(one, fds[0], 0);
        TAKE(two, other, 0);
        CHECK_EQ(taut_loan_fd(&two), other);
        taut_loan_return(first == 0 ? &one : &two);
        CHECK(!blocks(other));
        taut_loan_return(first == 0 ? &two : &one);
        CHECK(blocks(other));
        close(fds[0]);
        close(fds[1]);
        close(other);
    }
}

/* epoll knows a number once: who comes second works on a duplicate. */
static void one_number_twice(void) {
    int fds[2], before;
    CHECK_EQ(pipe(fds), 0);
    before = check_fd_count();
    TAKE(one, fds[0], 0);
    TAKE(two, fds[0], 0);
    CHECK_EQ(taut_loan_fd(&one), fds[0]);
    CHECK(taut_loan_fd(&two) != fds[0]);
    taut_loan_return(&one);
    CHECK(!blocks(fds[0]));
    taut_loan_return(&two);
    CHECK(blocks(fds[0]));
    CHECK_EQ(check_fd_count(), before);
    TAKE(watched, fds[1], 1); /* the user has a reader or writer there */
    CHECK(taut_loan_fd(&watched) != fds[1]);
    taut_loan_return(&watched);
    CHECK(blocks(fds[1]));
    TAKE(steps_aside, fds[1], 0);
    CHECK_EQ(taut_loan_duplicate(&steps_aside), 0);
    CHECK_EQ(taut_loan_duplicate(&steps_aside), 0);
    CHECK(taut_loan_fd(&steps_aside) != fds[1]);
    taut_loan_return(&steps_aside);
    CHECK(blocks(fds[1]));
    CHECK_EQ(check_fd_count(), before);
    close(fds[0]);
    close(fds[1]);
}

static void the_number_names_another_file(void) {
    int fds[2], others[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(pipe(others), 0);
    CHECK_EQ(fcntl(others[0], F_SETFL, O_NONBLOCK), 0);
    TAKE(loan, fds[0], 0);
    CHECK_EQ(dup2(others[0], fds[0]), fds[0]);
    CHECK(!taut_loan_is_intact(&loan));
    taut_loan_return(&loan);
    CHECK(!blocks(others[0])); /* it is not ours to change */
    close(fds[0]);
    close(fds[1]);
    close(others[0]);
    close(others[1]);
}

/* Its description is the parent's, too, who goes on using it. */
static void a_forked_child_changes_nothing(void) {
    int fds[2], status;
    CHECK_EQ(taut_forks_init(), 0);
    CHECK_EQ(pipe(fds), 0);
    TAKE(loan, fds[0], 0);
    pid_t child = fork();
    if (child == 0) {
        taut_loan_return(&loan);
        _Exit(blocks(fds[0]));
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK(!blocks(fds[0]));
    taut_loan_return(&loan);
    CHECK(blocks(fds[0]));
    close(fds[0]);
    close(fds[1]);
}

/* In a child, whose standard input is `fd`: 0 when that stays blocking while lent. */
static int as_standard_input(int fd, int is_reopened) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        CHECK_EQ(dup2(fd, 0), 0);
        TAKE(loan, fd, 0); /* by another number of the same description */
        int own = taut_loan_fd(&loan);
        CHECK_EQ(own != fd, is_reopened);
        CHECK_EQ(blocks(0), is_reopened);
        CHECK(!blocks(own));
        taut_loan_return(&loan);
        CHECK(blocks(0));
        CHECK(!is_reopened || !fx_fd_is_open(own));
        _Exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    return status;
}

static void standard_streams_stay_blocking(void) {
    int fds[2], master, slave;
    char name[] = "/tmp/taut-loan-XXXXXX";
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(openpty(&master, &slave, NULL, NULL, NULL), 0);
    CHECK_EQ(as_standard_input(fds[0], 1), 0);
    CHECK_EQ(as_standard_input(slave, 1), 0);
    CHECK_EQ(as_standard_input(master, 0), 0); /* opened again it would be another terminal */
    CHECK(mkdtemp(name) != NULL);
    char path[64];
    snprintf(path, sizeof path, "%s/fifo", name);
    CHECK_EQ(mkfifo(path, 0600), 0);
    int fifo = open(path, O_RDWR);
    CHECK_EQ(as_standard_input(fifo, 0), 0);
    unlink(path);
    rmdir(name);
    close(fifo);
    close(fds[0]);
    close(fds[1]);
    close(master);
    close(slave);
}

static const check_test tests[] = {
    CHECK_TEST(kinds),
    CHECK_TEST(comes_back_blocking),
    CHECK_TEST(a_socket_is_not_touched),
    CHECK_TEST(shared_description),
    CHECK_TEST(one_number_twice),
    CHECK_TEST(the_number_names_another_file),
    CHECK_TEST(a_forked_child_changes_nothing),
    CHECK_TEST(standard_streams_stay_blocking),
};
CHECK_MAIN(tests)
