/* Argument helpers for METH_FASTCALL | METH_KEYWORDS methods. */
#ifndef TAUT_BINDING_ARGS_H
#define TAUT_BINDING_ARGS_H

#include "binding/state.h"

/* Reads an optional `context=` keyword, the only one allowed: *context borrowed, NULL when absent
 * or None. 0, or -1 with TypeError that names `func` and the keyword. */
int taut_args_context(taut_state *st, const char *func, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames, PyObject **context);
/* Raises TypeError unless nargs >= min; 0 or -1. `first` names the first missing argument. */
int taut_args_at_least(const char *func, Py_ssize_t nargs, Py_ssize_t min, const char *first);
/* args[0..count) as a new tuple. */
PyObject *taut_args_tuple(PyObject *const *args, Py_ssize_t count);
/* The file descriptor of an int or an object with fileno(); -1 with an exception set (ValueError
 * for a negative one, as selectors has it). */
int taut_args_fd(PyObject *obj);
/* Water marks as asyncio computes them from what the user gave (None: absent); `fallback` is the
 * high one when neither is given. 0, or -1 with ValueError, TypeError. */
int taut_args_marks(PyObject *high, PyObject *low, size_t fallback, size_t *high_out,
                    size_t *low_out);

#endif
