/* Where CPython keeps the attributes of instances. */
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>

#if PY_VERSION_HEX < 0x030F0000 && !defined(Py_GIL_DISABLED)
#define TAUT_ATTRS_KNOWN
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wpragmas"
#include "internal/pycore_dict.h"
#include "internal/pycore_object.h"
#pragma GCC diagnostic pop
#endif
#include "binding/attrs.h"

#ifdef TAUT_ATTRS_KNOWN

/* The names that instances share, in the order of their places; grows only. */
static PyDictKeysObject *shared_names(PyTypeObject *type) {
    return ((PyHeapTypeObject *)type)->ht_cached_keys;
}

int taut_attrs_learn(taut_attrs *a, PyTypeObject *type, PyObject *const *names, size_t count) {
    a->type = NULL;
    if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) ||
        !PyType_HasFeature(type, Py_TPFLAGS_MANAGED_DICT) || shared_names(type) == NULL ||
        !DK_IS_UNICODE(shared_names(type)) || count > TAUT_ATTRS_MAX)
        return -1;
#if PY_VERSION_HEX >= 0x030D0000
    if (!PyType_HasFeature(type, Py_TPFLAGS_INLINE_VALUES))
        return -1;
#endif
    PyDictUnicodeEntry *entries = DK_UNICODE_ENTRIES(shared_names(type));
    a->names_count = shared_names(type)->dk_nentries;
    for (size_t i = 0; i < count; i++) {
        a->at[i] = -1;
        for (Py_ssize_t k = 0; k < a->names_count && k <= INT8_MAX; k++)
            if (entries[k].me_key == names[i])
                a->at[i] = (int8_t)k;
    }
    a->type = type;
    return 0;
}

int taut_attrs_outdated(const taut_attrs *a) {
    return a->type == NULL || shared_names(a->type)->dk_nentries != a->names_count;
}

PyObject **taut_attrs_values(PyObject *self) {
#if PY_VERSION_HEX >= 0x030D0000
    PyDictValues *values = _PyObject_InlineValues(self);
    return values->valid && _PyObject_GetManagedDict(self) == NULL ? values->values : NULL;
#elif PY_VERSION_HEX >= 0x030C0000
    PyDictOrValues found = *_PyObject_DictOrValuesPointer(self);
    return _PyDictOrValues_IsValues(found) ? _PyDictOrValues_GetValues(found)->values : NULL;
#else
    PyDictValues *values = *_PyObject_ValuesPointer(self);
    return values == NULL ? NULL : values->values;
#endif
}

#else

int taut_attrs_learn(taut_attrs *a, PyTypeObject *type, PyObject *const *names, size_t count) {
    a->type = NULL;
    return -1;
}

int taut_attrs_outdated(const taut_attrs *a) {
    return 1;
}

PyObject **taut_attrs_values(PyObject *self) {
    return NULL;
}

#endif
