/* Readiness by epoll, with a slot table that gives each registration a generation. */
#include "io/poller.h"

#include <errno.h>
#include "base/clock.h"
#include "base/mem.h"
#include "io/forks.h"
#include "io/recorder.h"
#include "io/sys.h"

#define EVENTS_MAX 1024
#define SLOTS_MIN 64

typedef struct {
    taut_watch *watch;   /* NULL: free */
    uint32_t generation; /* moves whenever events fetched or registered earlier become void */
    uint32_t next_free;
} slot;

struct taut_poller {
    int epfd;
    slot *slots;
    uint32_t capacity, used, count, free_head;
    int event_count; /* of the batch being dispatched */
    int retired;     /* a generation moved since the wait: a void event is then to be expected */
    uint32_t forks;  /* of the process whose epoll instance it is */
    taut_pulse *pulse;
    taut_recorder *recorder;
    struct epoll_event events[EVENTS_MAX];
};

static uint32_t to_kernel(uint32_t want) {
    return (want & TAUT_READ ? (uint32_t)EPOLLIN : 0) | (want & TAUT_WRITE ? EPOLLOUT : 0);
}

int taut_poller_new(taut_poller **out) {
    taut_poller *p = taut_calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    int rc = taut_forks_init();
    p->epfd = rc < 0 ? rc : taut_sys_epoll_create();
    if (p->epfd < 0) {
        rc = p->epfd;
        taut_free(p);
        return rc;
    }
    p->free_head = TAUT_WATCH_NO_SLOT;
    p->forks = taut_forks();
    p->recorder = &taut_recorder_none;
    *out = p;
    return 0;
}

void taut_poller_free(taut_poller *p) {
    if (!p)
        return;
    taut_sys_close(p->epfd);
    taut_free(p->slots);
    taut_free(p);
}

int taut_poller_fd(const taut_poller *p) {
    return p->epfd;
}
uint32_t taut_poller_count(const taut_poller *p) {
    return p->count;
}
void taut_poller_set_pulse(taut_poller *p, taut_pulse *pulse) {
    p->pulse = pulse;
    p->recorder = pulse != NULL && pulse->recorder != NULL ? pulse->recorder : &taut_recorder_none;
}

void taut_watch_init(taut_watch *w, int fd, taut_watch_fn fn) {
    *w = (taut_watch){.fd = fd, .slot = TAUT_WATCH_NO_SLOT, .fn = fn};
}

static int slot_take(taut_poller *p, taut_watch *w) {
    uint32_t index = p->free_head;
    if (index != TAUT_WATCH_NO_SLOT) {
        p->free_head = p->slots[index].next_free;
    } else {
        if (p->used == p->capacity) {
            uint32_t capacity = p->capacity ? p->capacity * 2 : SLOTS_MIN;
            slot *slots = taut_realloc_array(p->slots, capacity, sizeof *slots);
            if (!slots)
                return -ENOMEM;
            p->slots = slots;
            p->capacity = capacity;
        }
        index = p->used++;
        p->slots[index].generation = 0;
    }
    p->slots[index].watch = w;
    p->count++;
    w->slot = index;
    w->armed = 0;
    return 0;
}

static void retire(taut_poller *p, uint32_t index) {
    p->slots[index].generation++;
    p->retired = 1;
}

static void slot_release(taut_poller *p, taut_watch *w) {
    uint32_t index = w->slot;
    retire(p, index);
    p->slots[index].watch = NULL;
    p->slots[index].next_free = p->free_head;
    p->free_head = index;
    p->count--;
    w->slot = TAUT_WATCH_NO_SLOT;
    w->armed = 0;
}

static int ctl(taut_poller *p, int op, const taut_watch *w, uint32_t want) {
    uint64_t data = (uint64_t)p->slots[w->slot].generation << 32 | w->slot;
    return taut_sys_epoll_ctl(p->epfd, op, w->fd, to_kernel(want), data);
}

static int inherited(const taut_poller *p) {
    return TAUT_UNLIKELY(p->forks != taut_forks());
}

int taut_poller_renew(taut_poller *p) {
    int old = p->epfd, fresh = taut_sys_epoll_create();
    if (fresh < 0)
        return fresh;
    p->epfd = fresh;
    for (uint32_t i = 0; i < p->used; i++) {
        taut_watch *w = p->slots[i].watch;
        int rc = w && w->armed ? ctl(p, EPOLL_CTL_ADD, w, w->armed) : 0;
        if (rc == 0)
            continue;
        if (w->foreign) { /* closed by the user: the next arm says so */
            w->armed = 0;
            continue;
        }
        p->epfd = old;
        taut_sys_close(fresh);
        return rc;
    }
    taut_sys_close(old);
    p->forks = taut_forks();
    return 0;
}

