/* taut._core.spawn(): subprocess.Popen's options, as its constructor has checked and resolved them,
 * become what io/process starts. Errors are raised as CPython's own Popen raises them. */
#include "binding/process.h"
#include "binding/compat.h"
#include "binding/err.h"
#include "base/mem.h"
#include "io/process.h"
#include "io/sock.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define SPAWN_ARGS(X)                                                                              \
    X(args)                                                                                        \
    X(executable)                                                                                  \
    X(preexec_fn)                                                                                  \
    X(close_fds)                                                                                   \
    X(pass_fds)                                                                                    \
    X(cwd)                                                                                         \
    X(env)                                                                                         \
    X(startupinfo)                                                                                 \
    X(creationflags)                                                                               \
    X(shell)                                                                                       \
    X(p2cread)                                                                                     \
    X(p2cwrite)                                                                                    \
    X(c2pread)                                                                                     \
    X(c2pwrite)                                                                                    \
    X(errread)                                                                                     \
    X(errwrite)                                                                                    \
    X(restore_signals)                                                                             \
    X(gid)                                                                                         \
    X(gids)                                                                                        \
    X(uid)                                                                                         \
    X(umask)                                                                                       \
    X(start_new_session)                                                                           \
    X(process_group)

#define SPAWN_ARG_NUMBER(n) ARG_##n,
enum { SPAWN_ARGS(SPAWN_ARG_NUMBER) ARG_COUNT };
#undef SPAWN_ARG_NUMBER

/* What the spec points to. */
typedef struct {
    taut_state *st;
    PyObject *args;                     /* list: the program's arguments, before they are encoded */
    PyObject *executable;               /* as given, for the audit hook and for errors */
    PyObject *argv, *env, *paths, *cwd; /* bytes objects, or lists of them */
    char **argv_strings, **env_strings, **path_strings;
    int *keep_fds;
    gid_t *groups;
    int parent_ends[3]; /* of the pipes; -1: none */
    taut_process_spec spec;
} request;

static void request_clear(request *r) {
    Py_CLEAR(r->args);
    Py_CLEAR(r->executable);
    Py_CLEAR(r->argv);
    Py_CLEAR(r->env);
    Py_CLEAR(r->paths);
    Py_CLEAR(r->cwd);
    taut_free(r->argv_strings);
    taut_free(r->env_strings);
    taut_free(r->path_strings);
    taut_free(r->keep_fds);
    taut_free(r->groups);
}

static PyObject *encode(PyObject *obj) {
    PyObject *bytes;
    return PyUnicode_FSConverter(obj, &bytes) ? bytes : NULL;
}

/* Steals `item`. */
static int append(PyObject *list, PyObject *item) {
    int rc = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return rc;
}

/* An array of the list's bytes objects, which must outlive it, ended by NULL. */
static char **strings_of(PyObject *list) {
    Py_ssize_t count = PyList_GET_SIZE(list);
    char **strings = taut_calloc((size_t)count + 1, sizeof *strings);
    if (strings == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyBytes_AsStringAndSize(PyList_GET_ITEM(list, i), &strings[i], NULL) < 0) {
            taut_free(strings);
            return NULL;
        }
    }
    return strings;
}

/* ---- program, arguments, environment --------------------------------------------------------- */

static int is_path_like(PyObject *obj) {
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(obj), "__fspath__");
    if (method == NULL)
        PyErr_Clear();
    Py_XDECREF(method);
    return method != NULL;
}

static PyObject *list_of_args(PyObject *args, int shell) {
    if (PyTuple_CheckExact(args) || PyList_CheckExact(args))
        return PySequence_List(args);
    int text = PyUnicode_Check(args) || PyBytes_Check(args);
    int path_like = !text && is_path_like(args);
    if (path_like && shell) {
        PyErr_SetString(PyExc_TypeError, "path-like args is not allowed when shell is true");
        return NULL;
    }
    if (!path_like && !text)
        return PySequence_List(args);
    PyObject *list = PyList_New(0);
    if (list != NULL && PyList_Append(list, args) < 0)
        Py_CLEAR(list);
    return list;
}

