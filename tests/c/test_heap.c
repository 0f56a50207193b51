/* base/heap against the plainest possible queue: an array that is searched for its least. */
#include <errno.h>
#include "base/heap.h"
#include "base/list.h"
#include "check.h"
#include "random.h"

#define NODES 200

typedef struct {
    taut_heap_node node;
    uint64_t key, order;
    int in;
} thing;

static thing *thing_of(taut_heap_node *n) {
    return TAUT_CONTAINER(n, thing, node);
}

static thing *least(thing *things) {
    thing *best = NULL;
    for (int i = 0; i < NODES; i++) {
        thing *t = &things[i];
        if (t->in &&
            (!best || t->key < best->key || (t->key == best->key && t->order < best->order)))
            best = t;
    }
    return best;
}

static void check_order(taut_heap *h) {
    for (size_t i = 0; i < h->count; i++) {
        CHECK_EQ(h->items[i].node->index, i);
        if (i > 0)
            CHECK(h->items[(i - 1) / 4].key <= h->items[i].key);
    }
}

static int drop_odd(taut_heap_node *n, void *arg) {
    thing *t = thing_of(n);
    CHECK(n->index == TAUT_HEAP_OUT);
    if (t->key % 2 == 0)
        return 0;
    t->in = 0;
    ++*(size_t *)arg;
    return 1;
}

static void run_random(uint64_t seed) {
    taut_heap h;
    thing things[NODES] = {0};
    uint64_t order = 0, rnd = seed;
    size_t count = 0;
    taut_heap_init(&h);
    for (int i = 0; i < NODES; i++)
        taut_heap_node_init(&things[i].node);
    for (int step = 0; step < 3000; step++) {
        thing *t = &things[random_below(&rnd, NODES)];
        uint64_t what = random_below(&rnd, 100);
        if (what < 60 && !t->in) {
            t->key = random_below(&rnd, 50);
            t->order = order++;
            t->in = 1;
            CHECK_EQ(taut_heap_push(&h, &t->node, t->key), 0);
            count++;
        } else if (what < 75 && t->in) {
            taut_heap_remove(&h, &t->node);
            t->in = 0;
            count--;
        } else if (what < 98 && count > 0) {
            thing *expected = least(things);
            CHECK(thing_of(taut_heap_top(&h)->node) == expected);
            CHECK(thing_of(taut_heap_pop(&h)) == expected);
            expected->in = 0;
            CHECK(expected->node.index == TAUT_HEAP_OUT);
            count--;
        } else if (what == 99) {
            size_t dropped = 0;
            taut_heap_sweep(&h, drop_odd, &dropped);
            count -= dropped;
        }
        CHECK_EQ(h.count, count);
        if (step % 50 == 0)
            check_order(&h);
    }
    while (count-- > 0) {
        thing *expected = least(things);
        CHECK(thing_of(taut_heap_pop(&h)) == expected);
        expected->in = 0;
    }
    CHECK(taut_heap_top(&h) == NULL);
    taut_heap_free(&h);
}

static void random_operations(void) {
    for (uint64_t seed = 0; seed < 40; seed++)
        run_random(seed);
}

static void equal_keys_leave_in_order(void) {
    taut_heap h;
    taut_heap_node nodes[300];
    taut_heap_init(&h);
    for (int i = 0; i < 300; i++) {
        taut_heap_node_init(&nodes[i]);
        CHECK_EQ(taut_heap_push(&h, &nodes[i], 7), 0);
    }
    for (int i = 0; i < 300; i++)
        CHECK(taut_heap_pop(&h) == &nodes[i]);
    taut_heap_free(&h);
}

static void scenario(int may_fail) {
    taut_heap h;
    taut_heap_node nodes[300];
    size_t in = 0;
    taut_heap_init(&h);
    for (int i = 0; i < 300; i++) {
        taut_heap_node_init(&nodes[i]);
        int rc = taut_heap_push(&h, &nodes[i], (uint64_t)(300 - i));
        CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
        CHECK((rc == 0) == (nodes[i].index != TAUT_HEAP_OUT));
        in += rc == 0;
        CHECK_EQ(h.count, in);
    }
    for (uint64_t last = 0; h.count > 0; in--) {
        CHECK(taut_heap_top(&h)->key >= last);
        last = taut_heap_top(&h)->key;
        taut_heap_pop(&h);
    }
    CHECK_EQ(in, 0);
    taut_heap_free(&h);
}
static void out_of_memory(void) {
    check_every_allocation(scenario);
}

static const check_test tests[] = {CHECK_TEST(random_operations),
                                   CHECK_TEST(equal_keys_leave_in_order),
                                   CHECK_TEST(out_of_memory)};
CHECK_MAIN(tests)
