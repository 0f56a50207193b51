#include "io/service.h"

#include <signal.h>
#include <sys/prctl.h>

#include "io/private_fds.h"

#define STACK_SIZE (256 * 1024)

/* On the starter's stack: it waits until `begun`. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int begun;
    const char *name;
    void *(*main_fn)(void *arg);
    void *arg;
} start;

static void *service_main(void *arg) {
    start *s = arg;
    void *(*main_fn)(void *) = s->main_fn;
    void *main_arg = s->arg;
    prctl(PR_SET_NAME, s->name);
    (void)taut_private_fds_enter(); /* where it is refused the loop's system calls cost more */
    pthread_mutex_lock(&s->lock);
    s->begun = 1;
    pthread_cond_signal(&s->moved);
    pthread_mutex_unlock(&s->lock); /* from here on `s` is gone */
    return main_fn(main_arg);
}

static int create(pthread_t *thread, start *s) {
    sigset_t all, old;
    pthread_attr_t attr;
    int rc = pthread_attr_init(&attr);
    if (rc != 0)
        return -rc;
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    rc = pthread_create(thread, &attr, service_main, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -rc;
}

int taut_service_start(pthread_t *thread, const char *name, void *(*main_fn)(void *arg),
                       void *arg) {
    start s = {.lock = PTHREAD_MUTEX_INITIALIZER,
               .moved = PTHREAD_COND_INITIALIZER,
               .name = name,
               .main_fn = main_fn,
               .arg = arg};
    int rc = create(thread, &s);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s.lock);
    while (!s.begun)
        pthread_cond_wait(&s.moved, &s.lock);
    pthread_mutex_unlock(&s.lock);
    return 0;
}

void taut_service_wake_loop(taut_loop *l) {
    const uint64_t one = 1;
    if (atomic_exchange(&l->wakeup.pending, 1) == 0)
        (void)taut_private_fds_write(l->wakeup.watch.fd, (const char *)&one, sizeof one);
}
