/* What is known of the process's loops, in the text format of Prometheus (version 0.0.4).
 * docs/METRICS.md has every name. Any thread, without the GIL, also while a loop hangs. */
#ifndef TAUT_IO_METRICS_H
#define TAUT_IO_METRICS_H

#include "base/buf.h"

/* Appends all of it. 0, or -ENOMEM: what is in the buffer is not whole. */
int taut_metrics_write(taut_buf *to) TAUT_MUST_USE;

#endif
