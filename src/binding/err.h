/* Core errors as Python exceptions. */
#ifndef TAUT_BINDING_ERR_H
#define TAUT_BINDING_ERR_H

#include "binding/state.h"
#include "base/err.h"

/* Sets the exception for a negative core error: OSError's subclass for -errno, MemoryError for
 * -ENOMEM, RuntimeError (with the core's message) for the rest. Returns NULL for `return`. */
PyObject *taut_err_raise(int err);
/* The same as a new exception object; NULL with an exception set when even that fails. */
PyObject *taut_err_exception(int err);

#endif
