/* Instance attributes, looked at where the interpreter keeps them: in an array beside the object,
 * each at the place that its name has in the class. That is what bytecode does, too; a lookup by
 * name costs more than most of what is to be done here with the value. GIL held. */
#ifndef TAUT_BINDING_ATTRS_H
#define TAUT_BINDING_ATTRS_H

#include "binding/compat.h"

#define TAUT_ATTRS_MAX 8

typedef struct {
    PyTypeObject *type;        /* borrowed; NULL: nothing was learnt */
    Py_ssize_t names_count;    /* that the class knew when `at` was filled */
    int8_t at[TAUT_ATTRS_MAX]; /* place of each name; -1: no instance has had it yet */
} taut_attrs;

/* Learns where instances of `type` (an ordinary class) have the attributes `names`, at most
 * TAUT_ATTRS_MAX interned strings. 0, or -1 without an exception: not in a way that is known. */
int taut_attrs_learn(taut_attrs *a, PyTypeObject *type, PyObject *const *names, size_t count);
/* Whether instances have got attributes since then whose names were new; or nothing was learnt. */
int taut_attrs_outdated(const taut_attrs *a);
/* The attributes of an object whose type is a->type: values[a->at[i]], NULL where it has none. NULL
 * when they are not kept so. Valid until any Python code runs; what is not NULL may be replaced. */
PyObject **taut_attrs_values(PyObject *self);

#endif
