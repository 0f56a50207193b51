/* io/tls on a real libssl: what works. test_tls_bad.c has what must fail. */
#include <openssl/bio.h>
#include "tls_pair.h"

_Static_assert(TAUT_SSL_ERROR_WANT_READ == SSL_ERROR_WANT_READ, "");
_Static_assert(TAUT_SSL_ERROR_WANT_WRITE == SSL_ERROR_WANT_WRITE, "");
_Static_assert(TAUT_SSL_ERROR_ZERO_RETURN == SSL_ERROR_ZERO_RETURN, "");
_Static_assert(TAUT_BIO_TYPE_SOURCE_SINK == BIO_TYPE_SOURCE_SINK, "");
_Static_assert(TAUT_BIO_CTRL_FLUSH == BIO_CTRL_FLUSH, "");
_Static_assert(TAUT_BIO_FLAG_READ == BIO_FLAGS_READ, "");
_Static_assert(TAUT_BIO_FLAG_SHOULD_RETRY == BIO_FLAGS_SHOULD_RETRY, "");
_Static_assert(TAUT_BIO_FLAGS_ALL == (BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY), "");

#define PAYLOAD_MAX 100000

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
static const size_t pieces[] = {1, 5, 6, 1000, WHOLE};
#define FOR_EACH(item, array)                                                                      \
    for (size_t item##_i = 0; item##_i < sizeof(array) / sizeof *(array); item##_i++)              \
        for (int item##_go = 1; item##_go;)                                                        \
            for (const __typeof__(*(array)) item = (array)[item##_i]; item##_go; item##_go = 0)

static uint8_t payload[PAYLOAD_MAX];

static void payload_fill(void) {
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 31 + i / 251);
}

/* Sends `size` bytes of the payload and checks that they, and nothing else, arrive. */
static void check_one_way(pair_side *from, pair_side *to, size_t size, size_t piece) {
    payload_fill();
    CHECK_EQ(taut_tls_write(&from->tls, payload, size), size);
    to->got_size = 0;
    CHECK_EQ(pair_carry(from, to, piece), 0);
    CHECK_EQ(to->got_size, size);
    CHECK(size == 0 || memcmp(to->got, payload, size) == 0);
}
static void check_both_ways(tls_pair *p, size_t size, size_t piece) {
    check_one_way(&p->client, &p->server, size, piece);
    check_one_way(&p->server, &p->client, size, piece);
}

static void handshake_by_do_handshake(void) {
    FOR_EACH(version, versions) FOR_EACH(piece, pieces) for (cert_key k = 0; k < CERT_KEYS; k++) {
        tls_pair p;
        pair_begin_with(&p, k, version);
        int client = 0, server = 0;
        for (int round = 0; round < 10 && !(client && server); round++) {
            client = side_handshake(&p.client);
            CHECK(client >= 0);
            CHECK_EQ(pair_carry(&p.client, &p.server, piece), 0);
            server = side_handshake(&p.server);
            CHECK(server >= 0);
            CHECK_EQ(pair_carry(&p.server, &p.client, piece), 0);
        }
        CHECK(client && server);
        CHECK_EQ(SSL_version(p.client.ssl), version);
        check_both_ways(&p, 100, piece);
        pair_end(&p);
    }
}

static void payloads_around_record_boundaries(void) {
    static const size_t sizes[] = {0, 1, 16383, 16384, 16385, 32768, PAYLOAD_MAX};
    FOR_EACH(version, versions) {
        tls_pair p;
        pair_begin(&p, version);
        pair_connect(&p, WHOLE);
        FOR_EACH(size, sizes) FOR_EACH(piece, pieces) check_both_ways(&p, size, piece);
        pair_end(&p);
    }
}

static void a_small_room_is_filled_bit_by_bit(void) {
    FOR_EACH(version, versions) {
        tls_pair p;
        uint8_t one[7];
        size_t got = 0, size;
        ssize_t n;
        pair_begin(&p, version);
        pair_connect(&p, WHOLE);
        payload_fill();
        CHECK_EQ(taut_tls_write(&p.client.tls, payload, 16385), 16385);
        uint8_t *wire = side_take(&p.client, &size);
        CHECK(!taut_tls_readable(&p.server.tls));
        CHECK_EQ(taut_tls_feed(&p.server.tls, wire, size), 0);
        CHECK_EQ(taut_tls_held_size(&p.server.tls), size);
        CHECK_EQ(taut_tls_read(&p.server.tls, one, 0), 0); /* no room: nothing is lost */
        while ((n = taut_tls_read(&p.server.tls, one, sizeof one)) > 0) {
            CHECK(memcmp(one, payload + got, (size_t)n) == 0);
            got += (size_t)n;
            CHECK(got == 16385 || taut_tls_readable(&p.server.tls));
        }
        CHECK_EQ(n, 0);
        CHECK_EQ(got, 16385);
        CHECK(!taut_tls_readable(&p.server.tls));
        free(wire);
        pair_end(&p);
    }
}

static void feeding_while_bytes_are_held(void) {
    FOR_EACH(version, versions) FOR_EACH(piece, pieces) {
        tls_pair p;
        size_t size;
        pair_begin(&p, version);
        pair_connect(&p, WHOLE);
        payload_fill();
        CHECK_EQ(taut_tls_write(&p.client.tls, payload, 40000), 40000);
        uint8_t *wire = side_take(&p.client, &size);
        /* All fed unread and unsettled, so that each feed has to keep the one before. */
        for (size_t at = 0; at < size; at += piece < size - at ? piece : size - at)
            CHECK_EQ(taut_tls_feed(&p.server.tls, wire + at, piece < size - at ? piece : size - at),
                     0);
        CHECK_EQ(taut_tls_held_size(&p.server.tls), size);
        /* Read one record, then feed more of nothing: what is borrowed and what is held stay in
         * their order. */
        CHECK_EQ(taut_tls_feed(&p.server.tls, NULL, 0), 0);
        CHECK_EQ(side_drain(&p.server), 0);
        CHECK_EQ(p.server.got_size, 40000);
        CHECK(memcmp(p.server.got, payload, 40000) == 0);
        CHECK_EQ(taut_tls_settle(&p.server.tls), 0);
        free(wire);
        pair_end(&p);
    }
}

static void settling_keeps_what_was_not_read(void) {
    tls_pair p;
    uint8_t room[20000];
    size_t size;
    pair_begin(&p, TLS1_3_VERSION);
    pair_connect(&p, WHOLE);
    payload_fill();
    for (int i = 0; i < 3; i++)
        CHECK_EQ(taut_tls_write(&p.server.tls, payload + i * 1000, 1000), 1000);
    uint8_t *wire = side_take(&p.server, &size);
    CHECK_EQ(taut_tls_feed(&p.client.tls, wire, size), 0);
    CHECK_EQ(taut_tls_read(&p.client.tls, room, sizeof room), 1000);
    size_t left = taut_tls_held_size(&p.client.tls);
    CHECK(left > 2000 && left < size);
    CHECK_EQ(taut_tls_settle(&p.client.tls), 0);
    memset(wire, 0xdb, size);
    free(wire);
    CHECK_EQ(taut_tls_settle(&p.client.tls), 0); /* a second time: nothing to do */
    CHECK_EQ(taut_tls_held_size(&p.client.tls), left);
    CHECK_EQ(taut_tls_read(&p.client.tls, room, sizeof room), 1000);
    CHECK(memcmp(room, payload + 1000, 1000) == 0);
    CHECK_EQ(taut_tls_read(&p.client.tls, room, sizeof room), 1000);
    CHECK(memcmp(room, payload + 2000, 1000) == 0);
    CHECK_EQ(taut_tls_read(&p.client.tls, room, sizeof room), 0);
    CHECK_EQ(taut_tls_held_size(&p.client.tls), 0);
    pair_end(&p);
}

static void writing_before_the_handshake_drives_it(void) {
    FOR_EACH(version, versions) {
        tls_pair p;
        pair_begin(&p, version);
        CHECK_EQ(taut_tls_write(&p.server.tls, "early", 5), 0);
        CHECK_EQ(taut_buf_size(&p.server.tls.out), 0);
        CHECK_EQ(taut_tls_write(&p.client.tls, "early", 5), 0);
        CHECK(taut_buf_size(&p.client.tls.out) > 100); /* its hello */
        CHECK_EQ(taut_tls_write(&p.client.tls, "later", 5), 0);
        CHECK_EQ(pair_settle(&p, WHOLE), 0);
        CHECK_EQ(p.server.got_size, 0); /* none of it was taken */
        CHECK(SSL_is_init_finished(p.client.ssl) && SSL_is_init_finished(p.server.ssl));
        check_both_ways(&p, 5, WHOLE);
        pair_end(&p);
    }
}

static void data_behind_the_last_handshake_flight(void) {
    FOR_EACH(version, versions) {
        tls_pair p;
        pair_begin(&p, version);
        CHECK_EQ(side_handshake(&p.client), 0);
        /* The client's last flight and its first record go in one piece. */
        for (int i = 0; i < 3 && !SSL_is_init_finished(p.client.ssl); i++) {
            CHECK_EQ(pair_carry(&p.client, &p.server, WHOLE), 0);
            CHECK_EQ(pair_carry(&p.server, &p.client, WHOLE), 0);
        }
        CHECK(SSL_is_init_finished(p.client.ssl));
        CHECK_EQ(taut_tls_write(&p.client.tls, "first", 5), 5);
        CHECK_EQ(pair_carry(&p.client, &p.server, WHOLE), 0);
        CHECK_EQ(p.server.got_size, 5);
        CHECK(memcmp(p.server.got, "first", 5) == 0);
        pair_end(&p);
    }
}

static void a_side_that_closes(pair_side *closing, pair_side *other) {
    uint8_t room[10];
    CHECK_EQ(taut_tls_write(&closing->tls, "last", 4), 4);
    CHECK_EQ(SSL_shutdown(closing->ssl), 0);
    CHECK_EQ(pair_carry(closing, other, 3), TAUT_E_TLS_CLOSED);
    CHECK_EQ(other->got_size, 4);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(taut_tls_read(&other->tls, room, sizeof room), TAUT_E_TLS_CLOSED);
    CHECK_EQ(taut_tls_write(&closing->tls, "more", 4), TAUT_E_TLS_FAILED);
    CHECK(ERR_peek_error() != 0);

    /* The other half is still open. */
    closing->got_size = 0;
    CHECK_EQ(taut_tls_write(&other->tls, "answer", 6), 6);
    CHECK_EQ(pair_carry(other, closing, WHOLE), 0);
    CHECK_EQ(closing->got_size, 6);

    CHECK_EQ(SSL_shutdown(other->ssl), 1);
    CHECK_EQ(pair_carry(other, closing, WHOLE), TAUT_E_TLS_CLOSED);
    CHECK_EQ(taut_tls_read(&closing->tls, room, sizeof room), TAUT_E_TLS_CLOSED);
    CHECK_EQ(SSL_shutdown(closing->ssl), 1);
}

static void close_notify_both_ways(void) {
    FOR_EACH(version, versions) for (int server_closes = 0; server_closes < 2; server_closes++) {
        tls_pair p;
        pair_begin(&p, version);
        pair_connect(&p, WHOLE);
        if (server_closes)
            a_side_that_closes(&p.server, &p.client);
        else
            a_side_that_closes(&p.client, &p.server);
        pair_end(&p);
    }
}

static void bytes_behind_close_notify_change_nothing(void) {
    tls_pair p;
    pair_begin(&p, TLS1_3_VERSION);
    pair_connect(&p, WHOLE);
    CHECK_EQ(SSL_shutdown(p.client.ssl), 0);
    CHECK_EQ(pair_carry(&p.client, &p.server, WHOLE), TAUT_E_TLS_CLOSED);
    CHECK_EQ(side_feed(&p.server, "garbage", 7), TAUT_E_TLS_CLOSED);
    CHECK_EQ(p.server.got_size, 0);
    pair_end(&p);
}

static void key_update_under_traffic(void) {
    FOR_EACH(piece, pieces) {
        tls_pair p;
        pair_begin(&p, TLS1_3_VERSION);
        pair_connect(&p, WHOLE);
        for (int round = 0; round < 4; round++) {
            int type = round & 1 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED;
            CHECK_EQ(SSL_key_update(round & 2 ? p.client.ssl : p.server.ssl, type), 1);
            check_both_ways(&p, 20000, piece);
            CHECK_EQ(pair_settle(&p, piece), 0);
        }
        /* A request crosses data of the peer, which answers when it reads. */
        payload_fill();
        CHECK_EQ(taut_tls_write(&p.server.tls, payload, 30000), 30000);
        CHECK_EQ(SSL_key_update(p.client.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        CHECK_EQ(side_handshake(&p.client), 1);
        p.client.got_size = 0;
        CHECK_EQ(pair_settle(&p, piece), 0);
        CHECK_EQ(p.client.got_size, 30000);
        CHECK_EQ(SSL_get_key_update_type(p.client.ssl), SSL_KEY_UPDATE_NONE);
        check_both_ways(&p, 1000, piece);
        pair_end(&p);
    }
}

static void renegotiation_begun_by(int by_server, size_t piece) {
    tls_pair p;
    pair_begin(&p, TLS1_2_VERSION);
    SSL_set_options(p.server.ssl, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    pair_connect(&p, WHOLE);
    payload_fill();
    pair_side *begins = by_server ? &p.server : &p.client;
    pair_side *other = by_server ? &p.client : &p.server;
    CHECK_EQ(SSL_renegotiate(begins->ssl), 1);
    p.client.got_size = p.server.got_size = 0;
    CHECK_EQ(taut_tls_write(&other->tls, payload, 20000), 20000); /* on its way meanwhile */
    ssize_t n = taut_tls_write(&begins->tls, payload, 20000);
    CHECK_EQ(n, by_server ? 20000 : 0); /* the client awaits the server's hello first */
    CHECK_EQ(pair_settle(&p, piece), 0);
    CHECK_EQ(begins->got_size, 20000);
    CHECK_EQ(other->got_size, n);
    CHECK(SSL_is_init_finished(p.client.ssl) && SSL_is_init_finished(p.server.ssl));
    CHECK_EQ(SSL_num_renegotiations(p.client.ssl), 1);
    check_both_ways(&p, 20000, piece);
    pair_end(&p);
}

static void renegotiation_under_traffic(void) {
    FOR_EACH(piece, pieces) {
        renegotiation_begun_by(0, piece);
        renegotiation_begun_by(1, piece);
    }
}

static void ending_before_the_ssl(void) {
    FOR_EACH(version, versions) for (int connected = 0; connected < 2; connected++) {
        tls_pair p;
        uint8_t room[10];
        size_t done;
        pair_begin(&p, version);
        if (connected)
            pair_connect(&p, WHOLE);
        taut_tls_end(&p.client.tls);
        taut_tls_end(&p.client.tls);
        ERR_clear_error();
        CHECK(SSL_read_ex(p.client.ssl, room, sizeof room, &done) == 0);
        CHECK_EQ(SSL_get_error(p.client.ssl, 0), SSL_ERROR_SYSCALL);
        CHECK(SSL_write_ex(p.client.ssl, "x", 1, &done) == 0);
        CHECK_EQ(SSL_get_error(p.client.ssl, 0), SSL_ERROR_SYSCALL);
        CHECK(SSL_shutdown(p.client.ssl) < 0);
        CHECK(!connected || SSL_has_pending(p.client.ssl) == 0);
        pair_end(&p);
    }
    taut_tls zeroed = {0};
    taut_tls_end(&zeroed);
}

static void beginning_drops_the_bios_it_had(void) {
    pair_api_fill();
    SSL *ssl = SSL_new(cert_client_ctx());
    CHECK(ssl != NULL);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    for (int i = 0; i < 2; i++) {
        taut_tls t;
        CHECK_EQ(taut_tls_begin(&t, &pair_api, ssl), 0);
        CHECK(SSL_get_rbio(ssl) == SSL_get_wbio(ssl) && SSL_get_rbio(ssl) == t.bio);
        CHECK_EQ(SSL_get_fd(ssl), -1);
        taut_tls_end(&t);
    }
    SSL_free(ssl);
}

/* With memory out the bytes that are not on their way are the caller's again, and are fed again. */
static int carry_some(pair_side *from, pair_side *to, int may_fail) {
    int rc;
    size_t size;
    uint8_t *wire = side_take(from, &size);
    size_t half = size / 2;
    rc = taut_tls_feed(&to->tls, wire, half);
    CHECK(rc == 0 || may_fail);
    if (rc == 0) {
        rc = taut_tls_feed(&to->tls, wire + half, size - half);
        CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
        CHECK(taut_tls_held_size(&to->tls) == (rc == 0 ? size : half));
        if (rc < 0)
            rc = taut_tls_feed(&to->tls, wire + half, size - half);
    }
    int read = rc == 0 ? side_drain(to) : 0;
    if (rc == 0 && read == 0)
        CHECK_EQ(taut_tls_held_size(&to->tls), 0);
    int settled = taut_tls_settle(&to->tls);
    free(wire);
    return rc < 0 ? rc : read < 0 ? read : settled;
}

/* A write that failed for want of memory has not sent anything else since. */
static void check_write_stays_failed(pair_side *s, int may_fail) {
    CHECK(may_fail);
    size_t before = taut_buf_size(&s->tls.out);
    uint8_t *other = calloc(1, PAYLOAD_MAX);
    CHECK(other != NULL);
    CHECK_EQ(taut_tls_write(&s->tls, other, PAYLOAD_MAX), -ENOMEM);
    CHECK_EQ(taut_buf_size(&s->tls.out), before);
    free(other);
}

static void life_of_a_connection(int may_fail) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tls_pair p;
        int rc = 0;
        pair_begin(&p, version);
        payload_fill();
        if (side_handshake(&p.client) < 0)
            CHECK(may_fail && p.client.tls.out_failed);
        for (int i = 0; i < 4 && rc == 0; i++) {
            rc = carry_some(&p.client, &p.server, may_fail);
            if (rc == 0)
                rc = carry_some(&p.server, &p.client, may_fail);
        }
        int connected =
            rc == 0 && SSL_is_init_finished(p.server.ssl) && SSL_is_init_finished(p.client.ssl);
        CHECK(connected || may_fail);
        for (int i = 0; i < 6 && connected && rc == 0; i++) {
            pair_side *from = i & 1 ? &p.server : &p.client;
            pair_side *to = i & 1 ? &p.client : &p.server;
            if (i == 4 && version == TLS1_3_VERSION)
                CHECK_EQ(SSL_key_update(from->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
            ssize_t n = taut_tls_write(&from->tls, payload, PAYLOAD_MAX);
            if (n < 0) {
                CHECK_EQ(n, -ENOMEM);
                check_write_stays_failed(from, may_fail);
                break;
            }
            CHECK_EQ(n, PAYLOAD_MAX);
            to->got_size = 0;
            rc = carry_some(from, to, may_fail);
            if (rc == 0)
                CHECK_EQ(to->got_size, PAYLOAD_MAX);
            CHECK(to->got_size == 0 || memcmp(to->got, payload, to->got_size) == 0);
        }
        CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
        pair_end(&p);
    }
}

static void every_allocation_failing(void) {
    life_of_a_connection(0); /* OpenSSL's own one-time set-up */
    check_every_allocation(life_of_a_connection);
}

static const check_test tests[] = {
    CHECK_TEST(handshake_by_do_handshake),
    CHECK_TEST(payloads_around_record_boundaries),
    CHECK_TEST(a_small_room_is_filled_bit_by_bit),
    CHECK_TEST(feeding_while_bytes_are_held),
    CHECK_TEST(settling_keeps_what_was_not_read),
    CHECK_TEST(writing_before_the_handshake_drives_it),
    CHECK_TEST(data_behind_the_last_handshake_flight),
    CHECK_TEST(close_notify_both_ways),
    CHECK_TEST(bytes_behind_close_notify_change_nothing),
    CHECK_TEST(key_update_under_traffic),
    CHECK_TEST(renegotiation_under_traffic),
    CHECK_TEST(ending_before_the_ssl),
    CHECK_TEST(beginning_drops_the_bios_it_had),
    CHECK_TEST(every_allocation_failing),
};
CHECK_MAIN(tests)
