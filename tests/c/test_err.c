/* base/err: every error has a name and a message. */
#include <errno.h>
#include "base/err.h"
#include "check.h"

static void own_errors(void) {
    CHECK(strcmp(taut_err_name(TAUT_E_CLOSED), "TAUT_E_CLOSED") == 0);
    CHECK(strcmp(taut_err_message(TAUT_E_CLOSED), "the object is closed") == 0);
    CHECK(strcmp(taut_err_name(TAUT_E_UNSUPPORTED), "TAUT_E_UNSUPPORTED") == 0);
#define OWN(name, value, message)                                                                  \
    CHECK(value < TAUT_ERR_BASE);                                                                  \
    CHECK(strcmp(taut_err_name(value), "TAUT_E_" #name) == 0);                                     \
    CHECK(strcmp(taut_err_message(value), message) == 0);
    TAUT_ERR_LIST(OWN)
#undef OWN
}

static void system_errors(void) {
    CHECK(strcmp(taut_err_name(-ENOENT), "ENOENT") == 0);
    CHECK(strcmp(taut_err_name(-ECONNRESET), "ECONNRESET") == 0);
    CHECK(strcmp(taut_err_message(-ENOENT), strerror(ENOENT)) == 0);
}

static void strange_numbers(void) {
    static const int strange[] = {0, 1, -4000, TAUT_ERR_BASE, -5000, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        CHECK(taut_err_name(strange[i]) != NULL);
        CHECK(taut_err_message(strange[i])[0] != '\0');
    }
    CHECK(strcmp(taut_err_message(0), taut_err_message(-EIO)) != 0);
}

static const check_test tests[] = {CHECK_TEST(own_errors), CHECK_TEST(system_errors),
                                   CHECK_TEST(strange_numbers)};
CHECK_MAIN(tests)
