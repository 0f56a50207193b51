#include "io/routes.h"

#include <string.h>

#define SLOTS (4 * TAUT_ROUTES_MAX) /* a power of two */

static taut_route routes[TAUT_ROUTES_MAX] = {{.method = "other", .path = "other"}};
static _Atomic unsigned used = 1;
static uint8_t slots[SLOTS]; /* an index, 0: free */

_Static_assert(TAUT_ROUTES_MAX <= UINT8_MAX + 1, "an index fits");

static uint64_t hash_bytes(uint64_t h, const char *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        h = (h ^ (unsigned char)bytes[i]) * UINT64_C(1099511628211);
    return h;
}

/* How much of a text there is room for: no character is cut in two. */
static size_t fit(const char *text, size_t size, size_t room) {
    if (size < room)
        return size;
    size = room - 1;
    while (size > 0 && ((unsigned char)text[size] & 0xC0) == 0x80)
        size--;
    return size;
}

static int is_text(const char *have, const char *text, size_t size) {
    return memcmp(have, text, size) == 0 && have[size] == '\0';
}

unsigned taut_routes_find(const char *method, size_t method_size, const char *path,
                          size_t path_size) {
    method_size = fit(method, method_size, TAUT_ROUTE_METHOD_MAX);
    path_size = fit(path, path_size, TAUT_ROUTE_PATH_MAX);
    uint64_t h = hash_bytes(UINT64_C(14695981039346656037), method, method_size);
    h = hash_bytes(h * 31, path, path_size);
    size_t i = (size_t)(h ^ h >> 32) % SLOTS;
    for (; slots[i] != 0; i = (i + 1) % SLOTS) {
        const taut_route *r = &routes[slots[i]];
        if (is_text(r->method, method, method_size) && is_text(r->path, path, path_size))
            return slots[i];
    }
    unsigned count = taut_routes_count();
    if (count == TAUT_ROUTES_MAX)
        return TAUT_ROUTE_OTHER;
    memcpy(routes[count].method, method, method_size);
    memcpy(routes[count].path, path, path_size);
    slots[i] = (uint8_t)count;
    atomic_store_explicit(&used, count + 1, memory_order_release);
    return count;
}

unsigned taut_routes_count(void) {
    return atomic_load_explicit(&used, memory_order_acquire);
}

taut_route *taut_routes_at(unsigned index) {
    return &routes[index];
}
