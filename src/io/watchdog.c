#include "io/watchdog.h"

#include <errno.h>
#include <limits.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

#include "io/private_fds.h"
#include "io/stall_sites.h"
#include "io/sys.h"

#define TICK_MIN_NS TAUT_NS_PER_MS
#define TICK_MAX_NS (250 * TAUT_NS_PER_MS)
#define IDLE_NS TAUT_NS_PER_S                   /* of no work before the thread parks */
#define PARK_FALLBACK_NS (100 * TAUT_NS_PER_MS) /* without membarrier a wake-up may be missed */
#define WAIT_FDS_MAX 16
#define STACK_SIZE (256 * 1024)
static struct {
    pthread_mutex_t lock;
    pthread_cond_t idle; /* `busy` was cleared, or the thread has begun */
    taut_list targets;
    taut_watchdog_target *busy; /* one of its ops runs without the lock */
    pthread_t thread;
    int thread_live, stopping, parked, ready;
    int membarrier; /* the kernel has it and it is registered */
    _Atomic int thread_id;
    _Atomic uint32_t waker;
    int nudge_fd;       /* of the process: an eventfd while a target has a wait_fd, else -1 */
    uint64_t wake_ns;   /* when a sleep that is no parking ends */
    uint64_t active_ns; /* when some target was last seen at work */
    uint64_t exam_ns;   /* when an examination is due although nobody works */
    taut_stall_sites sites;
} dog = {.nudge_fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER, .idle = PTHREAD_COND_INITIALIZER};

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}
static uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ---- one target; called with the lock held ---- */

static void op_begin(taut_watchdog_target *t) {
    dog.busy = t;
    pthread_mutex_unlock(&dog.lock);
}

static void op_end(void) {
    pthread_mutex_lock(&dog.lock);
    dog.busy = NULL;
    pthread_cond_broadcast(&dog.idle);
}

/* Counts the stall that is over. 1: it was reported, so its end must be as well. */
static int stall_close(taut_watchdog_target *t, uint64_t now) {
    uint64_t lasted = now - t->stall.since_ns;
    taut_stall_spot *s = taut_stall_sites_find(&dog.sites, t->stall.site);
    int tell = t->reported;
    t->in_stall = t->reported = 0;
    t->stall.now_ns = now;
    if (lasted > atomic_load_explicit(&t->longest_ns, memory_order_relaxed))
        atomic_store_explicit(&t->longest_ns, lasted, memory_order_relaxed);
    if (lasted > atomic_load_explicit(&t->pulse->stall_longest_ns, memory_order_relaxed))
        atomic_store_explicit(&t->pulse->stall_longest_ns, lasted, memory_order_relaxed);
    if (tell)
        memcpy(t->stall.label, t->first_label, sizeof t->stall.label);
    if (s != NULL)
        taut_stall_site_over(s, lasted, tell);
    return tell;
}

/* Without the lock. */
static void stall_tell_end(taut_watchdog_target *t, int reported) {
    if (t->ops->over != NULL)
        t->ops->over(t->ctx, &t->stall);
    if (reported)
        t->ops->ended(t->ctx, &t->stall);
}

static void stall_end(taut_watchdog_target *t, uint64_t now) {
    int reported = stall_close(t, now);
    op_begin(t);
    stall_tell_end(t, reported);
    op_end();
}

/* Whether what was captured may be what came after the stall. */
static int moved_meanwhile(const taut_watchdog_target *t) {
    return atomic_load_explicit(&t->pulse->sequence, memory_order_relaxed) != t->sequence ||
           (t->ops->progress != NULL && t->ops->progress(t->ctx) != t->progress);
}

/* 0 when the owner says that this is no stall, or when it is over. */
static int stall_report(taut_watchdog_target *t, uint64_t now, uint64_t threshold) {
    uint64_t unshown = 0;
    t->stall.now_ns = now;
    t->stall.threshold_ns = threshold;
    t->stall.late = 0;
    if (!t->in_stall) {
        t->stall.since_ns = t->since_ns;
        t->stall.reports = 0;
    }
    op_begin(t);
    uint64_t hash = t->ops->capture(t->ctx, &t->stall);
    op_end();
    if (hash == 0 || (!t->stall.late && moved_meanwhile(t)))
        return 0;
    t->stall.site = hash;
    if (!t->in_stall) {
        atomic_fetch_add_explicit(&t->stalls, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->pulse->stalls, 1, memory_order_relaxed);
    }
    t->in_stall = 1;
    if (t->ops->noted != NULL) {
        op_begin(t);
        t->ops->noted(t->ctx, &t->stall);
        op_end();
    }
    uint64_t lasted = now - t->stall.since_ns;
    taut_stall_spot *s = taut_stall_sites_take(&dog.sites, hash, t->stall.label);
    if (t->reported || taut_stall_site_may_speak(s, now, lasted)) {
        if (!t->reported || s->shown_ns == 0)
            unshown = taut_stall_site_speaks(s, now, lasted);
        if (!t->reported)
            memcpy(t->first_label, t->stall.label, sizeof t->first_label);
        t->reported = 1;
        op_begin(t);
        t->ops->report(t->ctx, &t->stall, unshown);
        op_end();
    }
    t->stall.reports++;
    return 1;
}

