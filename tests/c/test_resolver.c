/* io/resolver. Its source is included here so that a lookup can be held up, and never leaves the
 * machine. */
#include <netdb.h>
#include <stdatomic.h>
#include "loop_fixture.h"
#include "soon.h"

static _Atomic int gate_closed, in_libc;
static int gated_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                             struct addrinfo **found) {
    struct addrinfo numeric = *hints;
    numeric.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
    atomic_fetch_add(&in_libc, 1);
    CHECK_SOON(!gate_closed);
    atomic_fetch_sub(&in_libc, 1);
    return getaddrinfo(host, service, &numeric, found);
}
#define getaddrinfo gated_getaddrinfo
#include "io/resolver.c"
#undef getaddrinfo

#define LOOKUPS 50

static const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
static taut_resolver *resolver;
static int finished, abandoned, wanted, owner;

static uint64_t live_blocks(void) {
    taut_mem_stats s;
    taut_mem_stats_get(&s);
    return s.live_blocks;
}

static void on_finished(taut_lookup *lk) {
    CHECK(lk->owner == &owner);
    CHECK_EQ(lk->rc, 0);
    const struct sockaddr_in *addr = (const struct sockaddr_in *)lk->found->ai_addr;
    CHECK_EQ(ntohs(addr->sin_port), atoi(lk->service));
    finished++;
    taut_lookup_free(lk);
}
static void on_abandoned(taut_lookup *lk) {
    CHECK(lk->owner == &owner);
    abandoned++;
}

static int all_finished(void) {
    taut_resolver_drain(resolver);
    return finished == wanted;
}

static void begin(unsigned threads_max) {
    finished = abandoned = 0;
    CHECK_EQ(fx_begin(), 0);
    CHECK_EQ(taut_resolver_new(&resolver, &fx.loop, threads_max), 0);
}
static void end(void) {
    taut_resolver_close(resolver);
    fx_end();
    if (!gate_closed)
        CHECK_SOON(live_blocks() == 0); /* the pool goes when its last thread does */
}

static taut_lookup *submit(int port) {
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    taut_lookup *lk = taut_lookup_new("127.0.0.1", service, &hints);
    CHECK(lk != NULL);
    lk->finished = on_finished;
    lk->abandoned = on_abandoned;
    lk->owner = &owner;
    CHECK_EQ(taut_resolver_submit(resolver, lk), 0);
    return lk;
}

static void each_comes_back_once(void) {
    begin(4);
    for (int i = 1; i <= LOOKUPS; i++)
        submit(i);
    wanted = LOOKUPS;
    fx_until(all_finished);
    taut_resolver_drain(resolver);
    CHECK_EQ(finished, LOOKUPS);
    end();
    CHECK_EQ(abandoned, 0);
}

static void cancelled_ones_do_not_come_back(void) {
    begin(1);
    gate_closed = 1;
    taut_lookup *running = submit(1);
    CHECK_SOON(in_libc == 1);
    taut_lookup *queued = submit(2);
    submit(3);
    taut_lookup_cancel(queued);
    taut_lookup_cancel(running);
    gate_closed = 0;
    wanted = 1;
    fx_until(all_finished);
    end();
    CHECK_EQ(finished, 1);
    CHECK_EQ(abandoned, 0);
}

static void closing_lets_go_of_all(void) {
    begin(2);
    gate_closed = 1;
    for (int i = 1; i <= 5; i++)
        submit(i);
    CHECK_SOON(in_libc == 2);
    taut_lookup_cancel(submit(6));
    end();
    CHECK_EQ(abandoned, 5);
    CHECK_EQ(finished, 0);
    gate_closed = 0; /* the threads come back to a loop that is gone */
    CHECK_SOON(live_blocks() == 0);
}

static int has_come_back(void) {
    pthread_mutex_lock(&resolver->lock);
    int back = !taut_list_empty(&resolver->done);
    pthread_mutex_unlock(&resolver->lock);
    return back;
}

static void closing_drops_what_has_come_back(void) {
    begin(1);
    submit(1);
    CHECK_SOON(has_come_back());
    end();
    CHECK_EQ(abandoned, 1);
    CHECK_EQ(finished, 0);
}

static void here_and_now(void) {
    taut_lookup *lk = taut_lookup_new("127.0.0.1", "53", &hints);
    CHECK(lk != NULL);
    taut_lookup_run(lk);
    CHECK_EQ(lk->rc, 0);
    CHECK(lk->found != NULL && lk->found->ai_next == NULL);
    taut_lookup_free(lk);
    lk = taut_lookup_new("not numeric", NULL, &hints);
    CHECK(lk != NULL);
    taut_lookup_run(lk);
    CHECK_EQ(lk->rc, EAI_NONAME);
    CHECK(lk->found == NULL);
    taut_lookup_free(lk);
    taut_lookup_free(NULL);
}

static void names_of_an_address(void) {
    taut_lookup *lk = taut_lookup_new("127.0.0.1", "8080", &hints);
    CHECK(lk != NULL);
    lk->reverse = 1;
    lk->name_flags = NI_NUMERICHOST | NI_NUMERICSERV;
    taut_lookup_run(lk);
    CHECK_EQ(lk->rc, 0);
    CHECK(!lk->ambiguous);
    CHECK(strcmp(lk->host_name, "127.0.0.1") == 0 && strcmp(lk->service_name, "8080") == 0);
    taut_lookup_free(lk);
    struct addrinfo any_type = {.ai_family = AF_INET};
    lk = taut_lookup_new("127.0.0.1", "80", &any_type);
    CHECK(lk != NULL);
    lk->reverse = 1;
    taut_lookup_run(lk);
    CHECK_EQ(lk->rc, 0);
    CHECK(lk->ambiguous); /* one for each socket type */
    taut_lookup_free(lk);
}

static void scenario(int may_fail) {
    finished = abandoned = 0;
    if (fx_begin() < 0) {
        CHECK(may_fail);
        return;
    }
    int rc = taut_resolver_new(&resolver, &fx.loop, 1);
    taut_lookup *lk = rc < 0 ? NULL : taut_lookup_new("127.0.0.1", "1", &hints);
    CHECK(may_fail || lk != NULL);
    if (lk) {
        lk->finished = on_finished;
        lk->abandoned = on_abandoned;
        lk->owner = &owner;
        rc = taut_resolver_submit(resolver, lk);
        CHECK(may_fail || rc == 0);
        if (rc < 0) {
            taut_lookup_free(lk);
        } else {
            wanted = 1;
            fx_until(all_finished);
        }
    }
    if (resolver)
        taut_resolver_close(resolver);
    resolver = NULL;
    fx_end();
    CHECK_SOON(live_blocks() == 0); /* the pool goes when its thread does */
}

static void out_of_memory(void) {
    resolver = NULL;
    check_every_allocation(scenario);
}

static const check_test tests[] = {
    CHECK_TEST(each_comes_back_once),   CHECK_TEST(cancelled_ones_do_not_come_back),
    CHECK_TEST(closing_lets_go_of_all), CHECK_TEST(closing_drops_what_has_come_back),
    CHECK_TEST(here_and_now),           CHECK_TEST(names_of_an_address),
    CHECK_TEST(out_of_memory),
};
CHECK_MAIN(tests)
