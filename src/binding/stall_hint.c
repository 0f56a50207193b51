#include "binding/stall_hint.h"

#include <string.h>

#define SSL_CONTEXT                                                                                \
    "an SSLContext reads certificates from disk: make it once, with await taut.ssl_context(), "    \
    "which does that off the loop"

/* The end of a file's path, and the qualified name of a function in it. */
static const struct {
    const char *file, *name, *text;
} hints[] = {
    {"/ssl.py", "create_default_context", SSL_CONTEXT},
    {"/ssl.py", "SSLContext.load_default_certs", SSL_CONTEXT},
};

static int ends_with(const char *text, const char *end) {
    size_t size = strlen(text), end_size = strlen(end);
    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

const char *taut_stall_hint(const taut_stack *stack, uint32_t count) {
    for (uint32_t i = 0; i < count && i < stack->count; i++)
        for (size_t h = 0; h < sizeof hints / sizeof *hints; h++)
            if (strcmp(stack->text + stack->frames[i].name, hints[h].name) == 0 &&
                ends_with(stack->text + stack->frames[i].file, hints[h].file))
                return hints[h].text;
    return NULL;
}
