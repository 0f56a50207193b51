/* io/tls on a real libssl: what is cut short, broken, or not TLS at all. */
#include "random.h"
#include "tls_pair.h"

#define FOR_EACH_VERSION(v)                                                                        \
    for (int v = TLS1_2_VERSION; v <= TLS1_3_VERSION; v += TLS1_3_VERSION - TLS1_2_VERSION)

/* The connection failed, OpenSSL says why, and it stays failed without a byte of data. */
static void check_failed(pair_side *s, int rc) {
    uint8_t room[10];
    CHECK_EQ(rc, TAUT_E_TLS_FAILED);
    CHECK(ERR_peek_error() != 0);
    CHECK_EQ(ERR_GET_LIB(ERR_peek_last_error()), ERR_LIB_SSL); /* a cipher's own may be before */
    size_t before = s->got_size;
    CHECK_EQ(taut_tls_read(&s->tls, room, sizeof room), TAUT_E_TLS_FAILED);
    CHECK(side_feed(s, "\x17\x03\x03\0\1x", 6) < 0);
    CHECK_EQ(s->got_size, before);
}

/* The two up to the point where flight `index` (0: the client's hello) is to be delivered. */
static uint8_t *flight(tls_pair *p, int version, int index, pair_side **to, size_t *size) {
    pair_begin(p, version);
    CHECK_EQ(side_handshake(&p->client), 0);
    for (int i = 0; i < index; i++)
        CHECK_EQ(i & 1 ? pair_carry(&p->server, &p->client, WHOLE)
                       : pair_carry(&p->client, &p->server, WHOLE),
                 0);
    *to = index & 1 ? &p->client : &p->server;
    return side_take(index & 1 ? &p->server : &p->client, size);
}

/* The flights of a handshake before its two sides are done. */
static int flight_count(int version) {
    return version == TLS1_2_VERSION ? 4 : 3;
}

static void flights_byte_by_byte(void) {
    FOR_EACH_VERSION(version) for (int index = 0; index < flight_count(version); index++) {
        tls_pair p;
        pair_side *to;
        size_t size;
        uint8_t *wire = flight(&p, version, index, &to, &size);
        CHECK(size > 40);
        for (size_t i = 0; i < size; i++) {
            CHECK(!SSL_is_init_finished(to->ssl));
            CHECK_EQ(side_feed(to, wire + i, 1), 0);
            CHECK_EQ(side_drain(to), 0);
        }
        CHECK_EQ(to->got_size, 0);
        CHECK_EQ(pair_settle(&p, WHOLE), 0);
        CHECK(SSL_is_init_finished(p.client.ssl) && SSL_is_init_finished(p.server.ssl));
        free(wire);
        pair_end(&p);
    }
}

/* The same in one piece, cut at every few bytes and around the first record's end. */
static void flights_cut_short(void) {
    FOR_EACH_VERSION(version) for (int index = 0; index < flight_count(version); index++) {
        size_t size = 1;
        for (size_t cut = 0; cut < size; cut += cut < 12 ? 1 : 17) {
            tls_pair p;
            pair_side *to;
            uint8_t *wire = flight(&p, version, index, &to, &size);
            if (cut >= size) /* signatures vary in size */
                cut = size - 1;
            CHECK_EQ(side_feed(to, wire, cut), 0);
            CHECK_EQ(side_drain(to), 0);
            CHECK(!SSL_is_init_finished(to->ssl));
            CHECK_EQ(taut_tls_write(&to->tls, "x", 1), 0);
            CHECK_EQ(side_feed(to, wire + cut, size - cut), 0);
            CHECK_EQ(pair_settle(&p, WHOLE), 0);
            CHECK(SSL_is_init_finished(p.client.ssl) && SSL_is_init_finished(p.server.ssl));
            CHECK_EQ(p.client.got_size + p.server.got_size, 0);
            free(wire);
            pair_end(&p);
        }
    }
}

