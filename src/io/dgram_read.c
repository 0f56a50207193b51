/* Reading datagrams: one by recvfrom, or as many as wait by recvmmsg. */
#include <errno.h>
#include <string.h>
#include "base/mem.h"
#include "io/dgram.h"
#include "io/dgram_private.h"
#include "io/sys.h"

/* Of slots: 16 for what IP can carry, 4 for what a Unix socket can. Only what datagrams touch of
 * the area becomes resident. */
#define SLOTS_MAX 16
#define SLOT_SIZE (64 * 1024)
#define LARGE_SLOT_SIZE TAUT_SCRATCH_SIZE
/* Keeps the slots' first lines apart in a cache that is indexed by the low bits. */
#define SLOT_SKEW 192
/* One sender must not starve the others: at most this many full reads per readiness event. */
#define READS_PER_EVENT_MAX 4
/* recvmmsg pays from so many datagrams on; for fewer, recvfrom until it finds nothing. */
#define BURST_MIN 4
/* Finding nothing costs a little, a turn of the loop for the next datagram several times as much:
 * when the last few looks were in vain, it is one look in so many events. */
#define LOOKS_IN_VAIN_MAX 4
#define LOOK_EVERY 8

typedef struct taut_dgram_area {
    struct mmsghdr messages[SLOTS_MAX];
    struct iovec iov[SLOTS_MAX];
    struct sockaddr_storage from[SLOTS_MAX];
    uint8_t bytes[SLOTS_MAX * (SLOT_SIZE + SLOT_SKEW)];
} area;

/* Read at once with others, but not to be delivered yet: reading was paused, or the loop is about
 * to return. */
typedef struct taut_dgram_kept {
    struct taut_dgram_kept *next;
    size_t size;
    socklen_t from_size;
    struct sockaddr_storage from;
    uint8_t bytes[];
} kept;

static area *area_of(taut_loop *l) {
    if (l->datagrams)
        return l->datagrams;
    area *a = taut_malloc(sizeof *a);
    if (!a)
        return NULL;
    memset(a->messages, 0, sizeof a->messages);
    for (int i = 0; i < SLOTS_MAX; i++)
        a->messages[i].msg_hdr =
            (struct msghdr){.msg_name = &a->from[i], .msg_iov = &a->iov[i], .msg_iovlen = 1};
    l->datagrams = a;
    return a;
}

static int may_deliver(const taut_dgram *d) {
    return d->reading && d->loop->interrupt_err == 0;
}

/* Without memory it is lost, as datagrams may be. */
static void keep(taut_dgram *d, const uint8_t *bytes, size_t size, const struct sockaddr *from,
                 socklen_t from_size) {
    kept *k = taut_malloc(sizeof *k + size);
    if (!k)
        return;
    *k = (kept){.size = size, .from_size = from_size};
    memcpy(&k->from, from, from_size);
    if (size > 0)
        memcpy(k->bytes, bytes, size);
    if (d->kept_last)
        d->kept_last->next = k;
    else
        d->kept_first = k;
    d->kept_last = k;
    if (d->reading) /* the loop was interrupted */
        taut_loop_defer(d->loop, &d->flush);
}

static kept *kept_pop(taut_dgram *d) {
    kept *k = d->kept_first;
    d->kept_first = k->next;
    if (!k->next)
        d->kept_last = NULL;
    return k;
}

void taut_dgram_kept_drop(taut_dgram *d) {
    while (d->kept_first)
        taut_free(kept_pop(d));
}

void taut_dgram_kept_deliver(taut_dgram *d) {
    while (d->kept_first && may_deliver(d)) {
        kept *k = kept_pop(d);
        d->ops->received(d, k->bytes, k->size, (struct sockaddr *)&k->from, k->from_size);
        taut_free(k);
    }
    if (d->kept_first && d->reading)
        taut_loop_defer(d->loop, &d->flush);
}

