/* Disturbs one of the calls by which a process changes or reads files below a directory; loaded by LD_PRELOAD.
 *
 * FAULT_BELOW=DIRECTORY   whose files count
 * FAULT=KIND:N:ACTION:VALUE
 *     KIND    "write", calls that change files, or "read", calls that open or read them
 *     N       which of these calls, from 1; 0 disturbs none and logs all
 *     ACTION  "error": fails with the errno VALUE;  "short": writes half;
 *             "before", "after": the signal VALUE arrives before or after the call;
 *             "cut", "gone": before the call, the file is cut to half its size, or removed
 * FAULT_LOG=FILE          gets a line per call that was disturbed: its name and the path
 *
 * The environment is read at each call, so a process that was forked from one without these variables may set them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

enum action { NONE, ERROR, SHORT, AFTER };
static _Thread_local int value;
static atomic_int calls;

static void note(const char *name, const char *path)
{
    const char *log = getenv("FAULT_LOG");
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s\n", name, path);
    int file = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file >= 0) {
        syscall(SYS_write, file, line, length);
        syscall(SYS_close, file);
    }
}

/* Write the path of a file into a buffer: of the descriptor `at` itself if `path` is NULL, else from there on. */
static void find(char *found, int at, const char *path)
{
    char link[64];
    ssize_t length = 0;
    if (!path || path[0] != '/') {
        if (path && at == AT_FDCWD)
            strcpy(link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        length = readlink(link, found, PATH_MAX - 1);
        if (length < 0)
            length = 0;
    }
    if (path)
        snprintf(found + length, PATH_MAX - length, "%s%s", length ? "/" : "", path);
    else
        found[length] = 0;
}

/* Return what is to be done about a call; what comes before it is done here. */
static enum action disturbed(const char *kind, const char *name, int at, const char *path)
{
    const char *fault = getenv("FAULT"), *below = getenv("FAULT_BELOW");
    char wanted[16], action[16], found[PATH_MAX];
    int number, given, saved = errno;
    if (!fault || !below || sscanf(fault, "%15[a-z]:%d:%15[a-z]:%d", wanted, &number, action, &given) != 4)
        return NONE;
    if (strcmp(kind, wanted))
        return NONE;
    find(found, at, path);
    errno = saved;
    size_t length = strlen(below);
    if (strncmp(found, below, length) || (found[length] != '/' && found[length]))
        return NONE;
    int count = atomic_fetch_add(&calls, 1) + 1;
    if (number && count != number)
        return NONE;
    note(name, found);
    errno = saved;
    if (!number)
        return NONE;
    value = given;
    if (!strcmp(action, "error"))
        return ERROR;
    if (!strcmp(action, "short"))
        return SHORT;
    if (!strcmp(action, "after"))
        return AFTER;
    if (!strcmp(action, "before"))
        kill(getpid(), given);
    struct stat facts;
    if (!strcmp(action, "cut") && !stat(found, &facts) && S_ISREG(facts.st_mode))
        syscall(SYS_truncate, found, facts.st_size / 2);
    if (!strcmp(action, "gone"))
        syscall(SYS_unlinkat, AT_FDCWD, found, 0);
    errno = saved;
    return NONE;
}

static void after(void)
{
    int saved = errno;
    kill(getpid(), value);
    errno = saved;
}

#define CALL(kind, type, name, at, path, whole, half) \
    { \
        NEXT(name); \
        enum action action = disturbed(kind, #name, at, path); \
        if (action == ERROR) { \
            errno = value; \
            return (type)-1; \
        } \
        type result = action == SHORT ? (half) : (whole); \
        if (action == AFTER) \
            after(); \
        return result; \
    }
#define CHANGE(type, name, at, path, whole) CALL("write", type, name, at, path, whole, whole)
#define READ(type, name, at, path, whole) CALL("read", type, name, at, path, whole, whole)

/* Opening */

#define OPEN(name, parameters, at, ...) \
    int name(parameters int flags, ...) \
    { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int writes = flags & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY)); \
        enum action action = disturbed(writes ? "write" : "read", #name, at, path); \
        if (action == ERROR) { \
            errno = value; \
            return -1; \
        } \
        int result = next(__VA_ARGS__, flags, mode); \
        if (action == AFTER) \
            after(); \
        return result; \
    }
#define PATH_ALONE const char *path,
#define PATH_BELOW int at, const char *path,
OPEN(open, PATH_ALONE, AT_FDCWD, path)
OPEN(open64, PATH_ALONE, AT_FDCWD, path)
OPEN(openat, PATH_BELOW, at, at, path)
OPEN(openat64, PATH_BELOW, at, at, path)

static const char *kind_of(const char *mode)
{
    return mode[0] == 'r' ? "read" : "write";
}

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) \
    { \
        NEXT(name); \
        enum action action = disturbed(kind_of(mode), #name, AT_FDCWD, path); \
        if (action == ERROR) { \
            errno = value; \
            return NULL; \
        } \
        FILE *result = next(path, mode); \
        if (action == AFTER) \
            after(); \
        return result; \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* Writing */

ssize_t write(int file, const void *data, size_t size)
CALL("write", ssize_t, write, file, NULL, next(file, data, size), next(file, data, size > 1 ? size / 2 : size))

ssize_t pwrite(int file, const void *data, size_t size, off_t place)
CALL("write", ssize_t, pwrite, file, NULL, next(file, data, size, place), next(file, data, (size + 1) / 2, place))

ssize_t pwrite64(int file, const void *data, size_t size, off64_t place)
CALL("write", ssize_t, pwrite64, file, NULL, next(file, data, size, place), next(file, data, (size + 1) / 2, place))

ssize_t writev(int file, const struct iovec *data, int count)
CALL("write", ssize_t, writev, file, NULL, next(file, data, count), next(file, data, (count + 1) / 2))

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream)
{
    NEXT(fwrite);
    enum action action = disturbed("write", "fwrite", fileno(stream), NULL);
    if (action == ERROR) {
        errno = value;
        return 0;
    }
    size_t result = next(data, size, count, stream);
    if (action == AFTER)
        after();
    return result;
}

int ftruncate(int file, off_t size) CHANGE(int, ftruncate, file, NULL, next(file, size))
int ftruncate64(int file, off64_t size) CHANGE(int, ftruncate64, file, NULL, next(file, size))
int fallocate(int file, int how, off_t from, off_t size) CHANGE(int, fallocate, file, NULL, next(file, how, from, size))
int fsync(int file) CHANGE(int, fsync, file, NULL, next(file))
int fdatasync(int file) CHANGE(int, fdatasync, file, NULL, next(file))
int fchmod(int file, mode_t mode) CHANGE(int, fchmod, file, NULL, next(file, mode))

/* A close that fails has closed the file all the same. */
int close(int file)
{
    NEXT(close);
    int flags = fcntl(file, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return next(file);
    enum action action = disturbed("write", "close", file, NULL);
    int result = next(file);
    if (action == AFTER)
        after();
    if (action == ERROR) {
        errno = value;
        return -1;
    }
    return result;
}

/* Names */

int rename(const char *from, const char *to) CHANGE(int, rename, AT_FDCWD, to, next(from, to))
int renameat(int one, const char *from, int two, const char *to)
CHANGE(int, renameat, two, to, next(one, from, two, to))
int link(const char *from, const char *to) CHANGE(int, link, AT_FDCWD, to, next(from, to))
int linkat(int one, const char *from, int two, const char *to, int flags)
CHANGE(int, linkat, two, to, next(one, from, two, to, flags))
int unlink(const char *path) CHANGE(int, unlink, AT_FDCWD, path, next(path))
int unlinkat(int at, const char *path, int flags) CHANGE(int, unlinkat, at, path, next(at, path, flags))
int rmdir(const char *path) CHANGE(int, rmdir, AT_FDCWD, path, next(path))
int mkdir(const char *path, mode_t mode) CHANGE(int, mkdir, AT_FDCWD, path, next(path, mode))
int mkdirat(int at, const char *path, mode_t mode) CHANGE(int, mkdirat, at, path, next(at, path, mode))

/* Reading */

ssize_t read(int file, void *data, size_t size) READ(ssize_t, read, file, NULL, next(file, data, size))
ssize_t pread(int file, void *data, size_t size, off_t place)
READ(ssize_t, pread, file, NULL, next(file, data, size, place))
ssize_t pread64(int file, void *data, size_t size, off64_t place)
READ(ssize_t, pread64, file, NULL, next(file, data, size, place))
size_t fread(void *data, size_t size, size_t count, FILE *stream)
{
    NEXT(fread);
    if (disturbed("read", "fread", fileno(stream), NULL) == ERROR) {
        stream->_flags |= 0x20; /* as ferror has it in glibc */
        errno = value;
        return 0;
    }
    return next(data, size, count, stream);
}
void *mmap(void *start, size_t size, int protection, int flags, int file, off_t from)
{
    NEXT(mmap);
    if (file >= 0)
        disturbed("read", "mmap", file, NULL);
    return next(start, size, protection, flags, file, from);
}
