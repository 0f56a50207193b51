#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

_Noreturn void taut_assert_fail(const char *expr, const char *file, int line, const char *func) {
    fprintf(stderr, "taut: %s:%d: %s: assertion %s failed\n", file, line, func, expr);
    abort();
}

const char *taut_err_name(taut_err err) {
    switch (err) {
    case 0:
        return "0";
#define ERR_NAME(name, value, message)                                                             \
    case value:                                                                                    \
        return "TAUT_E_" #name;
        TAUT_ERR_LIST(ERR_NAME)
#undef ERR_NAME
    default:
        break;
    }
    const char *name = err < 0 && err > TAUT_ERR_BASE ? strerrorname_np(-err) : NULL;
    return name ? name : "unknown error";
}

const char *taut_err_message(taut_err err) {
    switch (err) {
    case 0:
        return "success";
#define ERR_MESSAGE(name, value, message)                                                          \
    case value:                                                                                    \
        return message;
        TAUT_ERR_LIST(ERR_MESSAGE)
#undef ERR_MESSAGE
    default:
        return err < 0 && err > TAUT_ERR_BASE ? strerror(-err) : "unknown error";
    }
}
