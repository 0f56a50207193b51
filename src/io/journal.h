/* The journal of findings on disk: what a process has found out can be read after it has gone. One
 * JSON object a line, appended by one write(2) each, so that processes of a user may share the
 * file; it is readable for its owner alone. At 4 MiB it becomes NAME.1, whose former content goes.
 *
 * Nothing is kept open between two lines, and whatever fails (no home, a full disk, a directory of
 * somebody else's) costs that line only. One thread. */
#ifndef TAUT_IO_JOURNAL_H
#define TAUT_IO_JOURNAL_H

#include "io/findings.h"

#define TAUT_JOURNAL_PATH_MAX 512
#define TAUT_JOURNAL_SIZE_MAX (4 * 1024 * 1024)

typedef struct {
    char path[TAUT_JOURNAL_PATH_MAX]; /* "": off */
    int cut;                          /* the latest line was not written to its end */
} taut_journal;

/* Where the environment says that it is: TAUT_JOURNAL=/path, or off by 0, "off" or another path
 * that is not absolute; else $XDG_STATE_HOME/taut/journal.jsonl, else the same below
 * ~/.local/state. 1, or 0 with "" where there is none. Not while another thread changes the
 * environment. */
int taut_journal_find(char path[TAUT_JOURNAL_PATH_MAX]);
void taut_journal_init(taut_journal *j, const char *path);
/* Appends {"time": .., "pid": .., "program": "..", "finding": {..}}; makes the file, and the
 * directories above it (mode 0700), where they are missing. 0, or a negative error. */
int taut_journal_write(taut_journal *j, const taut_finding *f);

#endif
