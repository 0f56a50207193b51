/* base/json_out: commas, escapes, bad UTF-8, numbers, and memory that runs out. */
#include "base/json_out.h"
#include "check.h"

static taut_buf buf;
static taut_json_out w;

static void begin(void) {
    taut_buf_clear(&buf);
    taut_json_out_init(&w, &buf);
}

static void is(const char *expected) {
    CHECK_EQ(taut_json_out_end(&w), 0);
    CHECK_EQ(taut_buf_append(&buf, "", 1), 0);
    if (strcmp((const char *)taut_buf_bytes(&buf), expected) != 0) {
        fprintf(stderr, "  %s\n  instead of %s\n", (const char *)taut_buf_bytes(&buf), expected);
        CHECK(!"the text is as expected");
    }
}

static void write_all(void) {
    taut_json_out_open(&w, '{');
    taut_json_out_key(&w, "a");
    taut_json_out_open(&w, '[');
    taut_json_out_close(&w, ']');
    taut_json_out_key(&w, "b");
    taut_json_out_open(&w, '[');
    taut_json_out_u64(&w, UINT64_MAX);
    taut_json_out_i64(&w, INT64_MIN);
    taut_json_out_bool(&w, 1);
    taut_json_out_bool(&w, 0);
    taut_json_out_null(&w);
    taut_json_out_open(&w, '{');
    taut_json_out_close(&w, '}');
    taut_json_out_close(&w, ']');
    taut_json_out_key(&w, "c");
    taut_json_out_text(&w, "x");
    taut_json_out_close(&w, '}');
}

static void structure(void) {
    begin();
    write_all();
    is("{\"a\":[],\"b\":[18446744073709551615,-9223372036854775808,true,false,null,{}],"
       "\"c\":\"x\"}");
}

static void strings(void) {
    begin();
    taut_json_out_open(&w, '[');
    taut_json_out_text(&w, "");
    taut_json_out_text(&w, "say \"\\\"\n\t\r\x01\x7f");
    taut_json_out_text(&w, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x8d");
    taut_json_out_bytes(&w, "cut", 2);
    taut_json_out_bytes(&w, "a\0b", 3);
    taut_json_out_close(&w, ']');
    is("[\"\",\"say \\\"\\\\\\\"\\n\\t\\u000d\\u0001\\u007f\","
       "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x8d\",\"cu\",\"a\\u0000b\"]");
}

#define BAD "\xef\xbf\xbd"
static void bad_utf8(void) {
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"\x80", BAD}, /* a continuation alone */
        {"a\xff"
         "b",
         "a" BAD "b"},                         /* never valid */
        {"\xc0\xaf", BAD BAD},                 /* a longer form of '/' */
        {"\xe0\x80\xaf", BAD BAD BAD},         /* the same */
        {"\xed\xa0\x80", BAD BAD BAD},         /* a surrogate */
        {"\xf4\x90\x80\x80", BAD BAD BAD BAD}, /* beyond U+10FFFF */
        {"\xe2\x82", BAD BAD},                 /* cut off */
        {"\xe2\x82x", BAD BAD "x"},
        {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"}, /* the last character there is */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[64];
        begin();
        taut_json_out_text(&w, cases[i].in);
        snprintf(expected, sizeof expected, "\"%s\"", cases[i].out);
        is(expected);
    }
}

static void seconds(void) {
    begin();
    taut_json_out_open(&w, '[');
    taut_json_out_seconds(&w, 0);
    taut_json_out_seconds(&w, 1);
    taut_json_out_seconds(&w, UINT64_C(1500000000));
    taut_json_out_seconds(&w, UINT64_MAX);
    taut_json_out_close(&w, ']');
    is("[0.0,0.000000001,1.5,18446744073.709551615]");
}

static void out_of_memory(void) {
    begin();
    write_all();
    size_t whole = taut_buf_size(&buf);
    for (uint64_t nth = 1;; nth++) {
        taut_buf_free(&buf);
        begin();
        taut_mem_fail_set(nth, 1);
        write_all();
        uint64_t hits = taut_mem_fail_hits();
        taut_mem_fail_set(0, 0);
        CHECK_EQ(taut_json_out_end(&w), hits > 0 ? -12 : 0);
        if (hits == 0)
            break;
    }
    CHECK_EQ(taut_buf_size(&buf), whole);
    taut_buf_free(&buf);
}

static const check_test tests[] = {CHECK_TEST(structure), CHECK_TEST(strings), CHECK_TEST(bad_utf8),
                                   CHECK_TEST(seconds), CHECK_TEST(out_of_memory)};
CHECK_MAIN(tests)