/* Makes the kernel's interest `want` (not 0), whatever it knows about this fd number. */
static int set_interest(taut_poller *p, taut_watch *w, uint32_t want) {
    int rc = inherited(p) ? taut_poller_renew(p) : 0;
    if (rc < 0)
        return rc;
    if (w->armed) {
        rc = ctl(p, EPOLL_CTL_MOD, w, want);
        if (rc == -ENOENT || rc == -EPERM || rc == -EBADF) {
            /* The number means another file now (EPERM: one that cannot be polled), or none. The
             * old one may live on in a duplicate and go on reporting: from here on its events are
             * void. */
            w->armed = 0;
            retire(p, w->slot);
            if (rc == -ENOENT)
                rc = ctl(p, EPOLL_CTL_ADD, w, want);
        }
    } else {
        rc = ctl(p, EPOLL_CTL_ADD, w, want);
        if (rc == -EEXIST)
            rc = ctl(p, EPOLL_CTL_MOD, w, want);
    }
    if (rc == 0)
        w->armed = want;
    return rc;
}

static void disarm(taut_poller *p, taut_watch *w) {
    w->armed = 0;
    if (inherited(p)) /* the registration is the parent's */
        return;
    if (ctl(p, EPOLL_CTL_DEL, w, 0) < 0) /* closed or replaced behind our back */
        retire(p, w->slot);
}

/* set_interest for a watch that may not have a slot yet. */
static int register_want(taut_poller *p, taut_watch *w, uint32_t want) {
    int fresh = w->slot == TAUT_WATCH_NO_SLOT, rc;
    if (fresh && (rc = slot_take(p, w)) < 0)
        return rc;
    rc = set_interest(p, w, want);
    if (rc < 0 && fresh)
        slot_release(p, w);
    return rc;
}

int taut_poller_want(taut_poller *p, taut_watch *w, uint32_t want) {
    taut_debug_assert(!w->foreign);
    if (want & ~(w->slot == TAUT_WATCH_NO_SLOT ? 0 : w->armed)) {
        int rc = register_want(p, w, want);
        if (rc < 0)
            return rc;
    }
    w->want = want;
    return 0;
}

int taut_poller_arm(taut_poller *p, taut_watch *w, uint32_t want) {
    if (want) {
        int rc = register_want(p, w, want);
        if (rc < 0)
            return rc;
    } else if (w->slot != TAUT_WATCH_NO_SLOT && w->armed) {
        disarm(p, w);
    }
    w->want = want;
    return 0;
}

void taut_poller_remove(taut_poller *p, taut_watch *w, int fd_open) {
    w->want = 0;
    if (w->slot == TAUT_WATCH_NO_SLOT)
        return;
    if (fd_open && w->armed)
        disarm(p, w);
    slot_release(p, w);
}

int taut_poller_wait(taut_poller *p, uint64_t timeout_ns) {
    p->event_count = 0;
    p->retired = 0;
    int rc = inherited(p) ? taut_poller_renew(p) : 0;
    if (rc < 0)
        return rc;
    int n = taut_sys_epoll_wait(p->epfd, p->events, EVENTS_MAX, timeout_ns);
    if (n > 0)
        p->event_count = n;
    return n;
}

/* Tells the kernel what is wanted now, after an event that nobody wanted. 0: that was in vain. */
static int trim(taut_poller *p, taut_watch *w) {
    if (w->want)
        return set_interest(p, w, w->want) == 0;
    disarm(p, w);
    return 1;
}

static void dispatch_one(taut_poller *p, taut_watch *w, uint32_t raw) {
    uint32_t events =
        (raw & (EPOLLIN | EPOLLPRI) ? TAUT_READ : 0) | (raw & EPOLLOUT ? TAUT_WRITE : 0);
    int broken = (raw & (EPOLLHUP | EPOLLERR)) != 0;
    /* A registration that cannot be trimmed is no more: its owner is to find out by trying. */
    if ((events & ~w->want) || (broken && w->want == 0))
        broken |= !trim(p, w);
    events = broken ? w->want | TAUT_HUP : events & w->want;
    if (!events)
        return;
    if (p->pulse)
        taut_pulse_step(p->pulse, NULL);
    taut_recorder_add(p->recorder, TAUT_EVENT_IO, (uint32_t)w->fd, events);
    w->fn(w, events);
}

/* NULL: the registration is void. */
static taut_watch *watch_of(const taut_poller *p, const struct epoll_event *event) {
    uint32_t index = (uint32_t)event->data.u64;
    uint32_t generation = (uint32_t)(event->data.u64 >> 32);
    const slot *s = &p->slots[index];
    return s->generation == generation ? s->watch : NULL;
}

int taut_poller_dispatch_foreign(taut_poller *p) {
    int left = 0;
    for (int i = 0; i < p->event_count; i++) {
        taut_watch *w = watch_of(p, &p->events[i]);
        if (w && w->foreign)
            dispatch_one(p, w, p->events[i].events);
        else
            p->events[left++] = p->events[i];
    }
    p->event_count = left;
    return left;
}

void taut_poller_dispatch(taut_poller *p) {
    int lost = 0;
    for (int i = 0; i < p->event_count; i++) {
        taut_watch *w = watch_of(p, &p->events[i]);
        if (w)
            dispatch_one(p, w, p->events[i].events);
        else
            lost |= !p->retired;
    }
    p->event_count = 0;
    /* A registration whose file outlived our fd (a duplicate, a forked child) can be named by no
     * epoll_ctl, and level-triggered it would wake us for ever. A new instance gets rid of it;
     * where that fails (out of fds or memory) the next void event tries again. */
    if (TAUT_UNLIKELY(lost))
        (void)taut_poller_renew(p);
}

void taut_poller_cut(taut_poller *p) {
    p->event_count = 0;
}