static void records_cut_short(void) {
    static const char text[] = "text of one record";
    FOR_EACH_VERSION(version) {
        tls_pair p;
        size_t size = 1;
        pair_begin(&p, version);
        pair_connect(&p, WHOLE);
        for (size_t cut = 0; cut < size; cut++) {
            CHECK_EQ(taut_tls_write(&p.client.tls, text, sizeof text), sizeof text);
            uint8_t *wire = side_take(&p.client, &size);
            p.server.got_size = 0;
            CHECK_EQ(side_feed(&p.server, wire, cut), 0);
            CHECK_EQ(side_drain(&p.server), 0);
            CHECK_EQ(p.server.got_size, 0);
            CHECK_EQ(side_feed(&p.server, wire + cut, size - cut), 0);
            CHECK_EQ(p.server.got_size, sizeof text);
            CHECK(memcmp(p.server.got, text, sizeof text) == 0);
            free(wire);
        }
        pair_end(&p);
    }
}

/* One bit flipped in each byte of a record. A length made longer only shows when so much has come:
 * good records follow until it does. */
static void records_with_a_bit_flipped(void) {
    FOR_EACH_VERSION(version) for (int to_client = 0; to_client < 2; to_client++) {
        size_t size = 1;
        for (size_t at = 0; at < size; at++) {
            tls_pair p;
            pair_begin(&p, version);
            pair_connect(&p, WHOLE);
            pair_side *from = to_client ? &p.server : &p.client;
            pair_side *to = to_client ? &p.client : &p.server;
            CHECK_EQ(taut_tls_write(&from->tls, "0123456789", 10), 10);
            uint8_t *wire = side_take(from, &size);
            wire[at] ^= (uint8_t)(1 << (at * 5 % 8));
            int rc = side_feed(to, wire, size);
            for (int i = 0; i < 8 && rc == 0; i++) {
                CHECK(at == 3 || at == 4);
                CHECK_EQ(taut_tls_write(&from->tls, "0123456789", 10), 10);
                rc = pair_carry(from, to, WHOLE);
            }
            CHECK_EQ(to->got_size, 0);
            check_failed(to, rc);
            /* The peer is told by an alert, and fails too. */
            check_failed(from, pair_carry(to, from, WHOLE));
            free(wire);
            pair_end(&p);
        }
    }
}

/* In a handshake what a flip does depends on where it is: it may ask for more, fail here, or fail
 * at the peer when the transcripts are compared. What cannot be is two sides that are done, but for
 * the first record's minor version, which nobody looks at. */
static void flights_with_a_bit_flipped(void) {
    FOR_EACH_VERSION(version) for (int index = 0; index < flight_count(version); index++) {
        size_t size = 1;
        for (size_t at = 0; at < size; at += at < 12 ? 1 : 7) {
            tls_pair p;
            pair_side *to;
            uint8_t *wire = flight(&p, version, index, &to, &size);
            size_t where = at < size ? at : size - 1; /* signatures vary in size */
            wire[where] ^= (uint8_t)(1 << (at % 8));
            int rc = side_feed(to, wire, size);
            if (rc == 0)
                rc = pair_settle(&p, WHOLE);
            CHECK(rc == 0 || rc == TAUT_E_TLS_FAILED);
            CHECK(rc == 0 || ERR_peek_error() != 0);
            if (rc == 0 && at != 2)
                CHECK(!SSL_is_init_finished(p.client.ssl) || !SSL_is_init_finished(p.server.ssl));
            CHECK_EQ(p.client.got_size + p.server.got_size, 0);
            free(wire);
            pair_end(&p);
        }
    }
}

static void plain_text_instead_of_a_handshake(void) {
    static const char *const texts[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                        "HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-x\r\n"};
    for (size_t i = 0; i < 3; i++) {
        for (int is_client = 0; is_client < 2; is_client++) {
            tls_pair p;
            pair_begin(&p, TLS1_3_VERSION);
            pair_side *s = is_client ? &p.client : &p.server;
            int rc = 0;
            for (size_t at = 0; at < strlen(texts[i]) && rc == 0; at++)
                rc = side_feed(s, texts[i] + at, 1);
            check_failed(s, rc);
            pair_end(&p);
        }
    }
    tls_pair p;
    pair_begin(&p, TLS1_3_VERSION);
    CHECK_EQ(side_feed(&p.server, texts[0], strlen(texts[0])), TAUT_E_TLS_FAILED);
    CHECK_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_HTTP_REQUEST);
    pair_end(&p);
}