static void progress_seen(taut_watchdog_target *t, uint64_t now) {
    if (t->in_stall)
        stall_end(t, now);
    t->since_ns = now;
    t->stuck_ns = 0;
    t->suspected = 0;
}

static int is_looked_at(const taut_watchdog_target *t) {
    return t->examined || atomic_load_explicit(&t->threshold_ns, memory_order_relaxed) > 0;
}

/* Looks at one target; `delta` is the time since the last look. Returns when to look again. */
static uint64_t sample(taut_watchdog_target *t, uint64_t now, uint64_t delta) {
    uint64_t threshold = atomic_load_explicit(&t->threshold_ns, memory_order_relaxed);
    uint64_t sequence = atomic_load_explicit(&t->pulse->sequence, memory_order_relaxed);
    uint32_t phase = atomic_load_explicit(&t->pulse->phase, memory_order_relaxed);
    uint64_t progress = t->ops->progress != NULL ? t->ops->progress(t->ctx) : 0;
    uint64_t tick = min_u64(max_u64(threshold / 4, TICK_MIN_NS), TICK_MAX_NS);
    int moved = sequence != t->sequence || progress != t->progress;
    int idle = !is_looked_at(t) || phase == TAUT_PHASE_STOPPED || phase == TAUT_PHASE_POLLING;
    t->sequence = sequence;
    t->progress = progress;
    if (moved)
        t->dismissed = 0;
    else if (phase == TAUT_PHASE_UNSURE)
        idle = t->ops->waiting(t->ctx);
    idle |= t->dismissed;
    if (moved || !idle)
        dog.active_ns = now;
    if (threshold == 0) {
        progress_seen(t, now);
        return t->examined ? now + TICK_MAX_NS : TAUT_NEVER_NS;
    }
    if (moved || idle) {
        progress_seen(t, now);
        return now + tick;
    }
    /* A sample that came late counts for two at most: after the whole process was stopped, or the
     * host was too busy to run us, nothing can be said about the loop. */
    t->stuck_ns += min_u64(delta, 2 * max_u64(tick, t->stuck_ns / 16));
    if (!t->suspected && t->ops->suspect != NULL)
        t->ops->suspect(t->ctx);
    t->suspected = 1;
    if (!t->in_stall)
        t->next_ns = threshold; /* it may have been changed meanwhile */
    if (t->stuck_ns >= t->next_ns) {
        while (t->next_ns <= t->stuck_ns)
            t->next_ns *= 2;
        if (!stall_report(t, now, threshold)) {
            progress_seen(t, now);
            t->dismissed = 1;
        }
    }
    tick = min_u64(max_u64(tick, t->stuck_ns / 16), TICK_MAX_NS);
    return now + min_u64(tick, max_u64(t->next_ns - t->stuck_ns, TICK_MIN_NS));
}

static uint64_t sample_all(uint64_t now, uint64_t delta) {
    uint64_t wake_ns = TAUT_NEVER_NS;
    dog.exam_ns = TAUT_NEVER_NS;
    /* An op may give up the lock, but a target cannot go while it is busy. */
    for (taut_list *n = dog.targets.next; n != &dog.targets; n = n->next) {
        taut_watchdog_target *t = TAUT_CONTAINER(n, taut_watchdog_target, link);
        wake_ns = min_u64(wake_ns, sample(t, now, delta));
        if (t->ops->examine != NULL)
            dog.exam_ns = min_u64(dog.exam_ns, t->ops->examine(t->ctx, now));
    }
    return wake_ns;
}

/* ---- sleeping ---- */