static int read_args(request *r, PyObject *const *given) {
    int shell = PyObject_IsTrue(given[ARG_shell]);
    PyObject *executable = given[ARG_executable];
    if (shell < 0 || (r->args = list_of_args(given[ARG_args], shell)) == NULL)
        return -1;
    if (shell) {
        int replaced = PyObject_IsTrue(executable);
        PyObject *prefix =
            replaced < 0 ? NULL : Py_BuildValue("[Os]", replaced ? executable : Py_None, "-c");
        if (prefix == NULL)
            return -1;
        if (!replaced && PyList_SetItem(prefix, 0, PyUnicode_FromString("/bin/sh")) < 0) {
            Py_DECREF(prefix);
            return -1;
        }
        PyObject *all = PySequence_Concat(prefix, r->args);
        Py_DECREF(prefix);
        if (all == NULL)
            return -1;
        Py_SETREF(r->args, all);
    }
    if (executable == Py_None) {
        executable = PySequence_GetItem(r->args, 0);
        if (executable == NULL)
            return -1;
        r->executable = executable;
    } else {
        r->executable = Py_NewRef(executable);
    }
    return PySys_Audit("subprocess.Popen", "OOOO", r->executable, r->args, given[ARG_cwd],
                       given[ARG_env]);
}

static int encode_args(request *r) {
    r->argv = PyList_New(0);
    for (Py_ssize_t i = 0; r->argv != NULL && i < PyList_GET_SIZE(r->args); i++) {
        PyObject *arg = Py_NewRef(PyList_GET_ITEM(r->args, i));
        int rc = append(r->argv, encode(arg));
        Py_DECREF(arg);
        if (rc < 0)
            return -1;
    }
    return r->argv == NULL || (r->argv_strings = strings_of(r->argv)) == NULL ? -1 : 0;
}

/* The process's own, in one block, behind its pointers. Copied, since another thread may change it
 * while the child is on its way. */
static int copy_environ(request *r) {
    size_t count = 0, size = 0;
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++, count++)
        size += strlen(*entry) + 1;
    r->env_strings = taut_malloc((count + 1) * sizeof *r->env_strings + size);
    if (r->env_strings == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    char *text = (char *)(r->env_strings + count + 1);
    for (size_t i = 0; i < count; i++) {
        size_t entry_size = strlen(environ[i]) + 1;
        r->env_strings[i] = memcpy(text, environ[i], entry_size);
        text += entry_size;
    }
    r->env_strings[count] = NULL;
    return 0;
}

/* KEY=VALUE; steals nothing. */
static PyObject *env_entry(PyObject *key, PyObject *value) {
    PyObject *name = encode(key), *joined = NULL;
    if (name == NULL)
        return NULL;
    if (strchr(PyBytes_AS_STRING(name), '=') != NULL) {
        PyErr_SetString(PyExc_ValueError, "illegal environment variable name");
    } else {
        PyObject *text = encode(value);
        if (text != NULL)
            joined = PyBytes_FromFormat("%s=%s", PyBytes_AS_STRING(name), PyBytes_AS_STRING(text));
        Py_XDECREF(text);
    }
    Py_DECREF(name);
    return joined;
}

static int encode_items(request *r, PyObject *env) {
    PyObject *view = PyObject_CallMethod(env, "items", NULL);
    PyObject *iterator = view == NULL ? NULL : PyObject_GetIter(view), *item;
    Py_XDECREF(view);
    while (iterator != NULL && (item = PyIter_Next(iterator)) != NULL) {
        PyObject *pair = PySequence_Tuple(item), *key, *value;
        int rc = -1;
        Py_DECREF(item);
        if (pair != NULL && PyArg_ParseTuple(pair, "OO", &key, &value))
            rc = append(r->env, env_entry(key, value));
        Py_XDECREF(pair);
        if (rc < 0)
            break;
    }
    Py_XDECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

static int encode_env(request *r, PyObject *env) {
    if (env == Py_None)
        return copy_environ(r);
    r->env = PyList_New(0);
    if (r->env == NULL || encode_items(r, env) < 0)
        return -1;
    r->env_strings = strings_of(r->env);
    return r->env_strings == NULL ? -1 : 0;
}

/* dir/program, as os.path.join() does it. */
static PyObject *path_in(PyObject *dir, const char *program) {
    PyObject *prefix = encode(dir);
    if (prefix == NULL)
        return NULL;
    const char *text = PyBytes_AS_STRING(prefix);
    Py_ssize_t size = PyBytes_GET_SIZE(prefix);
    const char *between = size == 0 || text[size - 1] == '/' ? "" : "/";
    PyObject *path = PyBytes_FromFormat("%s%s%s", text, between, program);
    Py_DECREF(prefix);
    return path;
}

static int find_paths(request *r, PyObject *env) {
    PyObject *program = encode(r->executable);
    if (program == NULL || (r->paths = PyList_New(0)) == NULL) {
        Py_XDECREF(program);
        return -1;
    }
    int rc = 0;
    if (strchr(PyBytes_AS_STRING(program), '/') != NULL) {
        rc = PyList_Append(r->paths, program);
    } else {
        PyObject *found = PyObject_CallOneArg(r->st->get_exec_path, env);
        PyObject *dirs = found == NULL ? NULL : PySequence_List(found);
        Py_XDECREF(found);
        rc = dirs == NULL ? -1 : 0;
        for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(dirs); i++)
            rc = append(r->paths, path_in(PyList_GET_ITEM(dirs, i), PyBytes_AS_STRING(program)));
        Py_XDECREF(dirs);
    }
    Py_DECREF(program);
    if (rc == 0 && (r->path_strings = strings_of(r->paths)) == NULL)
        rc = -1;
    return rc;
}

