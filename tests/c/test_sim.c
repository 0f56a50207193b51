/* The io layer against a simulated kernel (tests/c/sim).
 *   test_sim              1,000 seeds, and what one echo costs
 *   test_sim SEED         that seed again, with a trace
 *   test_sim FROM COUNT   as many seeds from there on */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sim/scenario.h"

#define SEEDS 1000
#define ROUNDS 50

/* An echo server with one client: each round trip must cost one wait, one recv and one send. */
static struct {
    taut_loop loop;
    taut_stream stream;
    sim_socket *outside;
    int rounds, waiting, writes, closed;
    unsigned costs[ROUNDS + 1][SIM_CALLS];
} echo;

static void echo_data(taut_stream *s, const uint8_t *bytes, size_t size) {
    for (int i = 0; i < echo.writes; i++)
        SIM_CHECK(taut_stream_write(s, bytes, size, NULL) == 0, "write failed");
}
static int echo_eof(taut_stream *s) {
    return 0;
}
static void echo_water(taut_stream *s) {
    sim_fail("no water mark should be reached");
}
static void echo_closed(taut_stream *s, int err) {
    SIM_CHECK(err == 0, "closed with %d", err);
    echo.closed = 1;
    taut_loop_stop(&echo.loop);
}
static const taut_stream_ops echo_ops = {.data = echo_data,
                                         .eof = echo_eof,
                                         .pause_writing = echo_water,
                                         .resume_writing = echo_water,
                                         .closed = echo_closed};

static int echo_run_ready(void *ctx, size_t count) {
    while (count-- > 0) {
        taut_entry e = taut_ring_pop(&echo.loop.ready);
        taut_loop_run_core_entry(&e);
    }
    return 0;
}
static void echo_wait(void *ctx) {}
static int echo_check(void *ctx) {
    return 0;
}
static void echo_woken(void *ctx) {
    sim_fail("nobody woke the loop");
}
static const taut_loop_ops echo_loop_ops = {.run_ready = echo_run_ready,
                                            .wait_begin = echo_wait,
                                            .wait_end = echo_wait,
                                            .check = echo_check,
                                            .woken = echo_woken};

static int echo_step(void *ctx) {
    uint8_t bytes[64] = {1}, answer[sizeof bytes * 4];
    if (echo.closed || echo.rounds > ROUNDS)
        return 0;
    if (echo.waiting) {
        ssize_t n = sim_out_recv(echo.outside, answer, sizeof answer);
        if (n < 0)
            return 0;
        SIM_CHECK(n == (ssize_t)sizeof bytes * echo.writes, "%zd bytes came back", n);
        for (int call = 0; call < SIM_CALLS; call++)
            echo.costs[echo.rounds][call] = sim_count((enum sim_call)call);
        echo.waiting = 0;
        return 1;
    }
    if (++echo.rounds > ROUNDS) {
        sim_out_shutdown(echo.outside);
        return 1;
    }
    SIM_CHECK(sim_out_send(echo.outside, bytes, sizeof bytes) == sizeof bytes, "send failed");
    echo.waiting = 1;
    return 1;
}

/* `writes` answers per request, which must leave together once the stream has seen the habit. */
static void echo_cost(int writes) {
    memset(&echo, 0, sizeof echo);
    echo.writes = writes;
    sim_begin(1, 0);
    SIM_CHECK(taut_loop_init(&echo.loop, &echo_loop_ops, NULL) == 0, "no loop");
    sim_world world = {.step = echo_step};
    int fd = sim_pair(&echo.outside, 65536);
    taut_stream_open(&echo.stream, &echo.loop, fd, &echo_ops);
    SIM_CHECK(taut_stream_read_start(&echo.stream) == 0, "read_start failed");
    sim_set_world(&world);
    SIM_CHECK(taut_loop_run(&echo.loop) == 0, "the loop failed");
    taut_loop_close(&echo.loop);
    for (int i = 6; i < ROUNDS; i++) {
        unsigned total = 0, cost[SIM_CALLS];
        for (int call = 0; call < SIM_CALLS; call++)
            total += cost[call] = echo.costs[i][call] - echo.costs[i - 1][call];
        SIM_CHECK(cost[SIM_EPOLL_WAIT] == 1 && cost[SIM_RECV] == 1 &&
                      cost[SIM_SEND] + cost[SIM_SENDV] == 1 && total == 3,
                  "round %d took %u waits, %u recv, %u send, %u system calls in all", i,
                  cost[SIM_EPOLL_WAIT], cost[SIM_RECV], cost[SIM_SEND] + cost[SIM_SENDV], total);
    }
    sim_end();
}

int main(int argc, char **argv) {
    uint64_t from = 1, count = SEEDS;
    int verbose = argc == 2;
    if (argc > 1)
        from = strtoull(argv[1], NULL, 10);
    if (argc > 1)
        count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (argc == 1) {
        echo_cost(1);
        echo_cost(3);
    }
    for (uint64_t seed = from; seed < from + count; seed++) {
        scenario_run(seed, verbose);
        scenario_dgram_run(seed, verbose);
    }
    printf("%llu seeds\n", (unsigned long long)count);
    return 0;
}
