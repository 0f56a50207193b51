#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "io/private_fds.h"

/* Open fds of the calling thread's table. */
static int own_fd_count(void) {
    int n = -1;
    DIR *d = opendir("/proc/thread-self/fd");
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void expect(int fd, const char *text) {
    char got[64];
    size_t size = strlen(text);
    CHECK_EQ(read(fd, got, sizeof got), size);
    CHECK_EQ(memcmp(got, text, size), 0);
}

typedef struct {
    int enter, refused; /* entered or not: everything else holds in either case */
    int one[2], closed;
} fixture;

static void *in_thread(void *arg) {
    fixture *f = arg;
    if (f->enter) {
        f->refused = taut_private_fds_enter() < 0;
        CHECK_EQ(taut_private_fds_enter() < 0, f->refused);
        if (!f->refused)
            CHECK_EQ(own_fd_count(), 1);
    }
    int before = own_fd_count();
    CHECK_EQ(taut_private_fds_write(f->one[1], "first", 5), 0);
    int from = taut_private_fds_get(f->one[0]);
    expect(from, "first");
    taut_private_fds_put(from);
    CHECK_EQ(taut_private_fds_write(f->closed, "x", 1), -EBADF);
    CHECK_EQ(taut_private_fds_write(f->one[1], "", 0), 0);
    CHECK_EQ(own_fd_count(), before);
    return NULL;
}

static void run_with(fixture *f) {
    pthread_t thread;
    int copy[2];
    CHECK_EQ(pipe(f->one), 0);
    copy[0] = f->one[0], copy[1] = f->one[1];
    f->closed = dup(copy[0]);
    close(f->closed);
    int before = check_fd_count();
    CHECK_EQ(pthread_create(&thread, NULL, in_thread, f), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(check_fd_count(), before);
    CHECK_EQ(write(copy[1], "y", 1), 1); /* still the process's, and open */
    expect(copy[0], "y");
    /* Nobody else holds the pipe: its reader sees the end. */
    close(copy[1]);
    char end;
    CHECK_EQ(read(copy[0], &end, 1), 0);
    close(copy[0]);
    if (f->refused)
        printf("  this kernel or sandbox refuses a private table\n");
}

static void a_thread_with_its_own_table(void) {
    run_with(&(fixture){.enter = 1});
}

static void a_thread_that_shares(void) {
    run_with(&(fixture){.enter = 0});
}

/* A thread shares the table of the one that has started it, here a table of its own. */
static void *in_second_thread(void *arg) {
    fixture *f = arg;
    CHECK_EQ(taut_private_fds_enter() < 0, f->refused);
    if (!f->refused)
        CHECK_EQ(own_fd_count(), 1);
    return in_thread(&(fixture){.one = {f->one[0], f->one[1]}, .closed = f->closed});
}

static void *in_first_thread(void *arg) {
    fixture *f = arg;
    pthread_t second;
    f->refused = taut_private_fds_enter() < 0;
    int before = own_fd_count();
    CHECK_EQ(pthread_create(&second, NULL, in_second_thread, f), 0);
    pthread_join(second, NULL);
    CHECK_EQ(own_fd_count(), before);
    return NULL;
}

static void a_thread_started_by_such_a_thread(void) {
    fixture f = {.enter = 0};
    pthread_t thread;
    CHECK_EQ(pipe(f.one), 0);
    f.closed = dup(f.one[0]);
    close(f.closed);
    CHECK_EQ(pthread_create(&thread, NULL, in_first_thread, &f), 0);
    pthread_join(thread, NULL);
    close(f.one[0]);
    close(f.one[1]);
}

typedef struct {
    int requests[2], answers[2], target;
} followed;

/* Copies each request to the target and confirms it, until there are no more. */
static void *writes_on_request(void *arg) {
    followed *f = arg;
    char request;
    (void)taut_private_fds_enter();
    for (;;) {
        int from = taut_private_fds_get(f->requests[0]);
        ssize_t n = read(from, &request, 1);
        taut_private_fds_put(from);
        if (n <= 0)
            return NULL;
        CHECK_EQ(taut_private_fds_write(f->target, &request, 1), 0);
        CHECK_EQ(taut_private_fds_write(f->answers[1], "+", 1), 0);
    }
}

static void a_redirected_fd_is_followed(void) {
    followed f;
    pthread_t thread;
    int first[2], second[2];
    CHECK_EQ(pipe(f.answers), 0);
    CHECK_EQ(pipe(f.requests), 0);
    CHECK_EQ(pipe(first), 0);
    CHECK_EQ(pipe(second), 0);
    f.target = dup(first[1]);
    CHECK_EQ(pthread_create(&thread, NULL, writes_on_request, &f), 0);
    CHECK_EQ(write(f.requests[1], "a", 1), 1);
    expect(f.answers[0], "+");
    CHECK_EQ(dup2(second[1], f.target), f.target);
    CHECK_EQ(write(f.requests[1], "b", 1), 1);
    expect(f.answers[0], "+");
    expect(first[0], "a");
    expect(second[0], "b");
    close(f.requests[1]);
    pthread_join(thread, NULL);
    int all[] = {f.answers[0], f.answers[1], f.requests[0], f.target,
                 first[0],     first[1],     second[0],     second[1]};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        close(all[i]);
}

static const check_test tests[] = {
    CHECK_TEST(a_thread_with_its_own_table),
    CHECK_TEST(a_thread_that_shares),
    CHECK_TEST(a_thread_started_by_such_a_thread),
    CHECK_TEST(a_redirected_fd_is_followed),
};

CHECK_MAIN(tests)
