#include "io/threadpool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include "base/clock.h"
#include "base/mem.h"
#include "io/forks.h"
#include "io/sys.h"

#define IDLE_NS_DEFAULT (10 * TAUT_NS_PER_S)

struct taut_threadpool {
    pthread_mutex_t lock; /* guards everything below, and a job's state until it runs `done` */
    pthread_cond_t work;
    taut_list queue;
    unsigned queued, threads, idle, threads_max;
    uint64_t idle_ns;
    int released;
    uint32_t forks; /* of the process whose threads these are */
};

static void destroy(taut_threadpool *tp) {
    pthread_cond_destroy(&tp->work);
    pthread_mutex_destroy(&tp->lock);
    taut_free(tp);
}

static int work_init(taut_threadpool *tp) {
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc != 0)
        return -rc;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&tp->work, &attr);
    pthread_condattr_destroy(&attr);
    return -rc;
}

/* From outside the pool. In a forked child the pool has no threads, whatever they held or ran. */
static void lock(taut_threadpool *tp) {
    if (TAUT_UNLIKELY(tp->forks != taut_forks())) {
        tp->forks = taut_forks();
        tp->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
        (void)work_init(tp); /* it went well before */
        tp->threads = tp->idle = 0;
    }
    pthread_mutex_lock(&tp->lock);
}

int taut_threadpool_new(taut_threadpool **out, unsigned threads_max) {
    taut_threadpool *tp = taut_calloc(1, sizeof *tp);
    if (!tp)
        return -ENOMEM;
    int rc = taut_forks_init();
    if (rc == 0)
        rc = work_init(tp);
    if (rc < 0) {
        taut_free(tp);
        return rc;
    }
    pthread_mutex_init(&tp->lock, NULL);
    taut_list_init(&tp->queue);
    tp->threads_max = threads_max ? threads_max : 1;
    tp->idle_ns = IDLE_NS_DEFAULT;
    tp->forks = taut_forks();
    *out = tp;
    return 0;
}

void taut_threadpool_set_idle_ns(taut_threadpool *tp, uint64_t idle_ns) {
    lock(tp);
    tp->idle_ns = idle_ns;
    pthread_mutex_unlock(&tp->lock);
}

unsigned taut_threadpool_threads(taut_threadpool *tp) {
    lock(tp);
    unsigned n = tp->threads;
    pthread_mutex_unlock(&tp->lock);
    return n;
}

void taut_threadpool_counts(taut_threadpool *tp, unsigned *threads, unsigned *queued) {
    lock(tp);
    *threads = tp->threads;
    *queued = tp->queued;
    pthread_mutex_unlock(&tp->lock);
}

/* Called with the lock held; holds it again when it returns. Says whether there is work. */
static int wait_for_work(taut_threadpool *tp) {
    uint64_t now_ns = taut_sys_now_ns();
    uint64_t end_ns = tp->idle_ns < TAUT_NEVER_NS - now_ns ? now_ns + tp->idle_ns : TAUT_NEVER_NS;
    struct timespec end = {.tv_sec = (time_t)(end_ns / TAUT_NS_PER_S),
                           .tv_nsec = (long)(end_ns % TAUT_NS_PER_S)};
    int rc = 0;
    tp->idle++;
    while (taut_list_empty(&tp->queue) && !tp->released && rc == 0)
        rc = pthread_cond_timedwait(&tp->work, &tp->lock, &end);
    tp->idle--;
    return !taut_list_empty(&tp->queue);
}

static void *thread_main(void *arg) {
    taut_threadpool *tp = arg;
    pthread_mutex_lock(&tp->lock);
    while (wait_for_work(tp)) {
        taut_job *j = TAUT_CONTAINER(tp->queue.next, taut_job, link);
        taut_list_unlink(&j->link);
        tp->queued--;
        j->state = TAUT_JOB_RUNNING;
        pthread_mutex_unlock(&tp->lock);
        j->work(j);
        pthread_mutex_lock(&tp->lock);
        j->state = TAUT_JOB_DONE;
        pthread_mutex_unlock(&tp->lock);
        j->done(j); /* the job is its owner's again */
        pthread_mutex_lock(&tp->lock);
    }
    tp->threads--;
    int last = tp->released && tp->threads == 0;
    pthread_mutex_unlock(&tp->lock);
    if (last)
        destroy(tp);
    return NULL;
}

/* With the lock held. A thread inherits the mask of its creator: signals are the main thread's. */
static int start_thread(taut_threadpool *tp) {
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    int rc = pthread_attr_init(&attr);
    if (rc != 0)
        return -rc;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&thread, &attr, thread_main, tp);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    tp->threads += rc == 0;
    return -rc;
}

int taut_threadpool_submit(taut_threadpool *tp, taut_job *j) {
    int rc = 0;
    lock(tp);
    /* Threads that were signalled but did not get the lock yet still count as idle, and so does
     * the work left for them as queued. */
    if (tp->queued + 1 > tp->idle && tp->threads < tp->threads_max)
        rc = start_thread(tp);
    if (tp->threads > 0) { /* else nobody would ever come to it */
        rc = 0;
        j->state = TAUT_JOB_QUEUED;
        taut_list_append(&tp->queue, &j->link);
        tp->queued++;
        pthread_cond_signal(&tp->work);
    }
    pthread_mutex_unlock(&tp->lock);
    return rc;
}

int taut_threadpool_cancel(taut_threadpool *tp, taut_job *j) {
    lock(tp);
    int taken = j->state == TAUT_JOB_QUEUED;
    if (taken) {
        taut_list_unlink(&j->link);
        tp->queued--;
        j->state = TAUT_JOB_DROPPED;
    }
    pthread_mutex_unlock(&tp->lock);
    return taken;
}

void taut_threadpool_release(taut_threadpool *tp) {
    taut_list dropped;
    if (!tp)
        return;
    lock(tp);
    taut_list_take(&dropped, &tp->queue);
    tp->queued = 0;
    tp->released = 1;
    for (taut_list *l = dropped.next; l != &dropped; l = l->next)
        TAUT_CONTAINER(l, taut_job, link)->state = TAUT_JOB_DROPPED;
    int unused = tp->threads == 0;
    pthread_cond_broadcast(&tp->work);
    pthread_mutex_unlock(&tp->lock);
    if (unused)
        destroy(tp);
    while (!taut_list_empty(&dropped)) {
        taut_job *j = TAUT_CONTAINER(dropped.next, taut_job, link);
        taut_list_unlink(&j->link);
        j->done(j);
    }
}
