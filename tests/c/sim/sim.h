/* A simulated kernel: every taut_sys_* of io/sys.h, driven by one random sequence from a seed. The
 * code under test is "inside"; its peers are "outside" and act whenever the inside makes a system
 * call. The clock moves only a little per call, and as far as needed when the inside waits.
 * One simulation at a time; one thread (other threads are played by the outside). */
#ifndef TAUT_TESTS_SIM_H
#define TAUT_TESTS_SIM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum sim_call {
    SIM_EPOLL_CTL,
    SIM_EPOLL_WAIT,
    SIM_READ,
    SIM_WRITE,
    SIM_RECV,
    SIM_SEND,
    SIM_SENDV,
    SIM_WRITEV,
    SIM_SENDFILE,
    SIM_RECVFROM,
    SIM_SENDTO,
    SIM_RECVMMSG,
    SIM_SENDMMSG,
    SIM_ACCEPT,
    SIM_CONNECT,
    SIM_SHUTDOWN,
    SIM_CLOSE,
    SIM_CALLS
};

typedef struct sim_socket sim_socket;
typedef struct sim_dgram sim_dgram;
struct sockaddr_storage;

typedef struct {
    /* The outside does one thing. 0: it has nothing to do until the inside acts. */
    int (*step)(void *ctx);
    /* The inside sleeps without a deadline and nothing is left to happen. It must cause something
     * (say, a wake-up), or end the test: asked twice in vain, the simulation fails. */
    void (*idle)(void *ctx);
    void *ctx;
} sim_world;

/* How often things go wrong, in 1/1000 of the calls that could. */
typedef struct {
    unsigned again;     /* EAGAIN or EINTR although ready */
    unsigned partial;   /* fewer bytes than possible */
    unsigned cold;      /* a file is not in memory */
    unsigned ctl;       /* ENOMEM or ENOSPC from epoll_ctl */
    unsigned accept;    /* EMFILE, ENOBUFS, ECONNABORTED */
    unsigned refuse;    /* ECONNREFUSED for connect */
    unsigned interject; /* the outside acts before or after a call */
} sim_faults;

void sim_begin(uint64_t seed, int verbose);
void sim_set_world(const sim_world *w);
void sim_set_faults(const sim_faults *f);
/* Frees the kernel. Fails the test when the inside left an fd open. */
void sim_end(void);
/* Prints the seed and the message, and ends the process with status 1. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define SIM_CHECK(e, ...)                                                                          \
    do {                                                                                           \
        if (!(e))                                                                                  \
            sim_fail(__VA_ARGS__);                                                                 \
    } while (0)

uint64_t sim_random(void);
uint64_t sim_below(uint64_t n); /* 0 <= result < n; 0 for n == 0 */
int sim_chance(unsigned permille);
uint64_t sim_clock_ns(void); /* without moving it */
unsigned sim_count(enum sim_call call);
int sim_fd_is_open(int fd);

/* A connected inside fd and its outside end. `capacity` bytes fit in each direction. */
int sim_pair(sim_socket **outside, size_t capacity);
/* A listening inside fd. */
int sim_listen(void);
/* The outside connects to the listening fd; NULL when its backlog is full. */
sim_socket *sim_dial(int listen_fd, size_t capacity);
/* An unconnected inside fd for taut_sys_connect. */
int sim_unconnected(size_t capacity);
/* A regular file's fd; the bytes are copied. Sending from `bad_at` on is -EIO (SIZE_MAX: never). */
int sim_file_open(const void *bytes, size_t size, size_t bad_at);
/* The outside end of an inside fd, NULL while unconnected. */
sim_socket *sim_outside_of(int fd);

/* The outside's own calls. send: how many bytes fitted. recv: bytes, 0 at EOF, -EAGAIN,
 * -ECONNRESET. */
size_t sim_out_send(sim_socket *s, const void *bytes, size_t size);
ssize_t sim_out_recv(sim_socket *s, void *bytes, size_t size);
void sim_out_shutdown(sim_socket *s);
void sim_out_close(sim_socket *s);
void sim_out_reset(sim_socket *s);

/* Datagrams. An inside fd that keeps `capacity` datagrams each way; connected: to peer 0. */
#define SIM_DATAGRAM_MAX 2000 /* bytes; more is refused */
int sim_dgram_open(int capacity, int connected);
sim_dgram *sim_dgram_of(int fd);
void sim_dgram_address(int peer, struct sockaddr_storage *addr, unsigned *size);
/* The outside's calls, also after the inside has closed. send: 0 when it is lost. recv: the size of
 * the next one that any peer got, or -EAGAIN. error: what an ICMP message leaves with the socket.
 */
int sim_dgram_out_send(sim_dgram *d, int peer, const void *bytes, size_t size);
ssize_t sim_dgram_out_recv(sim_dgram *d, int *peer, void *bytes, size_t size);
void sim_dgram_out_error(sim_dgram *d, int err);

#endif