static void read_failed(taut_dgram *d, int err) {
    if (!taut_dgram_would_block(err))
        d->ops->error(d, err);
}

/* 1: a datagram came. */
static int read_one(taut_dgram *d) {
    struct sockaddr_storage from;
    socklen_t from_size = sizeof from;
    ssize_t n = taut_sys_recvfrom(d->watch.fd, d->loop->scratch, TAUT_SCRATCH_SIZE,
                                  (struct sockaddr *)&from, &from_size);
    if (n < 0) {
        read_failed(d, (int)n);
        return 0;
    }
    d->write_turn = UINT64_MAX; /* the answer to each goes at once */
    d->ops->received(d, d->loop->scratch, (size_t)n, (struct sockaddr *)&from, from_size);
    return 1;
}

static void deliver(taut_dgram *d, area *a, int count) {
    d->batch = count >= BURST_MIN;
    for (int i = 0; i < count; i++) {
        const struct mmsghdr *m = &a->messages[i];
        struct sockaddr *from = (struct sockaddr *)&a->from[i];
        if (TAUT_LIKELY(may_deliver(d) && !d->kept_first))
            d->ops->received(d, a->iov[i].iov_base, m->msg_len, from, m->msg_hdr.msg_namelen);
        else if (!d->closing)
            keep(d, a->iov[i].iov_base, m->msg_len, from, m->msg_hdr.msg_namelen);
    }
    d->batch = 0;
    if (d->queue_count > 0 && !(d->watch.want & TAUT_WRITE))
        taut_dgram_flush(d);
}

/* How many came; 0 for none, or an error. */
static int read_slots(taut_dgram *d, area *a, int slots) {
    size_t size = d->large ? LARGE_SLOT_SIZE : SLOT_SIZE;
    for (int i = 0; i < slots; i++) {
        a->iov[i] =
            (struct iovec){.iov_base = a->bytes + (size_t)i * (size + SLOT_SKEW), .iov_len = size};
        a->messages[i].msg_hdr.msg_namelen = sizeof a->from[i];
    }
    int n = taut_sys_recvmmsg(d->watch.fd, a->messages, slots);
    if (n <= 0) {
        read_failed(d, n);
        return 0;
    }
    deliver(d, a, n);
    return n;
}

/* All that waits, as far as one event may go. How many came. */
static int read_many(taut_dgram *d, area *a) {
    int slots = d->large ? SLOTS_MAX * SLOT_SIZE / LARGE_SLOT_SIZE : SLOTS_MAX, total = 0;
    for (int i = 0; i < READS_PER_EVENT_MAX; i++) {
        int n = read_slots(d, a, slots);
        total += n;
        if (n < slots || !may_deliver(d))
            break;
    }
    return total;
}

/* After a datagram: are there more? */
static void look_for_more(taut_dgram *d) {
    if (d->quiet >= LOOKS_IN_VAIN_MAX && d->quiet < LOOKS_IN_VAIN_MAX + LOOK_EVERY - 1) {
        d->quiet++;
        return;
    }
    int more = 0;
    while (more < BURST_MIN && may_deliver(d) && read_one(d))
        more++;
    d->bursts = more == BURST_MIN;
    if (more > 0)
        d->quiet = 0;
    else if (d->quiet++ >= LOOKS_IN_VAIN_MAX)
        d->quiet = LOOKS_IN_VAIN_MAX;
}

void taut_dgram_read_event(taut_dgram *d) {
    if (d->own_io) {
        d->ops->readable(d);
        return;
    }
    if (TAUT_UNLIKELY(d->kept_first != NULL)) {
        taut_dgram_kept_deliver(d);
        if (d->kept_first || !may_deliver(d))
            return;
    }
    area *a = d->bursts ? area_of(d->loop) : NULL;
    if (a)
        d->bursts = read_many(d, a) >= BURST_MIN;
    else if (read_one(d) && may_deliver(d))
        look_for_more(d);
}
