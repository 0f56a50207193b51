/* Names and lines out of code objects and strings that are read as memory. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "binding/frames_code.h"

#define FILE_CHARS_MAX 1023
#define NAME_CHARS_MAX 200
#define LINETABLE_MAX (1 << 20)

/* Code units are two bytes in every version supported here. */
static int line_of(taut_peek *p, const char *table, Py_ssize_t size, int line, Py_ssize_t unit) {
    unsigned char buf[256];
    Py_ssize_t base = 0, have = 0, unit_end = 0;
    int computed = line, found = 0;
    unsigned shift = 0, value = 0;
    enum { ENTRY, VARINT, REST } at = REST;
    for (Py_ssize_t i = 0; i < size; i++) {
        if (i == base + have) {
            base = i;
            have = size - i < (Py_ssize_t)sizeof buf ? size - i : (Py_ssize_t)sizeof buf;
            if (taut_peek_read(p, buf, table + i, (size_t)have) < 0)
                return 0;
        }
        unsigned char b = buf[i - base];
        if (b & 0x80) { /* the first byte of an entry: what came before is complete */
            if (unit_end > unit)
                return found;
            unsigned kind = (b >> 3) & 15;
            unit_end += (b & 7) + 1;
            at = kind == 13 || kind == 14 ? VARINT : REST;
            if (kind >= 10 && kind <= 12)
                computed += (int)kind - 10;
            found = kind == 15 ? 0 : computed;
            shift = value = 0;
        } else if (at == VARINT) {
            value |= (b & 63u) << shift;
            shift += 6;
            if (!(b & 64)) {
                computed += value & 1 ? -(int)(value >> 1) : (int)(value >> 1);
                found = computed;
                at = REST;
            } else if (shift > 24) {
                return 0;
            }
        }
    }
    return unit_end > unit ? found : 0;
}

static void put_utf8(taut_stack *s, uint32_t c) {
    char *t = s->text + s->text_size;
    if (c < 0x80) {
        if (c < 0x20 || c == 0x7f)
            c = '?'; /* no control characters of a file's name in a terminal */
        t[0] = (char)c;
        s->text_size += 1;
    } else if (c < 0x800) {
        t[0] = (char)(0xc0 | c >> 6);
        t[1] = (char)(0x80 | (c & 63));
        s->text_size += 2;
    } else if (c < 0x10000) {
        if (c >= 0xd800 && c < 0xe000)
            c = 0xfffd;
        t[0] = (char)(0xe0 | c >> 12);
        t[1] = (char)(0x80 | (c >> 6 & 63));
        t[2] = (char)(0x80 | (c & 63));
        s->text_size += 3;
    } else {
        t[0] = (char)(0xf0 | (c >> 18 & 7));
        t[1] = (char)(0x80 | (c >> 12 & 63));
        t[2] = (char)(0x80 | (c >> 6 & 63));
        t[3] = (char)(0x80 | (c & 63));
        s->text_size += 4;
    }
}

int taut_frames_copy_str(taut_peek *p, const void *object, size_t chars_max, taut_stack *s,
                         uint32_t *offset) {
    const char *str = object;
    PyASCIIObject head;
    unsigned char chunk[256];
    if (taut_peek_read(p, &head, str, sizeof head) < 0 || head.ob_base.ob_type != &PyUnicode_Type ||
        !head.state.compact || head.length < 0)
        return -1;
    size_t kind = head.state.kind;
    if (kind != 1 && kind != 2 && kind != 4)
        return -1;
    const char *data =
        str + (head.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject));
    Py_ssize_t length = head.length < (Py_ssize_t)chars_max ? head.length : (Py_ssize_t)chars_max;
    if (s->text_size + (size_t)length * 4 + 1 > sizeof s->text)
        return -1;
    *offset = s->text_size;
    Py_ssize_t per_chunk = (Py_ssize_t)(sizeof chunk / kind);
    for (Py_ssize_t done = 0; done < length; done += per_chunk) {
        Py_ssize_t n = length - done < per_chunk ? length - done : per_chunk;
        if (taut_peek_read(p, chunk, data + (size_t)done * kind, (size_t)n * kind) < 0)
            return -1;
        for (Py_ssize_t i = 0; i < n; i++) {
            uint32_t c = 0;
            memcpy(&c, chunk + (size_t)i * kind, kind); /* little-endian, as every Linux here */
            put_utf8(s, c);
        }
    }
    s->text[s->text_size++] = '\0';
    return 0;
}

