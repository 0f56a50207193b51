/* The doctor's C face: what the loop's binding calls so that a stall of its thread is reported
 * while it lasts. One plain C thread per process watches every running loop; it is started by the
 * first watched run and kept. Everything here: with the GIL held. */
#ifndef TAUT_BINDING_DOCTOR_H
#define TAUT_BINDING_DOCTOR_H

#include "binding/state.h"
#include "io/pulse.h"

typedef struct taut_doctor_watch taut_doctor_watch;
struct taut_exam;

/* The threshold that a new loop starts with, in nanoseconds, 0 when off: TAUT_STALL of the
 * environment as it is now ("50ms", "0.05", "20us", "1s", "off"), else 50 ms. A value that cannot
 * be understood is complained about once on stderr and counts as the default. */
uint64_t taut_doctor_threshold_default_ns(void);
/* loop.stall_threshold: a float in seconds, or None for 0 (off). */
PyObject *taut_doctor_threshold_get(uint64_t threshold_ns);
/* Assigning loop.stall_threshold: None (off), a number of seconds, or a str as in TAUT_STALL.
 * `watch`: of the run under way, or NULL. 0, or -1 with TypeError or ValueError set and nothing
 * changed; value NULL (deletion) is a TypeError. A run that was started
 * with the threshold off is watched from here on. */
int taut_doctor_threshold_set(PyObject *value, uint64_t *threshold_ns, taut_doctor_watch *watch);

/* At the start of run_forever, on the loop's own thread, before the pulse leaves
 * TAUT_PHASE_STOPPED. Costs a lock and, at most once per second, one system call. `pulse` must stay
 * valid until the stop. `loop` is borrowed and only used to name the loop in reports.
 * The watchdog says when it is time for the loop to examine itself (exam.h), whatever the threshold
 * is; exam NULL: it does not. No thread is started where there is neither.
 * NULL: not watched, for want of memory; not an error. */
taut_doctor_watch *taut_doctor_loop_start(taut_pulse *pulse, uint64_t threshold_ns, PyObject *loop,
                                          struct taut_exam *exam);
/* At the end of run_forever, on the same thread, after the pulse went to TAUT_PHASE_STOPPED.
 * NULL is allowed. May give up the GIL for the moment a report is being written. */
void taut_doctor_loop_stop(taut_doctor_watch *watch);

#endif
