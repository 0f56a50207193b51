/* io/threadpool. Its source is included here so that starting a thread can fail on command. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>
#include "soon.h"

static int create_errno; /* what the next pthread_create fails with, 0: it works */
static int test_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                               void *arg) {
    return create_errno ? create_errno : pthread_create(thread, attr, fn, arg);
}
#define pthread_create test_pthread_create
#include "io/threadpool.c"
#undef pthread_create

typedef struct {
    taut_job job;
    pthread_t worker;
    _Atomic int *gate; /* not NULL: `work` waits until it is 1 */
    _Atomic int working, done;
    int state; /* as of `done` */
    sigset_t mask;
} task;

static _Atomic int working_now, working_most;

static void work(taut_job *j) {
    task *t = TAUT_CONTAINER(j, task, job);
    int now = atomic_fetch_add(&working_now, 1) + 1;
    if (now > working_most)
        working_most = now;
    t->worker = pthread_self();
    pthread_sigmask(SIG_SETMASK, NULL, &t->mask);
    t->working = 1;
    if (t->gate)
        CHECK_SOON(*t->gate);
    atomic_fetch_sub(&working_now, 1);
}

static void done(taut_job *j) {
    task *t = TAUT_CONTAINER(j, task, job);
    t->state = j->state;
    t->done = 1;
}

static void task_init(task *t, _Atomic int *gate) {
    memset(t, 0, sizeof *t);
    t->job.work = work;
    t->job.done = done;
    t->gate = gate;
}

static uint64_t live_blocks(void) {
    taut_mem_stats s;
    taut_mem_stats_get(&s);
    return s.live_blocks;
}

static int thread_count(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}
static int threads_at_first;

/* The last thread frees the pool, some time after the release, and ends. */
static void release(taut_threadpool *tp, uint64_t blocks_before) {
    taut_threadpool_release(tp);
    CHECK_SOON(live_blocks() == blocks_before);
    CHECK_SOON(thread_count() == threads_at_first);
}

static taut_threadpool *new_pool(unsigned threads_max) {
    taut_threadpool *tp = NULL;
    CHECK_EQ(taut_threadpool_new(&tp, threads_max), 0);
    return tp;
}

static void every_job_runs_once(void) {
    static task tasks[500];
    uint64_t before = live_blocks();
    taut_threadpool *tp = new_pool(3);
    working_most = 0;
    for (int i = 0; i < 500; i++) {
        task_init(&tasks[i], NULL);
        CHECK_EQ(taut_threadpool_submit(tp, &tasks[i].job), 0);
    }
    for (int i = 0; i < 500; i++) {
        CHECK_SOON(tasks[i].done);
        CHECK_EQ(tasks[i].state, TAUT_JOB_DONE);
        CHECK(!pthread_equal(tasks[i].worker, pthread_self()));
        for (int sig = 1; sig < 32; sig++)
            if (sig != SIGKILL && sig != SIGSTOP)
                CHECK(sigismember(&tasks[i].mask, sig));
    }
    CHECK(working_most <= 3);
    CHECK(taut_threadpool_threads(tp) <= 3);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CHECK(!sigismember(&mask, SIGTERM)); /* the submitter's own mask is as it was */
    release(tp, before);
}

static void jobs_run_side_by_side(void) {
    static task tasks[4];
    _Atomic int gate = 0;
    uint64_t before = live_blocks();
    taut_threadpool *tp = new_pool(4);
    CHECK_EQ(taut_threadpool_threads(tp), 0); /* on demand */
    for (int i = 0; i < 4; i++) {
        task_init(&tasks[i], &gate);
        CHECK_EQ(taut_threadpool_submit(tp, &tasks[i].job), 0);
    }
    for (int i = 0; i < 4; i++)
        CHECK_SOON(tasks[i].working);
    CHECK_EQ(taut_threadpool_threads(tp), 4);
    gate = 1;
    for (int i = 0; i < 4; i++)
        CHECK_SOON(tasks[i].done);
    release(tp, before);
}

static unsigned idle_count(taut_threadpool *tp) {
    pthread_mutex_lock(&tp->lock);
    unsigned n = tp->idle;
    pthread_mutex_unlock(&tp->lock);
    return n;
}

static void idle_threads_are_used_first(void) {
    task t;
    uint64_t before = live_blocks();
    taut_threadpool *tp = new_pool(4);
    for (int i = 0; i < 20; i++) {
        task_init(&t, NULL);
        CHECK_EQ(taut_threadpool_submit(tp, &t.job), 0);
        CHECK_SOON(t.done);
        CHECK_SOON(idle_count(tp) == 1);
        CHECK_EQ(taut_threadpool_threads(tp), 1);
    }
    release(tp, before);
}

static void cancelled_before_it_began(void) {
    task running, first, second;
    _Atomic int gate = 0;
    uint64_t before = live_blocks();
    taut_threadpool *tp = new_pool(1);
    task_init(&running, &gate);
    task_init(&first, NULL);
    task_init(&second, NULL);
    CHECK_EQ(taut_threadpool_submit(tp, &running.job), 0);
    CHECK_SOON(running.working);
    CHECK_EQ(taut_threadpool_submit(tp, &first.job), 0);
    CHECK_EQ(taut_threadpool_submit(tp, &second.job), 0);
    CHECK_EQ(taut_threadpool_cancel(tp, &running.job), 0);
    CHECK_EQ(taut_threadpool_cancel(tp, &first.job), 1);
    CHECK_EQ(taut_threadpool_cancel(tp, &first.job), 0);
    gate = 1;
    CHECK_SOON(second.done && running.done);
    CHECK_EQ(taut_threadpool_cancel(tp, &second.job), 0);
    CHECK(!first.working && !first.done);
    release(tp, before);
}

