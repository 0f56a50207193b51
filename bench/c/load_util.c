#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t taut_load_cpu_ns(pid_t pid) {
    clockid_t clock;
    struct timespec ts;
    if (pid <= 0 || clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) != 0) {
        return 0;
    }
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

uint64_t taut_load_rss_kib(pid_t pid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    FILE *f = fopen(path, "r");
    if (!f) {
        return 0;
    }
    unsigned long kib = 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %lu kB", &kib) == 1) {
            break;
        }
    }
    fclose(f);
    return kib;
}

int taut_load_open(const taut_load_config *cfg, taut_load_conn *c) {
    const int one = 1;
    c->fd = socket(AF_INET, (cfg->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&cfg->addr, sizeof cfg->addr) != 0 ||
        (!cfg->udp && setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) ||
        fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0) {
        fprintf(stderr, "loadgen: connect: %s\n", strerror(errno));
        taut_load_close(c);
        return -1;
    }
    if (cfg->tls && taut_load_tls_open(c, !cfg->shake) != 0) {
        taut_load_close(c);
        return -1;
    }
    return 0;
}

ssize_t taut_load_send(taut_load_conn *c, const char *data, size_t size) {
    return c->tls ? taut_load_tls_send(c, data, size) : send(c->fd, data, size, MSG_NOSIGNAL);
}

ssize_t taut_load_recv(taut_load_conn *c, char *data, size_t size) {
    return c->tls ? taut_load_tls_recv(c, data, size) : recv(c->fd, data, size, 0);
}

void taut_load_close(taut_load_conn *c) {
    if (c->tls) {
        taut_load_tls_close(c);
    }
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
}

void taut_load_raise_nofile(void) {
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
}

void *taut_load_alloc(size_t size) {
    void *p = calloc(1, size ? size : 1);
    if (!p) {
        fprintf(stderr, "loadgen: out of memory\n");
        exit(1);
    }
    return p;
}

static int compare_samples(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

double taut_load_quantile_us(taut_load_result *res, double q) {
    if (res->samples_len == 0) {
        return 0;
    }
    qsort(res->samples, res->samples_len, sizeof *res->samples, compare_samples);
    size_t at = (size_t)(q * (double)(res->samples_len - 1) + 0.5);
    return (double)res->samples[at] / 10.0;
}
