/* See resolver.h. A resolver is shared by its loop and by every lookup on the pool, each holding
 * one count: the loop may close while a thread sits in libc for a minute. */
#include "io/resolver.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "base/mem.h"

struct taut_resolver {
    pthread_mutex_t lock; /* over `done` and `loop` */
    taut_list done;       /* of taut_job.link */
    taut_loop *loop;      /* NULL once closed */
    taut_threadpool *pool;
    taut_list under_way; /* loop thread only, as the next one */
    unsigned pending;
    atomic_uint count;
};

static void resolver_unref(taut_resolver *r) {
    if (atomic_fetch_sub(&r->count, 1) == 1) {
        pthread_mutex_destroy(&r->lock);
        taut_free(r);
    }
}

static char *copy_string(const char *s) {
    size_t size = strlen(s) + 1;
    char *copy = taut_malloc(size);
    return copy ? memcpy(copy, s, size) : NULL;
}

taut_lookup *taut_lookup_new(const char *host, const char *service, const struct addrinfo *hints) {
    taut_lookup *lk = taut_calloc(1, sizeof *lk);
    if (!lk)
        return NULL;
    taut_list_init(&lk->link);
    taut_list_init(&lk->job.link);
    lk->hints = *hints;
    lk->host = host ? copy_string(host) : NULL;
    lk->service = service ? copy_string(service) : NULL;
    if ((host && !lk->host) || (service && !lk->service)) {
        taut_lookup_free(lk);
        return NULL;
    }
    return lk;
}

void taut_lookup_free(taut_lookup *lk) {
    if (!lk)
        return;
    if (lk->found)
        freeaddrinfo(lk->found);
    taut_free(lk->host);
    taut_free(lk->service);
    taut_free(lk);
}

void taut_lookup_run(taut_lookup *lk) {
    lk->found = NULL;
    errno = 0;
    lk->rc = getaddrinfo(lk->host, lk->service, &lk->hints, &lk->found);
    if (lk->rc == 0 && lk->reverse) {
        lk->ambiguous = lk->found->ai_next != NULL;
        if (!lk->ambiguous)
            lk->rc = getnameinfo(lk->found->ai_addr, lk->found->ai_addrlen, lk->host_name,
                                 sizeof lk->host_name, lk->service_name, sizeof lk->service_name,
                                 lk->name_flags);
    }
    lk->sys_err = errno;
}

static void job_work(taut_job *j) {
    taut_lookup_run(TAUT_CONTAINER(j, taut_lookup, job));
}

static void job_done(taut_job *j) {
    taut_lookup *lk = TAUT_CONTAINER(j, taut_lookup, job);
    taut_resolver *r = lk->resolver;
    pthread_mutex_lock(&r->lock);
    int open = r->loop != NULL;
    if (open) {
        taut_list_append(&r->done, &j->link);
        taut_loop_wake(r->loop); /* under the lock: closing waits for it */
    }
    pthread_mutex_unlock(&r->lock);
    if (!open)
        taut_lookup_free(lk);
    resolver_unref(r);
}

int taut_resolver_new(taut_resolver **out, taut_loop *loop, unsigned threads_max) {
    taut_resolver *r = taut_calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    int rc = taut_threadpool_new(&r->pool, threads_max);
    if (rc < 0) {
        taut_free(r);
        return rc;
    }
    pthread_mutex_init(&r->lock, NULL);
    taut_list_init(&r->done);
    taut_list_init(&r->under_way);
    atomic_init(&r->count, 1);
    r->loop = loop;
    *out = r;
    return 0;
}

int taut_resolver_submit(taut_resolver *r, taut_lookup *lk) {
    lk->resolver = r;
    lk->job.work = job_work;
    lk->job.done = job_done;
    atomic_fetch_add(&r->count, 1);
    taut_list_append(&r->under_way, &lk->link);
    r->pending++;
    lk->begun_ns = r->loop->now_ns;
    int rc = taut_threadpool_submit(r->pool, &lk->job);
    if (rc < 0) {
        taut_list_unlink(&lk->link);
        r->pending--;
        resolver_unref(r);
    }
    return rc;
}

void taut_lookup_cancel(taut_lookup *lk) {
    taut_resolver *r = lk->resolver;
    lk->owner = NULL;
    if (taut_threadpool_cancel(r->pool, &lk->job)) {
        taut_list_unlink(&lk->link);
        r->pending--;
        taut_lookup_free(lk);
        resolver_unref(r);
    }
}

static int take_done(taut_resolver *r, taut_list *out) {
    pthread_mutex_lock(&r->lock);
    taut_list_take(out, &r->done);
    pthread_mutex_unlock(&r->lock);
    return !taut_list_empty(out);
}

void taut_resolver_drain(taut_resolver *r) {
    taut_list done;
    if (!take_done(r, &done))
        return;
    while (!taut_list_empty(&done)) {
        taut_lookup *lk = TAUT_CONTAINER(done.next, taut_lookup, job.link);
        taut_list_unlink(&lk->job.link);
        taut_list_unlink(&lk->link);
        r->pending--;
        uint64_t took_ns = r->loop->now_ns - lk->begun_ns;
        taut_vitals_lookup_done(&r->loop->vitals, took_ns);
        taut_recorder_add(&r->loop->recorder, TAUT_EVENT_LOOKUP, took_ns & (UINT64_MAX >> 8), 0);
        if (lk->owner)
            lk->finished(lk);
        else
            taut_lookup_free(lk);
    }
}

void taut_resolver_state_get(taut_resolver *r, taut_resolver_state *out) {
    *out = (taut_resolver_state){.pending = r->pending};
    taut_threadpool_counts(r->pool, &out->threads, &out->queued);
    if (!taut_list_empty(&r->under_way))
        out->oldest_ns = TAUT_CONTAINER(r->under_way.next, taut_lookup, link)->begun_ns;
}

void taut_resolver_close(taut_resolver *r) {
    if (!r)
        return;
    taut_list done;
    pthread_mutex_lock(&r->lock);
    /* Under the lock no thread can hand a lookup back, so that every one still exists. */
    while (!taut_list_empty(&r->under_way)) {
        taut_lookup *lk = TAUT_CONTAINER(r->under_way.next, taut_lookup, link);
        taut_list_unlink(&lk->link);
        if (lk->owner)
            lk->abandoned(lk);
    }
    r->loop = NULL; /* whoever comes back from now on frees its own lookup */
    taut_list_take(&done, &r->done);
    pthread_mutex_unlock(&r->lock);
    while (!taut_list_empty(&done)) {
        taut_lookup *lk = TAUT_CONTAINER(done.next, taut_lookup, job.link);
        taut_list_unlink(&lk->job.link);
        taut_lookup_free(lk);
    }
    taut_threadpool_release(r->pool);
    resolver_unref(r);
}
