/* Shared by kernel.c (descriptors, epoll, clock, chance) and socket.c (sockets and their delays).
 */
#ifndef TAUT_TESTS_SIM_INTERNAL_H
#define TAUT_TESTS_SIM_INTERNAL_H

#include "sim.h"

#define FDS_MAX 64
#define FD_FIRST 3
#define SOCKETS_MAX 128
#define BACKLOG_MAX 8
#define DGRAMS_MAX 8
#define DATAGRAMS_MAX 100

typedef struct {
    uint8_t *bytes;
    size_t capacity, head, size;
    size_t visible; /* bytes of `size` that have arrived; the others are on their way */
    int fin, fin_visible;
} sim_pipe;

enum sim_state { UNCONNECTED, CONNECTING, CONNECTED };

struct sim_socket {
    sim_pipe in;
    sim_socket *peer;
    enum sim_state state;
    int error;                            /* negative errno that the next call hears */
    int resetting;                        /* a reset is on its way here */
    int reset, write_shut, closed, asked; /* asked: connect was called */
};

/* On their way: the first `visible` have arrived. */
typedef struct {
    int peer;
    size_t size;
    uint8_t *bytes;
} sim_datagram;
typedef struct {
    sim_datagram items[DATAGRAMS_MAX];
    int count, visible;
} sim_row;
struct sim_dgram {
    sim_row in, out;
    int capacity, connected, closed;
    int error; /* negative errno that the next call hears */
};

enum sim_kind { FREE = 0, EPOLL, EVENTFD, SOCKET, LISTENER, REGULAR, DGRAM };

typedef struct {
    enum sim_kind kind;
    int registered;
    uint32_t events;
    uint64_t data;
    uint64_t counter;   /* EVENTFD */
    sim_socket *socket; /* SOCKET */
    sim_dgram *dgram;   /* DGRAM */
    uint8_t *bytes;     /* REGULAR */
    size_t size, bad_at;
    sim_socket *backlog[BACKLOG_MAX];
    int backlog_size, backlog_visible;
} sim_file;

typedef struct {
    uint64_t seed, state, now_ns;
    int verbose, in_world, idle_vain;
    unsigned counts[SIM_CALLS];
    unsigned calls;
    sim_world world;
    sim_faults faults;
    sim_file files[FDS_MAX];
    sim_socket *sockets[SOCKETS_MAX];
    int socket_count;
    sim_dgram *dgrams[DGRAMS_MAX];
    int dgram_count;
} sim_kernel;

extern sim_kernel sim;

/* Counts the call, lets the outside act, and says which file it is; NULL: not open. */
sim_file *sim_enter(enum sim_call call, int fd, const char *name);
void sim_interject(void);
int sim_fd_new(enum sim_kind kind);
uint32_t sim_socket_events(const sim_socket *s);
/* One delivery on some wire, chosen at random; 0: all quiet. */
int sim_deliver(void);
void sim_socket_close(sim_socket *s);
void sim_sockets_free(void);
/* datagram.c: the same for datagram sockets. */
uint32_t sim_dgram_events(const sim_dgram *d);
int sim_dgram_deliver(void);
void sim_dgram_close(sim_dgram *d);
void sim_dgrams_free(void);

#endif
