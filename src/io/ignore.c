#include "io/ignore.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char code[40], file[256];
    int line; /* 0: any */
} ignore_rule;

static ignore_rule rules[TAUT_IGNORE_MAX];
static _Atomic int rules_count; /* those below it are there to stay */

static int is_code(const char *code) {
    if (strcmp(code, "*") == 0)
        return 1;
    for (const char *s = code; *s != '\0'; s++)
        if ((*s < 'a' || *s > 'z') && (*s != '-' || s == code))
            return 0;
    return code[0] != '\0';
}

/* Takes ":LINE" off the end of the file, where there is one. */
static void split_line(ignore_rule *r) {
    char *colon = strrchr(r->file, ':');
    if (colon == NULL || colon[1] < '1' || colon[1] > '9')
        return;
    char *end;
    long line = strtol(colon + 1, &end, 10);
    if (*end == '\0' && line <= 100 * 1000 * 1000) {
        r->line = (int)line;
        *colon = '\0';
    }
}

static int parse(ignore_rule *r, const char *text, size_t size) {
    const char *at = memchr(text, '@', size);
    size_t code_size = at == NULL ? size : (size_t)(at - text);
    size_t file_size = at == NULL ? 0 : size - code_size - 1;
    if (code_size >= sizeof r->code || file_size >= sizeof r->file)
        return -EINVAL;
    *r = (ignore_rule){.line = 0};
    memcpy(r->code, text, code_size);
    if (file_size > 0)
        memcpy(r->file, at + 1, file_size);
    split_line(r);
    return is_code(r->code) && (at == NULL || r->file[0] != '\0') ? 0 : -EINVAL;
}

int taut_ignore_add(const char *text, size_t size) {
    ignore_rule r;
    int rc = parse(&r, text, size);
    if (rc < 0)
        return rc;
    int count = atomic_load_explicit(&rules_count, memory_order_relaxed);
    for (int i = 0; i < count; i++)
        if (memcmp(&rules[i], &r, sizeof r) == 0)
            return 0;
    if (count == TAUT_IGNORE_MAX)
        return -ENOSPC;
    rules[count] = r;
    atomic_store_explicit(&rules_count, count + 1, memory_order_release);
    return 0;
}

int taut_ignore_add_all(const char *list, const char **bad, size_t *bad_size) {
    int first = 0;
    for (const char *s = list; *s != '\0';) {
        size_t size = strcspn(s, ", ");
        int rc = size == 0 ? 0 : taut_ignore_add(s, size);
        if (rc < 0 && first == 0) {
            first = rc;
            *bad = s;
            *bad_size = size;
        }
        s += size;
        s += *s != '\0';
    }
    return first;
}

static int ends_with(const char *path, const char *end) {
    size_t size = strlen(path), end_size = strlen(end);
    if (end_size > size || strcmp(path + size - end_size, end) != 0)
        return 0;
    return end_size == size || end[0] == '/' || path[size - end_size - 1] == '/';
}

int taut_ignores(const char *code, const char *file, int line) {
    int count = atomic_load_explicit(&rules_count, memory_order_acquire);
    for (int i = 0; i < count; i++) {
        const ignore_rule *r = &rules[i];
        if ((r->code[0] == '*' || strcmp(r->code, code) == 0) &&
            (r->file[0] == '\0' || ends_with(file, r->file)) && (r->line == 0 || r->line == line))
            return 1;
    }
    return 0;
}
