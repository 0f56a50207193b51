/* The load generator: one thread, one epoll set, N connections that each keep one request in
 * flight. A protocol (echo or HTTP) says which bytes to send and when an answer is complete; the
 * engine in load_run.c moves the bytes, plain or over TLS, keeps the time and reconnects what
 * breaks. Instead of requests it can make TLS handshakes, each on a connection of its own. */
#ifndef TAUT_BENCH_LOAD_H
#define TAUT_BENCH_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { TAUT_LOAD_REQUESTS_MAX = 64, TAUT_LOAD_HEAD_MAX = 8192 };

/* A request as it goes on the wire. The load owns the bytes. */
typedef struct {
    char *bytes;
    size_t size;
} taut_load_request;

typedef struct {
    struct sockaddr_in addr;
    const char *host;
    unsigned connections;
    double seconds;    /* measured time; 0: stop after `requests` */
    uint64_t requests; /* measured requests when `seconds` is 0 */
    double warmup_s;   /* driven, not measured */
    pid_t server_pid;  /* 0: no CPU or memory figures */
    bool tls;          /* over TLS */
    bool udp;          /* a connection is a UDP socket, a message one datagram */
    bool shake; /* a request is a new connection, its full handshake and the server's close */
    taut_load_request mix[TAUT_LOAD_REQUESTS_MAX]; /* sent in turn, each connection from its own
                                                      place in the row */
    unsigned mix_len;
} taut_load_config;

typedef struct taut_load_conn {
    int fd;             /* -1 while closed; owned */
    struct ssl_st *tls; /* NULL: plain; owned */
    bool wants_write;   /* EPOLLOUT is registered */
    unsigned next;      /* index into the mix of the request after this one */
    const taut_load_request *request;
    size_t sent;
    uint64_t start_ns;
    size_t received;  /* echo: bytes of the answer so far; http: bytes of the body so far */
    size_t body_size; /* http: once the head is complete */
    size_t head_len;
    bool head_done, ok, closing;
    char *head; /* http: TAUT_LOAD_HEAD_MAX bytes; owned by the engine */
} taut_load_conn;

/* What an arriving piece of an answer did. */
typedef enum { TAUT_LOAD_MORE, TAUT_LOAD_DONE, TAUT_LOAD_BROKEN } taut_load_state;

typedef struct {
    /* Forget the previous answer. */
    void (*begin)(taut_load_conn *c);
    /* Take `size` bytes of the answer; sets c->ok and c->closing when it returns DONE. BROKEN:
     * the peer does not speak the protocol, the connection is dropped. */
    taut_load_state (*feed)(taut_load_conn *c, const char *data, size_t size);
} taut_load_proto;

extern const taut_load_proto taut_load_echo, taut_load_http;

typedef struct {
    uint64_t done;   /* complete and correct answers */
    uint64_t bad;    /* complete answers with a status other than 2xx */
    uint64_t errors; /* connections that failed, broke off or answered garbage */
    double seconds;
    double cpu_s;      /* of the server, all its threads, user and kernel */
    uint32_t *samples; /* latency of each answer in 100 ns; owned, free() it */
    size_t samples_len, samples_size;
} taut_load_result;

/* Drive the load; 0, or -1 after a message to stderr. */
int taut_load_run(const taut_load_config *cfg, const taut_load_proto *proto, taut_load_result *res);

/* Open cfg->connections, send one request through each (so that the server has really accepted
 * it), leave them open and print the server's memory before and after. 0 or -1 after a message. */
int taut_load_idle(const taut_load_config *cfg);

/* CPU time of another process in ns, all threads, also those that ended; 0 when unknown. */
uint64_t taut_load_cpu_ns(pid_t pid);
/* Resident memory of a process in KiB; 0 when unknown. */
uint64_t taut_load_rss_kib(pid_t pid);
/* Connect: blocking, then non-blocking, TCP with TCP_NODELAY. Over TLS the handshake is complete
 * then, unless it is what the load consists of. 0, or -1 after a message. */
int taut_load_open(const taut_load_config *cfg, taut_load_conn *c);
/* As send() and recv() on a non-blocking socket; recv gives 0 too when TLS was closed properly. */
ssize_t taut_load_send(taut_load_conn *c, const char *data, size_t size);
ssize_t taut_load_recv(taut_load_conn *c, char *data, size_t size);
/* Close what is open. */
void taut_load_close(taut_load_conn *c);
/* Allow as many open files as the hard limit lets us. */
void taut_load_raise_nofile(void);
/* malloc that does not return NULL: the program ends with a message. */
void *taut_load_alloc(size_t size);
/* Sorts the samples and gives the q-quantile in microseconds; 0 without samples. */
double taut_load_quantile_us(taut_load_result *res, double q);

/* ---- TLS, for the functions above; load_tls.c, or load_tls_none.c without OpenSSL ---- */

/* To be called first, and last. 0, or -1 after a message. */
int taut_load_tls_start(void);
void taut_load_tls_end(void);
/* Version and cipher of the first handshake, as in "TLSv1.3 TLS_AES_256_GCM_SHA384". */
const char *taut_load_tls_parameters(void);
/* Give the connected c->fd its TLS; `complete`: wait until the handshake is. 0, or -1 after a
 * message; c->tls is to be closed in any case. */
int taut_load_tls_open(taut_load_conn *c, bool complete);
ssize_t taut_load_tls_send(taut_load_conn *c, const char *data, size_t size);
ssize_t taut_load_tls_recv(taut_load_conn *c, char *data, size_t size);
/* Go on with the handshake of a load of handshakes. DONE: it was full, and the server has closed
 * the TLS connection after it without sending anything. */
taut_load_state taut_load_tls_shake(taut_load_conn *c);
/* Tell the peer, as far as it goes without waiting, and free c->tls. */
void taut_load_tls_close(taut_load_conn *c);

#endif
