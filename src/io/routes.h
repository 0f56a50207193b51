/* What the requests of a service fare by route: how many, how long, how late their steps ran, what
 * they held up. One table per process, bounded: a route is a method and a template such as
 * "/items/{id}"; when the table is full, further ones count as "other". Entries stay for good.
 *
 * Counting happens with the GIL; any thread reads, also without it. Times are nanoseconds. */
#ifndef TAUT_IO_ROUTES_H
#define TAUT_IO_ROUTES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define TAUT_ROUTES_MAX 128
#define TAUT_ROUTE_OTHER 0 /* the entry for what has no room */
#define TAUT_ROUTE_METHOD_MAX 16
#define TAUT_ROUTE_PATH_MAX 128

typedef struct {
    /* UTF-8, cut where it is too long; they never change once taut_routes_count() tells of them. */
    char method[TAUT_ROUTE_METHOD_MAX], path[TAUT_ROUTE_PATH_MAX];
    _Atomic uint64_t requests, requests_ns; /* that are over, and what they took */
    _Atomic uint64_t in_flight;
    _Atomic uint64_t lag_ns, lag_longest_ns; /* steps that were ready, but did not run yet */
    /* Requests for which one such wait was as long as a stall, and how long these waits were. */
    _Atomic uint64_t delayed, delayed_ns;
    /* Steps of the route's requests that were stalls, what these took, and the requests, of any
     * route, that they delayed. */
    _Atomic uint64_t stalls, stalls_ns, victims;
} taut_route;

/* What a loop keeps of the requests that it works on. */
typedef struct {
    uint64_t begun;                     /* how many; each has its number */
    uint64_t staller, stalled_until_ns; /* whose step was the latest stall; 0: nobody's */
    int staller_route;                  /* -1: not known yet */
} taut_route_loop;

/* The index of the entry for `method` and `path`, which is made when there is none yet;
 * TAUT_ROUTE_OTHER when the table is full. With the GIL. */
unsigned taut_routes_find(const char *method, size_t method_size, const char *path,
                          size_t path_size);
/* How many entries there are, "other" among them. Any thread. */
unsigned taut_routes_count(void);
/* The entry `index`, below TAUT_ROUTES_MAX. */
taut_route *taut_routes_at(unsigned index);

#endif
