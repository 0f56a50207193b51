/* The yardstick of TLS: what a request or a handshake costs in C with nothing around OpenSSL. One
 * thread, level-triggered epoll, SSL_read and SSL_write directly on the socket; what it does not
 * take is kept per connection. Sessions are not resumed unless the client asks for it, tickets are
 * sent as by default, and idle connections hold no buffers: all as Python's ssl does it.
 * Prints "ready PORT" and serves until it is killed; with --version prints OpenSSL's version. */
#include "peer.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BUF_SIZE = 256 * 1024, EVENTS_MAX = 256 };

static const char usage_text[] = "usage: tls_epoll echo|http|handshake CERT.pem KEY.pem [PORT]\n"
                                 "       tls_epoll --version\n";

static const char response[] = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
                               "content-length: 13\r\n\r\nhello, world\n";

typedef enum { MODE_ECHO, MODE_HTTP, MODE_HANDSHAKE } serve_mode;

typedef struct {
    SSL *ssl;
    uint32_t events; /* registered with epoll */
    bool established;
    unsigned head_end; /* http: how many bytes of the empty line that ends a head have come */
    char *left;        /* bytes that the socket did not take; NULL when none */
    size_t left_len, left_off;
} tls_conn;

static int epoll_fd;
static serve_mode mode;
static SSL_CTX *ctx;
static char buf[BUF_SIZE];

static void arm(tls_conn *c, uint32_t events) {
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (c->events == events) {
        return;
    }
    if (epoll_ctl(epoll_fd, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, SSL_get_fd(c->ssl), &ev)) {
        perror("tls_epoll: epoll_ctl");
        exit(1);
    }
    c->events = events;
}

static void drop(tls_conn *c) {
    close(SSL_get_fd(c->ssl));
    SSL_free(c->ssl);
    free(c->left);
    free(c);
}

/* After a call of OpenSSL that gave `got`: waits for what it wants, or drops the connection. */
static void wait_or_drop(tls_conn *c, int got) {
    switch (SSL_get_error(c->ssl, got)) {
    case SSL_ERROR_WANT_READ:
        arm(c, EPOLLIN);
        break;
    case SSL_ERROR_WANT_WRITE:
        arm(c, EPOLLOUT);
        break;
    default:
        drop(c);
    }
}

/* Sends as far as the socket takes it. The bytes sent; -1: the connection is gone. */
static ssize_t write_some(tls_conn *c, const char *data, size_t size) {
    size_t sent = 0;
    while (sent < size) {
        ERR_clear_error();
        int n = SSL_write(c->ssl, data + sent, (int)(size - sent));
        if (n <= 0) {
            int error = SSL_get_error(c->ssl, n);
            if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ) {
                drop(c);
                return -1;
            }
            break;
        }
        sent += (size_t)n;
    }
    return (ssize_t)sent;
}

/* False when the reading has to stop: bytes are left, or the connection is gone. */
static bool answer(tls_conn *c, const char *data, size_t size) {
    ssize_t sent = write_some(c, data, size);
    if (sent < 0) {
        return false;
    }
    if ((size_t)sent == size) {
        return true;
    }
    c->left_len = size - (size_t)sent;
    c->left_off = 0;
    c->left = malloc(c->left_len);
    if (!c->left) {
        drop(c);
        return false;
    }
    memcpy(c->left, data + sent, c->left_len);
    arm(c, EPOLLOUT);
    return false;
}

/* One response for each head that ends within these bytes; requests have no bodies here. */
static bool answer_http(tls_conn *c, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        const bool odd = c->head_end & 1;
        if (data[i] == '\r') {
            c->head_end = c->head_end == 2 ? 3 : 1;
        } else {
            c->head_end = data[i] == '\n' && odd ? c->head_end + 1 : 0;
        }
        if (c->head_end == 4) {
            c->head_end = 0;
            if (!answer(c, response, sizeof response - 1)) {
                return false; /* the load has one request in flight: nothing follows it */
            }
        }
    }
    return true;
}

/* While bytes are left only writability is awaited, so memory stays at one read a connection. */
static void on_readable(tls_conn *c) {
    do {
        ERR_clear_error();
        int n = SSL_read(c->ssl, buf, sizeof buf);
        if (n <= 0) {
            wait_or_drop(c, n);
            return;
        }
        if (!(mode == MODE_HTTP ? answer_http : answer)(c, buf, (size_t)n)) {
            return;
        }
    } while (SSL_has_pending(c->ssl));
    arm(c, EPOLLIN);
}

static void on_writable(tls_conn *c) {
    ssize_t n = write_some(c, c->left + c->left_off, c->left_len - c->left_off);
    if (n < 0) {
        return;
    }
    c->left_off += (size_t)n;
    if (c->left_off == c->left_len) {
        free(c->left);
        c->left = NULL;
        on_readable(c); /* what OpenSSL has read already shows in no event */
    }
}

static void shake(tls_conn *c) {
    ERR_clear_error();
    int n = SSL_accept(c->ssl);
    if (n != 1) {
        wait_or_drop(c, n);
    } else if (mode == MODE_HANDSHAKE) {
        SSL_shutdown(c->ssl);
        drop(c);
    } else {
        c->established = true;
        on_readable(c);
    }
}

static void accept_all(int listen_fd) {
    int fd;
    while ((fd = taut_peer_accept(listen_fd)) >= 0) {
        tls_conn *c = calloc(1, sizeof *c);
        SSL *ssl = SSL_new(ctx);
        if (!c || !ssl || SSL_set_fd(ssl, fd) != 1) {
            SSL_free(ssl);
            free(c);
            close(fd);
            continue;
        }
        c->ssl = ssl;
        arm(c, EPOLLIN);
    }
}

static SSL_CTX *make_context(const char *cert, const char *key) {
    SSL_CTX *made = SSL_CTX_new(TLS_server_method());
    if (!made || SSL_CTX_use_certificate_chain_file(made, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(made, key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    SSL_CTX_set_mode(made, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                               SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(made, 1); /* one read for a record's head and body */
    return made;
}

static void serve(int listen_fd) {
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            tls_conn *c = events[i].data.ptr;
            if (!c) {
                accept_all(listen_fd);
            } else if (!c->established) {
                shake(c);
            } else if (c->left) {
                on_writable(c);
            } else {
                on_readable(c);
            }
        }
    }
}

int main(int argc, char **argv) {
    static const char *const modes[] = {"echo", "http", "handshake"};
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts(OpenSSL_version(OPENSSL_VERSION));
        return 0;
    }
    while (argc >= 4 && mode <= MODE_HANDSHAKE && strcmp(argv[1], modes[mode]) != 0) {
        mode++;
    }
    if (argc < 4 || mode > MODE_HANDSHAKE) {
        fputs(usage_text, stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    ctx = make_context(argv[2], argv[3]);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listen_fd = taut_peer_listen("tls_epoll", (uint16_t)(argc > 4 ? atoi(argv[4]) : 0));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &ev) != 0) {
        perror("tls_epoll: epoll");
        return 1;
    }
    serve(listen_fd);
}
