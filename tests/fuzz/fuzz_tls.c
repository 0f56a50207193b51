/* libFuzzer: io/tls between a client and a server whose every move the input chooses: writes,
 * deliveries of any size, reads into any room, settling, closing, new keys, and, once it likes to,
 * flipped, lost and foreign bytes and memory that is out.
 *
 * Whatever it does, each side gets a prefix of what the other wrote, and a close only when there
 * was one. As long as it broke nothing, all of it comes and nobody fails. OpenSSL's random numbers
 * are made by a counter that starts anew with each input, so that an input plays the same again. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/rand.h>
#include "random.h"
#include "tls_pair.h"

#define LENT_MAX 32
#define MOVES_MAX 300

/* check.h ends the process without a word to libFuzzer, which would not keep the input. */
#define DEMAND(e)                                                                                  \
    do {                                                                                           \
        if (!(e)) {                                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #e);                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

typedef struct {
    pair_side s;
    uint8_t *lent[LENT_MAX]; /* fed and not settled yet */
    size_t lent_count;
    uint64_t sent, received; /* bytes of plaintext */
    int has_closed, has_failed;
    int read_failed; /* what a read said at last */
} player;

static struct {
    const uint8_t *input;
    size_t left;
    player client, server;
    int broken;   /* bytes were changed, lost or added, or memory was out */
    int may_fail; /* ... or OpenSSL was asked for what it may refuse */
} game;

static uint64_t rand_state;
static int rand_bytes(uint8_t *to, int size) {
    for (int i = 0; i < size; i++)
        to[i] = (uint8_t)random_next(&rand_state);
    return 1;
}
static int rand_status(void) {
    return 1;
}

static uint8_t next_byte(void) {
    if (game.left == 0)
        return 0;
    game.left--;
    return *game.input++;
}
static player *peer_of(const player *p) {
    return p == &game.client ? &game.server : &game.client;
}
static uint8_t plaintext_at(const player *writer, uint64_t i) {
    return (uint8_t)(i * 7 + i / 251 + (writer == &game.client));
}

static void note_failure(player *p, ssize_t rc) {
    if (rc == -ENOMEM) {
        DEMAND(game.broken);
    } else if (rc == TAUT_E_TLS_CLOSED) {
        /* Before there are keys anybody can say so. */
        DEMAND(peer_of(p)->has_closed || (game.broken && !SSL_is_init_finished(p->s.ssl)));
    } else if (rc < 0) {
        DEMAND(rc == TAUT_E_TLS_FAILED);
        DEMAND(game.broken || game.may_fail);
    }
    p->has_failed |= rc < 0 && rc != TAUT_E_TLS_CLOSED;
}

static void move_write(player *p, size_t size) {
    static uint8_t text[70000];
    for (size_t i = 0; i < size; i++)
        text[i] = plaintext_at(p, p->sent + i);
    int out_failed = p->s.tls.out_failed;
    ssize_t n = taut_tls_write(&p->s.tls, text, size);
    DEMAND(n <= 0 || (size_t)n == size);
    if (n > 0)
        p->sent += (uint64_t)n;
    else if (n == -ENOMEM && !out_failed)
        p->sent += size; /* its first records may be on their way */
    DEMAND(n != TAUT_E_TLS_CLOSED);
    if (n < 0 && !p->has_closed && !peer_of(p)->has_closed)
        note_failure(p, n);
    else if (n < 0 && ERR_GET_REASON(ERR_peek_error()) != SSL_R_PROTOCOL_IS_SHUTDOWN)
        p->has_failed = 1;
}

static void move_settle(player *p) {
    int rc = taut_tls_settle(&p->s.tls);
    if (rc < 0)
        note_failure(p, rc);
    while (p->lent_count > 0)
        free(p->lent[--p->lent_count]); /* the sanitizer sees whoever still reads them */
}

/* Whether they were taken. */
static int feed(player *p, const uint8_t *bytes, size_t size) {
    if (p->lent_count == LENT_MAX)
        move_settle(p);
    uint8_t *copy = malloc(size ? size : 1);
    DEMAND(copy != NULL);
    memcpy(copy, bytes, size);
    size_t held = taut_tls_held_size(&p->s.tls);
    int rc = taut_tls_feed(&p->s.tls, copy, size);
    p->lent[p->lent_count++] = copy;
    DEMAND(taut_tls_held_size(&p->s.tls) == held + (rc < 0 ? 0 : size));
    DEMAND(rc == 0 || (rc == -ENOMEM && game.broken));
    return rc == 0;
}

static void move_deliver(player *from, size_t most) {
    taut_buf *out = &from->s.tls.out;
    size_t size = taut_buf_size(out) < most ? taut_buf_size(out) : most;
    if (size > 0 && feed(peer_of(from), taut_buf_bytes(out), size))
        taut_buf_consume(out, size);
}

static ssize_t move_read(player *p, size_t room) {
    static uint8_t text[20000];
    int readable = taut_tls_readable(&p->s.tls);
    ssize_t n = taut_tls_read(&p->s.tls, text, room);
    DEMAND(n <= (ssize_t)room);
    DEMAND(n <= 0 || readable);
    for (ssize_t i = 0; i < n; i++)
        DEMAND(text[i] == plaintext_at(peer_of(p), p->received++));
    DEMAND(p->received <= peer_of(p)->sent);
    DEMAND(p->read_failed == 0 || p->read_failed == n || room == 0);
    if (n < 0) {
        DEMAND(n != TAUT_E_TLS_FAILED || p->has_failed || ERR_peek_error() != 0);
        note_failure(p, n);
        p->read_failed = (int)n;
    }
    return n;
}

static void move_handshake(player *p) {
    int rc = side_handshake(&p->s);
    if (rc < 0) {
        DEMAND(game.broken || game.may_fail || p->has_closed || peer_of(p)->has_closed);
        p->has_failed = 1;
    }
}

static void move_break(player *p, int how) {
    taut_buf *out = &p->s.tls.out;
    size_t size = taut_buf_size(out), at = next_byte();
    at = size ? (at << 8 | next_byte()) % size : 0;
    game.broken = 1;
    if (how < 4 && size > 0) { /* a bit */
        out->data[out->start + at] ^= (uint8_t)(1 << (how * 2));
    } else if (how < 6) { /* the bytes up to here */
        taut_buf_consume(out, at);
    } else { /* bytes of the input's own */
        size_t more = next_byte();
        more = more < game.left ? more : game.left;
        feed(p, game.input, more);
        game.input += more;
        game.left -= more;
    }
}

static void move_close_or_rekey(player *p, int how) {
    if (how < 2) {
        if (!SSL_in_init(p->s.ssl)) {
            p->has_closed = 1;
            ERR_clear_error();
            int rc = SSL_shutdown(p->s.ssl);
            /* A second one looks for the peer's, and wants no data before it. */
            if (rc < 0 && SSL_get_error(p->s.ssl, rc) == SSL_ERROR_SSL)
                p->has_failed = game.may_fail = 1;
        }
    } else if (SSL_version(p->s.ssl) == TLS1_3_VERSION) {
        (void)SSL_key_update(p->s.ssl,
                             how < 5 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
    } else if (!SSL_in_init(p->s.ssl)) {
        game.may_fail = 1; /* data may not come between all of its messages */
        (void)SSL_renegotiate(p->s.ssl);
    }
}

/* Everything on its way is delivered and read, as often as it takes. */
static void move_all(void) {
    player *both[] = {&game.client, &game.server};
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 2; i++) {
            move_deliver(both[i], WHOLE);
            player *to = peer_of(both[i]);
            while (move_read(to, 20000) > 0)
                ;
            move_settle(to);
        }
        if (taut_buf_size(&game.client.s.tls.out) + taut_buf_size(&game.server.s.tls.out) == 0)
            return;
    }
    DEMAND(game.broken); /* memory was out just when it was to be fed */
}

static void move(void) {
    static const size_t sizes[] = {1, 5, 17, 300, 16384, 16385, 33000, 70000};
    static const size_t parts[] = {1, 2, 4, 5, 6, 100, 16400, WHOLE};
    static const size_t rooms[] = {0, 1, 5, 100, 5000, 16383, 16384, 20000};
    uint8_t what = next_byte();
    player *p = what & 0x10 ? &game.server : &game.client;
    int how = what >> 5;
    switch (what & 15) {
    case 0:
    case 1:
        move_write(p, sizes[how]);
        break;
    case 2:
    case 3:
    case 4:
        move_deliver(p, parts[how]);
        break;
    case 5:
    case 6:
    case 7:
        move_read(p, rooms[how]);
        break;
    case 8:
        move_settle(p);
        break;
    case 9:
        move_break(p, how);
        break;
    case 10:
        move_close_or_rekey(p, how);
        break;
    case 11:
        game.broken = 1;
        taut_mem_fail_set((uint64_t)how + 1, 0);
        break;
    case 12:
        move_handshake(p);
        break;
    case 13:
        move_deliver(p, next_byte());
        break;
    default:
        move_all();
    }
}

static void player_begin(player *p, SSL_CTX *ctx, int is_server, int version) {
    *p = (player){0};
    DEMAND(side_begin(&p->s, ctx, is_server) == 0);
    DEMAND(SSL_set_min_proto_version(p->s.ssl, version) == 1);
    DEMAND(SSL_set_max_proto_version(p->s.ssl, version) == 1);
}
static void player_end(player *p) {
    taut_tls_end(&p->s.tls);
    while (p->lent_count > 0)
        free(p->lent[--p->lent_count]);
    side_end(&p->s);
}

static SSL_CTX *prepare(SSL_CTX *ctx) {
    /* What is kept between connections, and tickets, which tell the time. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    return ctx;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    static const RAND_METHOD counter = {
        .bytes = rand_bytes, .pseudorand = rand_bytes, .status = rand_status};
    static SSL_CTX *client, *server;
    if (client == NULL) {
        DEMAND(RAND_set_rand_method(&counter) == 1);
        pair_api_fill();
        client = prepare(cert_client_ctx());
        server = prepare(cert_server_ctx(CERT_EC));
    }
    rand_state = 1;
    game.input = input;
    game.left = size;
    game.broken = game.may_fail = 0;
    uint8_t start = next_byte();
    int version = start & 1 ? TLS1_2_VERSION : TLS1_3_VERSION;
    player_begin(&game.client, client, 0, version);
    player_begin(&game.server, server, 1, version);
    /* How far the handshake is: all of it, or some of its flights. */
    move_handshake(&game.client);
    for (int i = start >> 1 & 3; i > 0; i--)
        if (i == 3)
            move_all();
        else
            move_deliver(i & 1 ? &game.client : &game.server, WHOLE);
    for (int i = 0; i < MOVES_MAX && game.left > 0; i++)
        move();

    taut_mem_fail_set(0, 0);
    if (!game.broken)
        move_all();
    if (!game.broken && !game.may_fail) {
        /* New keys that were asked for after a close stay in the air. */
        int closed = game.client.has_closed || game.server.has_closed;
        DEMAND(closed || SSL_is_init_finished(game.client.s.ssl));
        DEMAND(closed || SSL_is_init_finished(game.server.s.ssl));
        DEMAND(game.client.received == game.server.sent);
        DEMAND(game.server.received == game.client.sent);
    }
    player_end(&game.client);
    player_end(&game.server);
    ERR_clear_error();
    taut_mem_stats stats;
    taut_mem_stats_get(&stats);
    DEMAND(stats.live_blocks == 0);
    return 0;
}
