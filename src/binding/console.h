/* The console's answers (io/console.h). A live loop gives them itself, in slices of at most a
 * millisecond; where none has begun after 30 ms the console's thread reads the interpreter's
 * memory. */
#ifndef TAUT_BINDING_CONSOLE_H
#define TAUT_BINDING_CONSOLE_H

#include <stdatomic.h>
#include "binding/pyloop.h"

/* At the beginning and the end of a run, on the loop's thread with the GIL. The first run of a
 * process starts the console. */
void taut_console_loop_begin(taut_pyloop *lp);
void taut_console_loop_end(taut_pyloop *lp);

/* Whether somebody waits for a loop. */
extern _Atomic int taut_console_wanted;
/* A slice of what is wanted, when the loop was woken. With the GIL; may run Python code. */
void taut_console_serve_slice(taut_pyloop *lp);
static inline void taut_console_serve(taut_pyloop *lp) {
    if (TAUT_UNLIKELY(atomic_load_explicit(&taut_console_wanted, memory_order_relaxed)))
        taut_console_serve_slice(lp);
}

#endif
