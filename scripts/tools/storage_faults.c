/* Storage that fails on demand: a library to be preloaded (LD_PRELOAD) below a program that is to be tested.

   cc -shared -fPIC -O1 -o storage_faults.so storage_faults.c -ldl

   Calls on files in one folder are counted by their kind. Of the armed kind, those numbered first to last fail:

   - with an errno, before anything is done; a close fails after the file is closed;
   - SHORT: of a write, half of the bytes are written, and that is what is returned;
   - TORN: half of the bytes are written, then it is the errno ENOSPC, as a disk does that fills up in between.

   Nothing is armed at first. What is not on that folder's files goes through untouched. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, CLOSE, KINDS };
enum { SHORT = -1, TORN = -2 };

static char folder[PATH_MAX];
static int armed = -1, fault;
static long first, last;
static atomic_long counted[KINDS];

/* Count calls in `where` from now on, and let those of `kind` numbered first_ to last_ (from 1) fail; kind -1 is none. */
void storage_faults_arm(const char *where, int kind, int what, long first_, long last_) {
    for (int i = 0; i < KINDS; i++) counted[i] = 0;
    snprintf(folder, sizeof folder, "%s", where);
    armed = kind, fault = what, first = first_, last = last_;
}

/* Return how many calls of a kind there were since. */
long storage_faults_counted(int kind) { return counted[kind]; }

static int below(const char *path) {
    size_t length = strlen(folder);
    return length && path[0] == '/' && strncmp(path, folder, length) == 0;
}

static int names_below(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int fails(int kind) {
    long number = ++counted[kind];
    return kind == armed && first <= number && number <= last;
}

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int refuse(void) {
    errno = fault > 0 ? fault : ENOSPC;
    return -1;
}

#define OPEN_LIKE(name, before, given)                                    \
    int name(before const char *path, int flags, ...) {                   \
        mode_t mode = 0;                                                  \
        if (flags & (O_CREAT | O_TMPFILE)) {                              \
            va_list rest;                                                 \
            va_start(rest, flags);                                        \
            mode = va_arg(rest, mode_t);                                  \
            va_end(rest);                                                 \
        }                                                                 \
        if ((flags & O_ACCMODE) != O_RDONLY && below(path) && fails(OPEN)) \
            return refuse();                                              \
        return REAL(name)(given path, flags, mode);                       \
    }
#define NOTHING
#define COMMA ,
OPEN_LIKE(open, NOTHING, NOTHING)
OPEN_LIKE(open64, NOTHING, NOTHING)
OPEN_LIKE(openat, int at COMMA, at COMMA)
OPEN_LIKE(openat64, int at COMMA, at COMMA)

#define WRITE_LIKE(name, after, given)                                        \
    ssize_t name(int descriptor, const void *bytes, size_t count after) {     \
        if (!names_below(descriptor) || !fails(WRITE))                        \
            return REAL(name)(descriptor, bytes, count given);                \
        if (fault > 0) return refuse();                                       \
        ssize_t half = REAL(name)(descriptor, bytes, (count + 1) / 2 given);        \
        return fault == SHORT ? half : refuse();                              \
    }
#define OFFSET , off_t offset
#define OFFSET64 , off64_t offset
WRITE_LIKE(write, , )
WRITE_LIKE(pwrite, OFFSET, COMMA offset)
WRITE_LIKE(pwrite64, OFFSET64, COMMA offset)

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    if (names_below(descriptor) && fails(WRITE)) return refuse();
    return REAL(writev)(descriptor, parts, count);
}

#define FILE_LIKE(name, kind, after, given)                              \
    int name(int descriptor after) {                                     \
        if (names_below(descriptor) && fails(kind)) return refuse();     \
        return REAL(name)(descriptor given);                             \
    }
FILE_LIKE(fsync, SYNC, , )
FILE_LIKE(fdatasync, SYNC, , )
FILE_LIKE(ftruncate, TRUNCATE, COMMA off_t size, COMMA size)
FILE_LIKE(ftruncate64, TRUNCATE, COMMA off64_t size, COMMA size)

int close(int descriptor) {
    int refused = names_below(descriptor) && fails(CLOSE);
    int result = REAL(close)(descriptor);
    return refused ? refuse() : result;
}

int rename(const char *from, const char *to) {
    if (below(to) && fails(RENAME)) return refuse();
    return REAL(rename)(from, to);
}

int renameat(int at, const char *from, int to_at, const char *to) {
    if (below(to) && fails(RENAME)) return refuse();
    return REAL(renameat)(at, from, to_at, to);
}

int unlink(const char *path) {
    if (below(path) && fails(UNLINK)) return refuse();
    return REAL(unlink)(path);
}

int unlinkat(int at, const char *path, int flags) {
    if (below(path) && fails(UNLINK)) return refuse();
    return REAL(unlinkat)(at, path, flags);
}