/* ---- numbers --------------------------------------------------------------------------------- */

static int read_int(PyObject *obj, int *out) {
    int overflow;
    long value = PyLong_AsLongAndOverflow(obj, &overflow);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (overflow == 0 && value <= INT_MAX && value >= INT_MIN) {
        *out = (int)value;
        return 0;
    }
    const char *what = "Python int too large to convert to C int";
    if (PY_VERSION_HEX < 0x030C0000 && overflow != 0)
        what = "Python int too large to convert to C long";
    else if (PY_VERSION_HEX < 0x030C0000)
        what = value < 0 ? "signed integer is less than minimum"
                         : "signed integer is greater than maximum";
    PyErr_SetString(PyExc_OverflowError, what);
    return -1;
}

static int read_flag(PyObject *obj, int *out) {
#if PY_VERSION_HEX < 0x030C0000
    return read_int(obj, out);
#else
    *out = PyObject_IsTrue(obj);
    return *out < 0 ? -1 : 0;
#endif
}

/* What is out of range is called so in CPython's way: "less" is what fits a long, but no id. */
static int read_id(PyObject *obj, const char *kind, uint32_t *out) {
    int overflow;
    long value = PyLong_AsLongAndOverflow(obj, &overflow);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (overflow != 0 || value != (long)(uint32_t)value) {
        PyErr_Format(PyExc_OverflowError, "%s is %s", kind,
                     overflow > 0 ? "greater than maximum" : "less than minimum");
        return -1;
    }
    *out = (uint32_t)value;
    return 0;
}

static int read_groups(request *r, PyObject *gids) {
    Py_ssize_t count = PyList_Check(gids) ? PyList_GET_SIZE(gids) : -1;
    if (count < 0 || count > sysconf(_SC_NGROUPS_MAX)) {
        PyErr_SetString(PyExc_ValueError,
                        PY_VERSION_HEX < 0x030C0000 ? "too many groups" : "too many extra_groups");
        return -1;
    }
    r->groups = taut_calloc((size_t)count + 1, sizeof *r->groups);
    if (r->groups == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (read_id(PyList_GET_ITEM(gids, i), "gid", &r->groups[i]) < 0) {
            PyErr_SetString(PyExc_ValueError, "invalid group id");
            return -1;
        }
    }
    r->spec.groups = r->groups;
    r->spec.group_count = (size_t)count;
    r->spec.set_groups = 1;
    return 0;
}

static int read_ids(request *r, PyObject *const *given) {
    taut_process_spec *spec = &r->spec;
    if (given[ARG_gids] != Py_None && read_groups(r, given[ARG_gids]) < 0)
        return -1;
    if (given[ARG_gid] != Py_None && read_id(given[ARG_gid], "gid", &spec->gid) < 0)
        return -1;
    if (given[ARG_uid] != Py_None && read_id(given[ARG_uid], "uid", &spec->uid) < 0)
        return -1;
    spec->set_gid = given[ARG_gid] != Py_None;
    spec->set_uid = given[ARG_uid] != Py_None;
    return 0;
}

/* The distinct fds as a sorted list of ints. */
static PyObject *sorted_fds(PyObject *pass_fds) {
    PyObject *set = PySet_New(pass_fds), *list = PyList_New(0);
    PyObject *iterator = set == NULL ? NULL : PyObject_GetIter(set), *item;
    while (list != NULL && iterator != NULL && (item = PyIter_Next(iterator)) != NULL) {
        int rc = append(list, PyNumber_Long(item));
        Py_DECREF(item);
        if (rc < 0)
            break;
    }
    Py_XDECREF(set);
    Py_XDECREF(iterator);
    if (list != NULL && (PyErr_Occurred() || PyList_Sort(list) < 0))
        Py_CLEAR(list);
    return list;
}

