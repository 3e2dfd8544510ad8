/* Records what a process does to the files below POWER_ROOT, in order, in the file POWER_LOG.
 *
 * Preloaded (LD_PRELOAD) into the process under test. A record is a packed head, then two names or one piece of data:
 * what happened (a letter), the inode, an offset or size, the lengths of the two parts that follow. A record is
 * written under the same mutex as the call that it describes, so the log has the order in which things happened.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

struct __attribute__((packed)) head {
    char what;
    uint64_t inode, offset;
    uint32_t first, second;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int log_handle = -1;
static const char *root;
static size_t root_length;

static void lock_all(void) { pthread_mutex_lock(&mutex); }
static void free_all(void) { pthread_mutex_unlock(&mutex); }

__attribute__((constructor)) static void start(void) {
    root = getenv("POWER_ROOT");
    const char *path = getenv("POWER_LOG");
    if (!root || !path) return;
    root_length = strlen(root);
    log_handle = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_handle < 0) abort();
    pthread_atfork(lock_all, free_all, free_all);
}

static void record(char what, uint64_t inode, uint64_t offset, const void *first, size_t first_length,
                   const void *second, size_t second_length) {
    struct head head = {what, inode, offset, first_length, second_length};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)first, first_length}, {(void *)second, second_length}};
    if (REAL(writev)(log_handle, parts, 3) != (ssize_t)(sizeof head + first_length + second_length)) abort();
}

static int is_below(const char *path) {
    return log_handle >= 0 && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int name_of(int handle, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

/* The absolute name, whether or not it lies below the root; 0 if there is none. */
static int resolve(int folder, const char *name, char *path) {
    if (log_handle < 0 || !name) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return 1;
    }
    char base[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else if (!name_of(folder, base)) return 0;
    return snprintf(path, PATH_MAX, "%s/%s", base, name) < PATH_MAX;
}

static int is_watched(int handle, uint64_t *inode) {
    char path[PATH_MAX];
    struct stat facts;
    int before = errno;
    int watched = log_handle >= 0 && handle != log_handle && name_of(handle, path) && is_below(path) &&
                  !fstat(handle, &facts);
    if (watched) *inode = facts.st_ino;
    errno = before;
    return watched;
}

/* --- opening ---------------------------------------------------------------------------------------------- */

static int open_recorded(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat facts;
    if (!(flags & (O_CREAT | O_TRUNC)) || !resolve(folder, name, path) || !is_below(path))
        return REAL(openat)(folder, name, flags, mode);
    lock_all();
    int existed = !lstat(path, &facts);
    int handle = REAL(openat)(folder, name, flags, mode);
    int error = errno;
    if (handle >= 0 && !fstat(handle, &facts)) {
        if (!existed)
            record('C', facts.st_ino, 0, path, strlen(path), "", 0);
        else if (flags & O_TRUNC)
            record('T', facts.st_ino, 0, "", 0, "", 0);
    }
    free_all();
    errno = error;
    return handle;
}

#define MODE(flags, mode)                                  \
    mode_t mode = 0;                                       \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {               \
        va_list rest;                                      \
        va_start(rest, flags);                             \
        mode = va_arg(rest, mode_t);                       \
        va_end(rest);                                      \
    }

int open(const char *name, int flags, ...) { MODE(flags, mode) return open_recorded(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags, mode) return open_recorded(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags, mode) return open_recorded(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE(flags, mode) return open_recorded(at, name, flags, mode); }

/* --- content ---------------------------------------------------------------------------------------------- */

/* Do a call on a file and, if it succeeded, record what the last argument says. */
#define DO(type, handle, call, recorded)                   \
    uint64_t inode;                                        \
    if (!is_watched(handle, &inode)) return call;          \
    lock_all();                                            \
    type result = call;                                    \
    int error = errno;                                     \
    if (result >= 0) recorded;                             \
    free_all();                                            \
    errno = error;                                         \
    return result

#define POSITION(handle, result) (lseek(handle, 0, SEEK_CUR) - (result))

ssize_t write(int handle, const void *data, size_t length) {
    DO(ssize_t, handle, REAL(write)(handle, data, length),
       record('W', inode, POSITION(handle, result), data, result, "", 0));
}
ssize_t pwrite(int handle, const void *data, size_t length, off_t offset) {
    DO(ssize_t, handle, REAL(pwrite)(handle, data, length, offset), record('W', inode, offset, data, result, "", 0));
}
ssize_t pwrite64(int handle, const void *data, size_t length, off64_t offset) {
    DO(ssize_t, handle, REAL(pwrite64)(handle, data, length, offset), record('W', inode, offset, data, result, "", 0));
}
int ftruncate(int handle, off_t size) {
    DO(int, handle, REAL(ftruncate)(handle, size), record('T', inode, size, "", 0, "", 0));
}
int ftruncate64(int handle, off64_t size) {
    DO(int, handle, REAL(ftruncate64)(handle, size), record('T', inode, size, "", 0, "", 0));
}
int fsync(int handle) { DO(int, handle, REAL(fsync)(handle), record('S', inode, 0, "", 0, "", 0)); }
int fdatasync(int handle) { DO(int, handle, REAL(fdatasync)(handle), record('S', inode, 0, "", 0, "", 0)); }

/* Copies inside the kernel are refused: the caller falls back on write, which is recorded. */
ssize_t sendfile(int to, int from, off_t *offset, size_t length) {
    uint64_t inode;
    if (is_watched(to, &inode)) { errno = EINVAL; return -1; }
    return ((ssize_t(*)(int, int, off_t *, size_t))dlsym(RTLD_NEXT, "sendfile"))(to, from, offset, length);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) { return sendfile(to, from, offset, length); }

/* --- names ------------------------------------------------------------------------------------------------ */

#define DO_NAMED(folder, name, call, recorded)             \
    char path[PATH_MAX];                                   \
    if (!resolve(folder, name, path) || !is_below(path)) return call; \
    lock_all();                                            \
    int result = call;                                     \
    int error = errno;                                     \
    if (!result) recorded;                                 \
    free_all();                                            \
    errno = error;                                         \
    return result

static void record_made(char what, const char *path) {
    struct stat facts;
    if (lstat(path, &facts)) abort();
    record(what, facts.st_ino, 0, path, strlen(path), "", 0);
}

int mkdirat(int folder, const char *name, mode_t mode) {
    DO_NAMED(folder, name, REAL(mkdirat)(folder, name, mode), record_made('D', path));
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
int unlinkat(int folder, const char *name, int flags) {
    DO_NAMED(folder, name, REAL(unlinkat)(folder, name, flags), record('U', 0, 0, path, strlen(path), "", 0));
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int renameat(int from, const char *old, int to, const char *new) {
    char target[PATH_MAX] = "";
    resolve(to, new, target);
    DO_NAMED(from, old, REAL(renameat)(from, old, to, new),
             record('R', 0, 0, path, strlen(path), target, strlen(target)));
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }
int linkat(int from, const char *old, int to, const char *new, int flags) {
    char target[PATH_MAX] = "";
    resolve(to, new, target);
    DO_NAMED(from, old, REAL(linkat)(from, old, to, new, flags), record_made('L', target));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
