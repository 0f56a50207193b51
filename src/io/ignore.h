/* Findings that the user does not want to hear of: rules, from TAUT_IGNORE or by a call. A rule is
 * CODE, CODE@FILE or CODE@FILE:LINE; FILE is the end of a path, from a slash or its beginning on,
 * and "*" is any code.
 *
 * Rules are only added, by one thread at a time; any thread asks. */
#ifndef TAUT_IO_IGNORE_H
#define TAUT_IO_IGNORE_H

#include <stddef.h>
#include "base/assert.h"

#define TAUT_IGNORE_MAX 64

/* 0 (also when there was such a rule), -EINVAL: it is no rule, or too long, -ENOSPC: there are
 * TAUT_IGNORE_MAX already. */
int taut_ignore_add(const char *rule, size_t size) TAUT_MUST_USE;
/* The rules of a list, separated by commas and blanks. 0, or the error of the first that was not
 * taken, with where it is in `*bad` and `*bad_size`; the others are. */
int taut_ignore_add_all(const char *rules, const char **bad, size_t *bad_size) TAUT_MUST_USE;
/* Whether a rule says so. `file` may be "". */
int taut_ignores(const char *code, const char *file, int line);

#endif