static int read_pass_fds(request *r, PyObject *pass_fds) {
    PyObject *list = sorted_fds(pass_fds);
    if (list == NULL)
        return -1;
    Py_ssize_t count = PyList_GET_SIZE(list);
    r->keep_fds = taut_calloc((size_t)count + 1, sizeof *r->keep_fds);
    if (r->keep_fds == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; r->keep_fds != NULL && i < count; i++) {
        int overflow;
        long fd = PyLong_AsLongAndOverflow(PyList_GET_ITEM(list, i), &overflow);
        if (overflow != 0 || fd < 0 || fd > INT_MAX || (i > 0 && fd <= r->keep_fds[i - 1])) {
            PyErr_SetString(PyExc_ValueError, "bad value(s) in fds_to_keep");
            break;
        }
        r->keep_fds[i] = (int)fd;
    }
    Py_DECREF(list);
    r->spec.keep_fds = r->keep_fds;
    r->spec.keep_count = (size_t)count;
    return PyErr_Occurred() ? -1 : 0;
}

static int read_flags(request *r, PyObject *const *given) {
    taut_process_spec *spec = &r->spec;
    spec->close_fds = PyObject_IsTrue(given[ARG_close_fds]);
    if (spec->close_fds < 0 || read_flag(given[ARG_restore_signals], &spec->restore_signals) < 0 ||
        read_flag(given[ARG_start_new_session], &spec->new_session) < 0)
        return -1;
    return read_int(given[ARG_process_group], &spec->process_group) < 0 ||
                   read_int(given[ARG_umask], &spec->umask) < 0 ||
                   read_int(given[ARG_p2cwrite], &r->parent_ends[0]) < 0 ||
                   read_int(given[ARG_c2pread], &r->parent_ends[1]) < 0 ||
                   read_int(given[ARG_errread], &r->parent_ends[2]) < 0 ||
                   read_int(given[ARG_p2cread], &spec->stdio[0]) < 0 ||
                   read_int(given[ARG_c2pwrite], &spec->stdio[1]) < 0 ||
                   read_int(given[ARG_errwrite], &spec->stdio[2]) < 0
               ? -1
               : 0;
}

static int read_request(request *r, PyObject *const *given) {
    if (read_args(r, given) < 0 || encode_env(r, given[ARG_env]) < 0 ||
        find_paths(r, given[ARG_env]) < 0 || read_pass_fds(r, given[ARG_pass_fds]) < 0 ||
        encode_args(r) < 0 || read_flags(r, given) < 0 || read_ids(r, given) < 0)
        return -1;
    if (given[ARG_cwd] != Py_None && (r->cwd = encode(given[ARG_cwd])) == NULL)
        return -1;
    r->spec.cwd = r->cwd != NULL ? PyBytes_AS_STRING(r->cwd) : NULL;
    r->spec.argv = r->argv_strings;
    r->spec.envp = r->env_strings;
    r->spec.paths = (const char *const *)r->path_strings;
    return 0;
}

/* ---- the call -------------------------------------------------------------------------------- */

/* Up to 3.12 whatever fails before the program is put down to the directory; since then only what
 * is its fault. */
static void raise_failure(const request *r, int err, taut_process_step failed, PyObject *cwd) {
    PyObject *file = NULL;
    if (failed == TAUT_PROCESS_EXEC)
        file = r->executable;
    else if (failed == TAUT_PROCESS_CWD ||
             (failed == TAUT_PROCESS_SETUP && PY_VERSION_HEX < 0x030D0000))
        file = cwd;
    errno = -err;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, file);
}

/* The child has its own. */
static void close_child_ends(const request *r) {
    for (int i = 0; i < 3; i++) {
        if (r->parent_ends[i] != -1)
            taut_sock_close(r->spec.stdio[i]);
    }
}

PyObject *taut_process_m_spawn(PyObject *module, PyObject *options) {
    if (!PyTuple_Check(options) || PyTuple_GET_SIZE(options) != ARG_COUNT) {
        PyErr_Format(PyExc_TypeError, "spawn() takes a tuple of %d options, not %R", ARG_COUNT,
                     options);
        return NULL;
    }
    PyObject *const *given = ((PyTupleObject *)options)->ob_item;
    request r = {.st = taut_state_of(module)};
    /* First: once the child runs nothing may fail. */
    PyObject *child = taut_child_object_new(r.st);
    pid_t pid;
    int pidfd;
    if (child == NULL || read_request(&r, given) < 0) {
        Py_CLEAR(child);
    } else {
        taut_process_step failed;
        int rc;
        Py_BEGIN_ALLOW_THREADS;
        rc = taut_process_spawn(&r.spec, &pid, &pidfd, &failed);
        Py_END_ALLOW_THREADS;
        if (rc < 0) {
            raise_failure(&r, rc, failed, given[ARG_cwd]);
            Py_CLEAR(child);
        } else {
            close_child_ends(&r);
            taut_child_init(&((taut_child_object *)child)->core, pid, pidfd);
        }
    }
    request_clear(&r);
    return child;
}