uint32_t taut_frames_put_text(taut_stack *s, const char *text) {
    size_t size = strlen(text) + 1;
    uint32_t offset = s->text_size;
    if (offset + size > sizeof s->text)
        return offset - 1; /* the NUL that ends the text before */
    memcpy(s->text + offset, text, size);
    s->text_size += (uint32_t)size;
    return offset;
}

int taut_code_read(taut_peek *p, const void *code, taut_code_head *out) {
    return taut_peek_read(p, out->bytes, code, TAUT_CODE_HEAD) == 0 &&
                   Py_TYPE(&out->code) == &PyCode_Type
               ? 0
               : -1;
}

int taut_code_place(taut_peek *p, const PyCodeObject *code, Py_ssize_t unit, taut_stack *s,
                    taut_frame *out) {
    if (taut_frames_copy_str(p, code->co_filename, FILE_CHARS_MAX, s, &out->file) < 0 ||
        taut_frames_copy_str(p, code->co_qualname, NAME_CHARS_MAX, s, &out->name) < 0)
        return -1;
    struct {
        PyVarObject head;
        Py_hash_t hash;
    } table;
    out->line = 0;
    out->flags = code->co_flags;
    const char *bytes = (const char *)code->co_linetable;
    if (taut_peek_read(p, &table, bytes, sizeof table) == 0 &&
        table.head.ob_base.ob_type == &PyBytes_Type && table.head.ob_size <= LINETABLE_MAX)
        out->line = line_of(p, bytes + offsetof(PyBytesObject, ob_sval), table.head.ob_size,
                            code->co_firstlineno, unit < 0 ? 0 : unit);
    if (out->line <= 0) /* an instruction of the interpreter's own, such as at a call's start */
        out->line = code->co_firstlineno;
    return 0;
}

int taut_frames_place(taut_peek *p, const void *code, int unit, taut_stack *out,
                      taut_frame *place) {
    taut_code_head u;
    if (taut_frames_layout() == NULL || code == NULL || taut_code_read(p, code, &u) < 0 ||
        unit < 0 || unit >= Py_SIZE(&u.code))
        return -1;
    return taut_code_place(p, &u.code, unit, out, place);
}

int taut_frames_leaf_mentions(const taut_stack *s, const char *name) {
    enum { NAMES_MAX = 256, SIZE_MAX_ = 64 };
    taut_code_head u;
    PyVarObject names;
    taut_peek p;
    int found = 0;
    if (s->leaf_code == NULL || taut_peek_begin(&p, TAUT_PEEK_VM) < 0)
        return 0;
    if (taut_code_read(&p, s->leaf_code, &u) == 0 &&
        taut_peek_read(&p, &names, u.code.co_names, sizeof names) == 0 &&
        names.ob_base.ob_type == &PyTuple_Type && names.ob_size <= NAMES_MAX) {
        size_t size = strlen(name);
        for (Py_ssize_t i = 0; !found && i < names.ob_size && size < SIZE_MAX_; i++) {
            const char *item = (const char *)u.code.co_names + offsetof(PyTupleObject, ob_item) +
                               (size_t)i * sizeof(PyObject *);
            const char *str;
            PyASCIIObject head;
            char text[SIZE_MAX_];
            found = taut_peek_read(&p, &str, item, sizeof str) == 0 &&
                    taut_peek_read(&p, &head, str, sizeof head) == 0 && head.state.ascii &&
                    (size_t)head.length == size &&
                    taut_peek_read(&p, text, str + sizeof head, size) == 0 &&
                    memcmp(text, name, size) == 0;
        }
    }
    taut_peek_end(&p);
    return found;
}