/* Never data, never done; a refusal has its reason, and waiting is right only for want of bytes. */
static void random_garbage(void) {
    uint64_t seed = 1;
    for (int i = 0; i < 300; i++) {
        tls_pair p;
        uint8_t bytes[700];
        pair_begin(&p, i & 1 ? TLS1_2_VERSION : TLS1_3_VERSION);
        pair_side *s = i & 2 ? &p.client : &p.server;
        for (size_t k = 0; k < sizeof bytes; k++)
            bytes[k] = (uint8_t)random_next(&seed);
        if (i & 4) /* a good header before it */
            memcpy(bytes, "\x16\x03\x01\x01\x00", 5);
        int rc = side_feed(s, bytes, sizeof bytes);
        if (rc == 0) /* a length that they do not fill */
            CHECK_EQ(taut_tls_held_size(&s->tls), 0);
        else
            check_failed(s, rc);
        CHECK_EQ(s->got_size, 0);
        CHECK(!SSL_is_init_finished(s->ssl));
        pair_end(&p);
    }
}

static void garbage_after_the_handshake(void) {
    FOR_EACH_VERSION(version) {
        static const char *const records[] = {
            "\x17\x03\x03\x00\x20"
            "0123456789abcdef0123456789abcdef", /* not our keys */
            "\x17\x03\x03\x00\x01"
            "0", /* too short for a tag */
            "\x17\x03\x03\xff\xff"
            "0", /* too long */
            "GET / HTTP/1.1\r\n\r\n",
            "\x16\x03\x03\x00\x04"
            "\0\0\0\0", /* a plain handshake message */
        };
        static const size_t sizes[] = {37, 6, 6, 18, 9};
        for (size_t i = 0; i < 5; i++) {
            tls_pair p;
            pair_begin(&p, version);
            pair_connect(&p, WHOLE);
            check_failed(&p.server, side_feed(&p.server, records[i], sizes[i]));
            CHECK_EQ(p.server.got_size, 0);
            pair_end(&p);
        }
    }
}

/* A close_notify where the handshake should go on: reads say so, writes take nothing. */
static void a_close_within_the_handshake(void) {
    FOR_EACH_VERSION(version) {
        tls_pair p;
        pair_begin(&p, version);
        CHECK_EQ(side_handshake(&p.client), 0);
        CHECK_EQ(side_feed(&p.client, "\x15\x03\x03\x00\x02\x01\x00", 7), TAUT_E_TLS_CLOSED);
        CHECK_EQ(side_drain(&p.client), TAUT_E_TLS_CLOSED);
        CHECK(taut_tls_write(&p.client.tls, "x", 1) <= 0);
        CHECK(!SSL_is_init_finished(p.client.ssl));
        pair_end(&p);
    }
}

static void a_close_within_a_renegotiation(void) {
    tls_pair p;
    pair_begin(&p, TLS1_2_VERSION);
    pair_connect(&p, WHOLE);
    CHECK_EQ(SSL_renegotiate(p.server.ssl), 1);
    CHECK_EQ(taut_tls_write(&p.server.tls, "last", 4), 4);
    CHECK_EQ(SSL_shutdown(p.server.ssl), 0);
    CHECK_EQ(pair_carry(&p.server, &p.client, WHOLE), TAUT_E_TLS_CLOSED);
    CHECK_EQ(p.client.got_size, 4);
    CHECK(taut_tls_write(&p.client.tls, "x", 1) <= 0);
    CHECK_EQ(ERR_peek_error(), 0); /* OpenSSL has no error for it */
    pair_end(&p);
}