/* Until the waker moves from `seen` or the absolute time comes. */
static void futex_wait(uint32_t seen, uint64_t until_ns) {
    struct timespec ts = {.tv_sec = (time_t)(until_ns / TAUT_NS_PER_S),
                          .tv_nsec = (long)(until_ns % TAUT_NS_PER_S)};
    syscall(SYS_futex, &dog.waker, FUTEX_WAIT_BITSET_PRIVATE, seen,
            until_ns == TAUT_NEVER_NS ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void nudge(void) {
    const uint64_t one = 1;
    if (dog.nudge_fd >= 0)
        (void)taut_sys_write(dog.nudge_fd, &one, sizeof one);
}

static void wake(void) {
    nudge();
    atomic_fetch_add_explicit(&dog.waker, 1, memory_order_release);
    syscall(SYS_futex, &dog.waker, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static int someone_works(void) {
    for (taut_list *n = dog.targets.next; n != &dog.targets; n = n->next) {
        taut_watchdog_target *t = TAUT_CONTAINER(n, taut_watchdog_target, link);
        uint32_t phase = atomic_load_explicit(&t->pulse->phase, memory_order_relaxed);
        if (!is_looked_at(t))
            continue;
        if (atomic_load_explicit(&t->pulse->sequence, memory_order_relaxed) != t->sequence ||
            (phase == TAUT_PHASE_RUNNING && !t->dismissed))
            return 1;
    }
    return 0;
}

static void set_parked(uint32_t parked) {
    dog.parked = (int)parked;
    for (taut_list *n = dog.targets.next; n != &dog.targets; n = n->next) {
        taut_pulse *p = TAUT_CONTAINER(n, taut_watchdog_target, link)->pulse;
        atomic_store_explicit(&p->waker, &dog.waker, memory_order_relaxed);
        atomic_store_explicit(&p->parked, parked, memory_order_relaxed);
    }
}

/* What a parked thread polls: the fds of foreign loops and then the one that wake() writes to, all
 * borrowed, or nothing at all. `sure`: none of them could not be had. */
typedef struct {
    struct pollfd fds[WAIT_FDS_MAX + 1];
    nfds_t count;
    int sure;
} wait_set;

static void wait_set_add(wait_set *set, int fd) {
    int own = taut_private_fds_get(fd);
    set->sure &= own >= 0;
    set->fds[set->count++] = (struct pollfd){.fd = own, .events = POLLIN};
}

static void wait_set_open(wait_set *set) {
    *set = (wait_set){.sure = dog.membarrier && dog.nudge_fd >= 0};
    for (taut_list *n = dog.targets.next; n != &dog.targets && set->count < WAIT_FDS_MAX;
         n = n->next) {
        taut_watchdog_target *t = TAUT_CONTAINER(n, taut_watchdog_target, link);
        if (t->wait_fd >= 0 && atomic_load_explicit(&t->threshold_ns, memory_order_relaxed) > 0)
            wait_set_add(set, t->wait_fd);
    }
    if (set->count > 0 && dog.nudge_fd >= 0) {
        uint64_t before; /* nudges of earlier times */
        wait_set_add(set, dog.nudge_fd);
        (void)taut_sys_read(set->fds[set->count - 1].fd, &before, sizeof before);
    }
}

static void wait_set_close(wait_set *set) {
    for (nfds_t i = 0; i < set->count; i++)
        taut_private_fds_put(set->fds[i].fd);
}

/* One sleep of a parked thread; the lock is given up meanwhile. 1: an fd is ready, or an
 * examination is due. */
static int park_wait(wait_set *set, uint32_t seen) {
    uint64_t now = taut_sys_now_ns(), until = dog.exam_ns;
    int sure = set->count > 0 ? set->sure : dog.membarrier, ready = 0;
    if (until <= now)
        return 1;
    if (!sure)
        until = min_u64(until, now + PARK_FALLBACK_NS);
    struct timespec left = {.tv_sec = (time_t)((until - now) / TAUT_NS_PER_S),
                            .tv_nsec = (long)((until - now) % TAUT_NS_PER_S)};
    pthread_mutex_unlock(&dog.lock);
    if (set->count > 0)
        ready = ppoll(set->fds, set->count, until == TAUT_NEVER_NS ? NULL : &left, NULL);
    else
        futex_wait(seen, until);
    pthread_mutex_lock(&dog.lock);
    return ready > 0;
}

/* Sleeps until a loop runs again. The loops only look at their `parked` with plain loads: the
 * membarrier makes sure that either they see it or we see their phase (an asymmetric Dekker). */
static void park(void) {
    wait_set set;
    uint32_t seen = atomic_load_explicit(&dog.waker, memory_order_acquire);
    wait_set_open(&set);
    set_parked(1);
    if (dog.membarrier)
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    while (!dog.stopping && !someone_works() &&
           atomic_load_explicit(&dog.waker, memory_order_acquire) == seen)
        if (park_wait(&set, seen))
            break;
    set_parked(0);
    wait_set_close(&set);
}

/* Tells about one site that kept quiet for long, or with `all` about any. 0: there is none. */
static int tell_unshown(const taut_watchdog_target *t, uint64_t now, int all) {
    char label[TAUT_STALL_LABEL_MAX];
    taut_stall_spot *s = taut_stall_sites_quiet(&dog.sites, now, all);
    if (s == NULL)
        return 0;
    uint64_t longest = s->longest_unshown_ns;
    memcpy(label, s->label, sizeof label);
    uint64_t count = taut_stall_site_speaks(s, now, longest);
    pthread_mutex_unlock(&dog.lock);
    t->ops->unshown(t->ctx, label, count, longest);
    pthread_mutex_lock(&dog.lock);
    return 1;
}

static void tell_quiet_sites(uint64_t now) {
    if (taut_list_empty(&dog.targets))
        return;
    dog.busy = TAUT_CONTAINER(dog.targets.next, taut_watchdog_target, link);
    if (dog.busy->ops->unshown != NULL)
        tell_unshown(dog.busy, now, 0);
    dog.busy = NULL;
    pthread_cond_broadcast(&dog.idle);
}

static void *watchdog_main(void *arg) {
    prctl(PR_SET_NAME, "taut-watchdog");
    (void)taut_private_fds_enter(); /* where it is refused the loop's system calls cost more */
    pthread_mutex_lock(&dog.lock);
    uint64_t before = taut_sys_now_ns();
    atomic_store_explicit(&dog.thread_id, (int)syscall(SYS_gettid), memory_order_release);
    pthread_cond_broadcast(&dog.idle);
    dog.active_ns = before;
    while (!dog.stopping) {
        uint32_t seen = atomic_load_explicit(&dog.waker, memory_order_acquire);
        uint64_t now = taut_sys_now_ns();
        uint64_t wake_ns = sample_all(now, now - before);
        before = now;
        tell_quiet_sites(now);
        if (now - dog.active_ns >= IDLE_NS || taut_list_empty(&dog.targets)) {
            park();
            before = dog.active_ns = taut_sys_now_ns();
            continue;
        }
        dog.wake_ns = wake_ns;
        pthread_mutex_unlock(&dog.lock);
        futex_wait(seen, wake_ns);
        pthread_mutex_lock(&dog.lock);
    }
    pthread_mutex_unlock(&dog.lock);
    return NULL;
}

/* ---- the outside ---- */

/* The nudge fd exists as long as somebody's idleness ends by an fd. Not on the watchdog's thread,
 * whose fds are not the process's. */
static void nudge_fd_update(void) {
    int needed = 0;
    for (taut_list *n = dog.targets.next; n != &dog.targets; n = n->next)
        needed |= TAUT_CONTAINER(n, taut_watchdog_target, link)->wait_fd >= 0;
    if (needed && dog.nudge_fd < 0) {
        dog.nudge_fd = taut_sys_eventfd();
    } else if (!needed && dog.nudge_fd >= 0) {
        taut_sys_close(dog.nudge_fd);
        dog.nudge_fd = -1;
    }
}

static void forget_targets(void) {
    while (!taut_list_empty(&dog.targets)) {
        taut_watchdog_target *t = TAUT_CONTAINER(dog.targets.next, taut_watchdog_target, link);
        atomic_store_explicit(&t->pulse->parked, 0, memory_order_relaxed);
        taut_list_unlink(&t->link);
        t->live = 0;
    }
    nudge_fd_update();
}

static void fork_prepare(void) {
    pthread_mutex_lock(&dog.lock);
}
static void fork_parent(void) {
    pthread_mutex_unlock(&dog.lock);
}
static void fork_child(void) {
    dog.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    dog.idle = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    forget_targets();
    dog.busy = NULL;
    dog.thread_live = dog.stopping = dog.parked = 0;
    atomic_store(&dog.thread_id, 0);
    memset(&dog.sites, 0, sizeof dog.sites);
}

/* Until the thread has left the process's fd table it opens fds there for a moment, and may take
 * the number that a program closes to put something else in its place (close(2); open(...)). So
 * nobody gets to run with a watchdog that has not. 0, whether it lives or was shut down again. */
static int thread_begun(void) {
    while (dog.thread_live && atomic_load_explicit(&dog.thread_id, memory_order_relaxed) == 0)
        pthread_cond_wait(&dog.idle, &dog.lock);
    return 0;
}

static int thread_start(void) {
    sigset_t all, old;
    pthread_attr_t attr;
    if (!dog.ready) {
        int rc = pthread_atfork(fork_prepare, fork_parent, fork_child);
        if (rc != 0)
            return -rc;
        taut_list_init(&dog.targets);
        dog.ready = 1;
    }
    if (dog.thread_live)
        return thread_begun();
    dog.membarrier = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    int rc = pthread_attr_init(&attr);
    if (rc != 0)
        return -rc;
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    rc = pthread_create(&dog.thread, &attr, watchdog_main, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    dog.thread_live = rc == 0;
    return rc == 0 ? thread_begun() : -rc;
}

int taut_watchdog_add(taut_watchdog_target *t) {
    taut_assert(t->ops->capture != NULL && t->ops->report != NULL && t->ops->ended != NULL);
    pthread_mutex_lock(&dog.lock);
    int rc = t->live ? -EALREADY : thread_start();
    if (rc == 0) {
        uint64_t now = taut_sys_now_ns();
        t->sequence = atomic_load_explicit(&t->pulse->sequence, memory_order_relaxed);
        t->in_stall = t->reported = t->dismissed = 0;
        progress_seen(t, now);
        taut_list_append(&dog.targets, &t->link);
        t->live = 1;
        nudge_fd_update();
        uint64_t threshold = atomic_load_explicit(&t->threshold_ns, memory_order_relaxed);
        if (dog.parked || dog.wake_ns - now > threshold / 4)
            wake();
    }
    pthread_mutex_unlock(&dog.lock);
    return rc;
}

void taut_watchdog_remove(taut_watchdog_target *t) {
    pthread_mutex_lock(&dog.lock);
    while (t->live && dog.busy == t)
        pthread_cond_wait(&dog.idle, &dog.lock);
    if (t->live) {
        uint64_t now = taut_sys_now_ns();
        taut_list_unlink(&t->link);
        t->live = 0;
        atomic_store_explicit(&t->pulse->parked, 0, memory_order_relaxed);
        if (t->wait_fd >= 0 && dog.parked)
            wake(); /* it holds that fd */
        nudge_fd_update();
        if (t->in_stall) {
            int reported = stall_close(t, now);
            pthread_mutex_unlock(&dog.lock);
            stall_tell_end(t, reported);
            pthread_mutex_lock(&dog.lock);
        }
        while (taut_list_empty(&dog.targets) && t->ops->unshown != NULL && tell_unshown(t, now, 1))
            continue;
    }
    pthread_mutex_unlock(&dog.lock);
}

void taut_watchdog_threshold_set(taut_watchdog_target *t, uint64_t threshold_ns) {
    pthread_mutex_lock(&dog.lock);
    atomic_store_explicit(&t->threshold_ns, threshold_ns, memory_order_relaxed);
    if (t->live)
        wake(); /* it may sleep for as long as no target is switched on */
    pthread_mutex_unlock(&dog.lock);
}

int taut_watchdog_busy(taut_watchdog_target *t) {
    pthread_mutex_lock(&dog.lock);
    int busy = t->live && (dog.busy == t || t->in_stall);
    pthread_mutex_unlock(&dog.lock);
    return busy;
}

void taut_watchdog_shutdown(void) {
    pthread_mutex_lock(&dog.lock);
    if (dog.thread_live) {
        dog.stopping = 1;
        wake();
        pthread_mutex_unlock(&dog.lock);
        pthread_join(dog.thread, NULL);
        pthread_mutex_lock(&dog.lock);
        forget_targets();
        dog.thread_live = dog.stopping = dog.parked = 0;
        atomic_store(&dog.thread_id, 0);
    }
    pthread_mutex_unlock(&dog.lock);
}

void taut_watchdog_nudge(void) {
    pthread_mutex_lock(&dog.lock);
    nudge();
    pthread_mutex_unlock(&dog.lock);
}

int taut_watchdog_thread_id(void) {
    return atomic_load_explicit(&dog.thread_id, memory_order_acquire);
}
