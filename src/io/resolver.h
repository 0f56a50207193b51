/* Names and addresses through libc, on the native pool. Loop thread only, but for what the pool's
 * threads do inside. */
#ifndef TAUT_IO_RESOLVER_H
#define TAUT_IO_RESOLVER_H

#include <netdb.h>
#include "io/loop.h"
#include "io/threadpool.h"

typedef struct taut_resolver taut_resolver;
typedef struct taut_lookup taut_lookup;

struct taut_lookup {
    taut_job job;
    taut_list link; /* among the resolver's lookups under way */
    taut_resolver *resolver;
    /* Loop thread, from taut_resolver_drain; the lookup is the owner's again, to read and free. */
    void (*finished)(taut_lookup *lk);
    /* The resolver closes: `finished` will never run, the lookup is gone. Must not call back. */
    void (*abandoned)(taut_lookup *lk);
    void *owner;       /* NULL: nobody waits, it is freed when it comes back */
    uint64_t begun_ns; /* the loop's clock when it was submitted */
    char *host, *service;
    struct addrinfo hints;
    int reverse, name_flags; /* reverse: host and service of the one address found, too */
    int rc, sys_err;         /* an EAI_ code; errno for EAI_SYSTEM */
    int ambiguous;           /* reverse: the address names more than one; no names then */
    struct addrinfo *found;  /* owned */
    char host_name[NI_MAXHOST], service_name[NI_MAXSERV];
};

/* Copies the strings (either may be NULL, as getaddrinfo has it). NULL when memory is out. */
taut_lookup *taut_lookup_new(const char *host, const char *service, const struct addrinfo *hints);
void taut_lookup_free(taut_lookup *lk); /* not while under way; NULL allowed */
/* Runs it here and now. For numeric addresses, which need no network. */
void taut_lookup_run(taut_lookup *lk);

/* 0 or -ENOMEM. `loop` outlives the resolver's open life; threads start with the first lookup. */
int taut_resolver_new(taut_resolver **out, taut_loop *loop, unsigned threads_max) TAUT_MUST_USE;
/* Lets go of every lookup; threads that are inside libc end on their own. NULL allowed. */
void taut_resolver_close(taut_resolver *r);
/* Takes the lookup until `finished`, `abandoned` or taut_lookup_cancel. 0 or negative error. */
int taut_resolver_submit(taut_resolver *r, taut_lookup *lk) TAUT_MUST_USE;
typedef struct {
    unsigned pending, queued, threads; /* queued: of those pending, waiting for a thread */
    uint64_t oldest_ns;                /* when the oldest of those pending was submitted */
} taut_resolver_state;
void taut_resolver_state_get(taut_resolver *r, taut_resolver_state *out);
/* Nobody waits any more: no callback; the lookup is gone. */
void taut_lookup_cancel(taut_lookup *lk);
/* When the loop was woken: `finished` for everything that has come back. */
void taut_resolver_drain(taut_resolver *r);

#endif