static void a_renegotiation_after_the_close(void) {
    tls_pair p;
    uint8_t room[10];
    pair_begin(&p, TLS1_2_VERSION);
    pair_connect(&p, WHOLE);
    CHECK_EQ(SSL_shutdown(p.server.ssl), 0);
    CHECK_EQ(pair_carry(&p.server, &p.client, WHOLE), TAUT_E_TLS_CLOSED);
    CHECK_EQ(SSL_renegotiate(p.client.ssl), 1);
    (void)side_handshake(&p.client);
    CHECK_EQ(SSL_shutdown(p.client.ssl), -1); /* in the midst of a handshake */
    CHECK_EQ(taut_tls_read(&p.client.tls, room, sizeof room), TAUT_E_TLS_CLOSED);
    pair_end(&p);
}

static void a_certificate_that_nobody_trusts(void) {
    FOR_EACH_VERSION(version) {
        tls_pair p;
        pair_begin(&p, version);
        SSL_set_verify(p.client.ssl, SSL_VERIFY_PEER, NULL);
        CHECK_EQ(side_handshake(&p.client), 0);
        CHECK_EQ(pair_carry(&p.client, &p.server, WHOLE), 0);
        int rc = pair_carry(&p.server, &p.client, WHOLE);
        CHECK_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_CERTIFICATE_VERIFY_FAILED);
        check_failed(&p.client, rc);
        rc = pair_carry(&p.client, &p.server, WHOLE);
        CHECK_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_TLSV1_ALERT_UNKNOWN_CA);
        check_failed(&p.server, rc);
        pair_end(&p);
    }
}

/* The default since OpenSSL 3; 1.1.1 is told not to. */
static void renegotiation_refused(void) {
    tls_pair p;
    pair_begin(&p, TLS1_2_VERSION);
    SSL_set_options(p.server.ssl, SSL_OP_NO_RENEGOTIATION);
    pair_connect(&p, WHOLE);
    CHECK_EQ(SSL_renegotiate(p.client.ssl), 1);
    CHECK_EQ(taut_tls_write(&p.client.tls, "x", 1), 0);
    CHECK_EQ(pair_carry(&p.client, &p.server, WHOLE), 0);
    CHECK_EQ(taut_tls_write(&p.server.tls, "still there", 11), 11);
    int rc = pair_carry(&p.server, &p.client, WHOLE);
    CHECK_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
    check_failed(&p.client, rc);
    pair_end(&p);
}

static void no_version_in_common(void) {
    tls_pair p;
    pair_begin(&p, TLS1_2_VERSION);
    CHECK(SSL_set_min_proto_version(p.server.ssl, TLS1_3_VERSION) == 1);
    CHECK_EQ(side_handshake(&p.client), 0);
    int rc = pair_carry(&p.client, &p.server, WHOLE);
    CHECK_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_UNSUPPORTED_PROTOCOL);
    check_failed(&p.server, rc);
    check_failed(&p.client, pair_carry(&p.server, &p.client, WHOLE));
    CHECK_EQ(taut_tls_write(&p.client.tls, "x", 1), TAUT_E_TLS_FAILED);
    pair_end(&p);
}

static const check_test tests[] = {
    CHECK_TEST(flights_byte_by_byte),
    CHECK_TEST(flights_cut_short),
    CHECK_TEST(records_cut_short),
    CHECK_TEST(records_with_a_bit_flipped),
    CHECK_TEST(flights_with_a_bit_flipped),
    CHECK_TEST(plain_text_instead_of_a_handshake),
    CHECK_TEST(random_garbage),
    CHECK_TEST(garbage_after_the_handshake),
    CHECK_TEST(a_close_within_the_handshake),
    CHECK_TEST(a_close_within_a_renegotiation),
    CHECK_TEST(a_renegotiation_after_the_close),
    CHECK_TEST(a_certificate_that_nobody_trusts),
    CHECK_TEST(renegotiation_refused),
    CHECK_TEST(no_version_in_common),
};
CHECK_MAIN(tests)
