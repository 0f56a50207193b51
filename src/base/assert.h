/* Assertions. taut_assert is on in every build: Python's own CFLAGS define NDEBUG, and a broken
 * invariant in a server must stop the process rather than corrupt a reply.
 * taut_debug_assert is for hot paths and costs nothing unless TAUT_DEBUG is defined. */
#ifndef TAUT_BASE_ASSERT_H
#define TAUT_BASE_ASSERT_H

/* Prints "taut: FILE:LINE: FUNC: assertion EXPR failed" to stderr and aborts. */
_Noreturn void taut_assert_fail(const char *expr, const char *file, int line, const char *func);

#define taut_assert(e)                                                                             \
    (__builtin_expect(!(e), 0) ? taut_assert_fail(#e, __FILE__, __LINE__, __func__) : (void)0)

#ifdef TAUT_DEBUG
#define taut_debug_assert(e) taut_assert(e)
#else
#define taut_debug_assert(e) ((void)0)
#endif

#define TAUT_LIKELY(e) __builtin_expect(!!(e), 1)
#define TAUT_UNLIKELY(e) __builtin_expect(!!(e), 0)
#define TAUT_MUST_USE __attribute__((warn_unused_result))

#endif
