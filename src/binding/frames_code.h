/* What the walk of frames.c and the decoding of frames_code.c share: code objects, read as memory.
 */
#ifndef TAUT_BINDING_FRAMES_CODE_H
#define TAUT_BINDING_FRAMES_CODE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "binding/frames.h"

#define TAUT_CODE_HEAD offsetof(PyCodeObject, co_code_adaptive)
typedef union {
    PyCodeObject code; /* its public head; the instructions that follow are not read */
    char bytes[TAUT_CODE_HEAD];
} taut_code_head;

/* 0, or -1 when this is no code object. */
int taut_code_read(taut_peek *p, const void *code, taut_code_head *out);
/* File, name and line of an instruction of a code object that was read (its index; below 0: the
 * first), as text in s->text. 0, or -1. */
int taut_code_place(taut_peek *p, const PyCodeObject *code, Py_ssize_t unit, taut_stack *s,
                    taut_frame *out);

#endif