static void release_drops_what_waits(void) {
    task running, waiting[3];
    _Atomic int gate = 0;
    uint64_t before = live_blocks();
    taut_threadpool *tp = new_pool(1);
    task_init(&running, &gate);
    CHECK_EQ(taut_threadpool_submit(tp, &running.job), 0);
    CHECK_SOON(running.working);
    for (int i = 0; i < 3; i++) {
        task_init(&waiting[i], NULL);
        CHECK_EQ(taut_threadpool_submit(tp, &waiting[i].job), 0);
    }
    taut_threadpool_release(tp); /* returns while one still runs */
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(waiting[i].done, 1);
        CHECK_EQ(waiting[i].state, TAUT_JOB_DROPPED);
        CHECK_EQ(waiting[i].working, 0);
    }
    CHECK_EQ(running.done, 0);
    gate = 1;
    CHECK_SOON(running.done);
    CHECK_EQ(running.state, TAUT_JOB_DONE);
    CHECK_SOON(live_blocks() == before);
    CHECK_SOON(thread_count() == threads_at_first);
    taut_threadpool_release(NULL);
}

static void idle_threads_end(void) {
    task t;
    uint64_t before = live_blocks();
    taut_threadpool *tp = new_pool(2);
    taut_threadpool_set_idle_ns(tp, TAUT_NS_PER_MS);
    for (int round = 0; round < 5; round++) {
        task_init(&t, NULL);
        CHECK_EQ(taut_threadpool_submit(tp, &t.job), 0);
        CHECK_SOON(t.done);
        CHECK_SOON(taut_threadpool_threads(tp) == 0);
    }
    release(tp, before);
    tp = new_pool(2); /* never used, for ever idle */
    taut_threadpool_set_idle_ns(tp, TAUT_NEVER_NS);
    task_init(&t, NULL);
    CHECK_EQ(taut_threadpool_submit(tp, &t.job), 0);
    CHECK_SOON(t.done);
    release(tp, before);
}

static void no_thread_can_start(void) {
    task first, second;
    uint64_t before = live_blocks();
    taut_threadpool *tp = new_pool(4);
    _Atomic int gate = 0;
    task_init(&first, &gate);
    task_init(&second, NULL);
    create_errno = EAGAIN;
    CHECK_EQ(taut_threadpool_submit(tp, &first.job), -EAGAIN);
    CHECK_EQ(taut_threadpool_threads(tp), 0);
    create_errno = 0;
    CHECK_EQ(taut_threadpool_submit(tp, &first.job), 0);
    create_errno = EAGAIN; /* the one thread there is will come to it */
    CHECK_EQ(taut_threadpool_submit(tp, &second.job), 0);
    CHECK_EQ(taut_threadpool_threads(tp), 1);
    gate = 1;
    CHECK_SOON(first.done && second.done);
    create_errno = 0;
    release(tp, before);
}

/* fork() copies none of the threads: the child's pool must start its own. */
static void a_forked_child_has_threads_of_its_own(void) {
    static task first, second;
    taut_threadpool *tp = NULL;
    uint64_t before = live_blocks();
    int status = -1;
    CHECK_EQ(taut_threadpool_new(&tp, 1), 0);
    task_init(&first, NULL);
    task_init(&second, NULL);
    CHECK_EQ(taut_threadpool_submit(tp, &first.job), 0);
    CHECK_SOON(first.done);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK_EQ(taut_threadpool_threads(tp), 0);
        CHECK_EQ(taut_threadpool_submit(tp, &second.job), 0);
        CHECK_SOON(second.done);
        taut_threadpool_release(tp);
        _exit(0);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    release(tp, before);
}

static void scenario(int may_fail) {
    static task t;
    taut_threadpool *tp = NULL;
    uint64_t before = live_blocks();
    int rc = taut_threadpool_new(&tp, 1);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    if (rc < 0)
        return;
    task_init(&t, NULL);
    CHECK_EQ(taut_threadpool_submit(tp, &t.job), 0);
    CHECK_SOON(t.done);
    release(tp, before);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {
    CHECK_TEST(every_job_runs_once),
    CHECK_TEST(jobs_run_side_by_side),
    CHECK_TEST(idle_threads_are_used_first),
    CHECK_TEST(cancelled_before_it_began),
    CHECK_TEST(release_drops_what_waits),
    CHECK_TEST(idle_threads_end),
    CHECK_TEST(a_forked_child_has_threads_of_its_own),
    CHECK_TEST(no_thread_can_start),
    CHECK_TEST(out_of_memory),
};
static void *nothing(void *arg) {
    return arg;
}

int main(int argc, char **argv) {
    pthread_t thread; /* a sanitizer starts one of its own along with the first */
    CHECK(pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
    threads_at_first = thread_count();
    return check_main(tests, sizeof tests / sizeof *tests, argc, argv);
}
