/* The random scenario: streams, timers, wake-ups, a listener and connectors on one loop, against
 * the simulated kernel. scenario.c runs the loop and plays the outside; scenario_conn.c plays the
 * owners of the streams. */
#ifndef TAUT_TESTS_SCENARIO_H
#define TAUT_TESTS_SCENARIO_H

#include "io/connector.h"
#include "io/listener.h"
#include "io/loop.h"
#include "io/stream_sendfile.h"
#include "sim.h"

#define CONNS_MAX 12
#define TIMERS_MAX 12

enum conn_state { UNUSED = 0, OPEN, GONE };
enum outside_end { END_FIN, END_CLOSE, END_RESET, END_NONE };

typedef struct {
    taut_stream stream;
    enum conn_state state;
    int fd, id;
    sim_socket *outside;
    uint64_t rx, tx;         /* bytes that the inside received and wrote */
    uint64_t out_rx, out_tx; /* bytes that the outside received and sent */
    uint64_t out_total;      /* what the outside means to send */
    enum outside_end end;
    int out_fin, out_eof, out_closed; /* FIN sent, EOF or reset received, done */
    int keep_open;                    /* what eof() answers */
    int eof_seen, wrote_eof, close_called, closing_err, paused_reading, writing_paused;
    int lossy;     /* cut off by a reset, an abort or an injected error */
    int broken_ok; /* a negative closed() is explained */
    int tokens;    /* borrowed segments not yet released */
    int actions_left;
    taut_sendfile file;
    int file_fd;         /* -1: none is sent */
    uint64_t file_base;  /* tx when it began */
    uint64_t file_total; /* bytes that it should send */
    int file_bad;        /* sending from it fails on the way */
    int file_cold;       /* it waits for the disk */
    uint8_t *buffer;     /* of get_buffer */
    size_t buffer_size;
} conn;

typedef struct {
    taut_timer timer;
    uint64_t deadline_ns;
    enum { IDLE, ARMED, CANCELLED } state;
} test_timer;

typedef struct {
    taut_loop loop;
    conn conns[CONNS_MAX];
    int conn_count;
    size_t capacity, write_max;
    test_timer timers[TIMERS_MAX];
    int timer_starts_left;
    uint64_t last_iteration, last_deadline_ns;
    uint64_t published, seen; /* wake-ups: work announced by another thread, and found */
    int wakes_left;
    int phase;
    taut_listener listener;
    int listen_fd, listening, dials_left, accepts_due, listener_freed;
    taut_connector connectors[2];
    int connector_fds[2]; /* -1: not under way */
    int oom;              /* allocations may fail */
} scenario;

extern scenario sc;

/* 0: the whole run was as it must be (anything else ends the process). */
void scenario_run(uint64_t seed, int verbose);
/* The same for datagram sockets on a loop of their own. */
void scenario_dgram_run(uint64_t seed, int verbose);

/* Opens a stream on a connected inside fd; closes the fd when there is no room for it. */
void conn_open(int fd, sim_socket *outside);
/* The owner does something at random: writes, pauses, closes... */
void conn_act(conn *c);
/* The outside does something at random; 0 when it has nothing to do. */
int conn_outside_step(conn *c);
/* Everything that was sent has arrived, and what has ended has ended well. */
void conn_check_quiet(conn *c);
void conn_resume(conn *c);
void conn_shut_down(conn *c);
/* Takes the fd away at once and closes it, if nothing is queued: its number is free again. */
void conn_give_up(conn *c);
/* scenario_file.c: sends a file, or tries to; gives up the one that is sent. */
void conn_send_file(conn *c);
void conn_cancel_file(conn *c);
/* The disk has brought what a file waits for. */
void conn_warm_file(conn *c);
/* Starts a connect, if that connector is free. */
void connect_some(int i);
void conn_fill(uint8_t *bytes, size_t size, int id, uint64_t position); /* as written */
uint8_t conn_byte(int id, int direction, uint64_t position);

#endif
