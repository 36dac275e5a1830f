/* Loaded before libc: notes in order every change that a process makes to the files of one folder, every sync, and
 * every line it writes to the file of acknowledgements. A lock around each call keeps the order true over threads.
 *
 * POWER_FOLDER  absolute path of the folder      POWER_ACKS  absolute path of the file of acknowledgements
 * POWER_LOG     where the notes go: "KIND ID OFFSET PATH-BYTES DATA-BYTES\n", then the path and the data
 *
 *   C create   O open (of what was there before)   W write     T truncate    S sync of a file
 *   D sync of a folder   U unlink   L link   R rename (both: path = old, data = new)   M mkdir   A acknowledgement
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 65536
#define FILES 65536

enum { OTHER, FILE_IN, FOLDER_IN, ACKS };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder, *acks;
static int notes = -1;
static unsigned char kinds[FDS];
static int ids[FDS];
static char *folders[FDS];
static struct { ino_t inode; int gone; } files[FILES];
static int known;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void __attribute__((constructor)) begin(void)
{
    folder = getenv("POWER_FOLDER");
    acks = getenv("POWER_ACKS");
    const char *path = getenv("POWER_LOG");
    if (folder && acks && path)
        notes = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static void put(const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        long done = syscall(SYS_write, notes, at, size);
        if (done < 0) abort();
        at += done, size -= done;
    }
}

static void note(char kind, int id, long long offset, const char *path, const void *data, size_t size)
{
    char head[96];
    size_t length = path ? strlen(path) : 0;
    put(head, snprintf(head, sizeof head, "%c %d %lld %zu %zu\n", kind, id, offset, length, size));
    if (length) put(path, length);
    if (size) put(data, size);
}

/* The path as one string without "." and "..": nothing here uses those. 0 if it is not in the folder. */
static int inside(int at, const char *path, char *out)
{
    if (notes < 0 || !path) return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else if (at == AT_FDCWD) {
        if (!getcwd(out, PATH_MAX / 2)) return 0;
        strcat(out, "/");
        strncat(out, path, PATH_MAX / 2 - 1);
    } else {
        if (at < 0 || at >= FDS || kinds[at] != FOLDER_IN) return 0;
        snprintf(out, PATH_MAX, "%s/%s", folders[at], path);
    }
    size_t length = strlen(folder);
    return !strncmp(out, folder, length) && (out[length] == '/' || out[length] == 0);
}

static int id_of(ino_t inode)
{
    for (int n = known; n > 0; n--)
        if (files[n].inode == inode && !files[n].gone) return n;
    return 0;
}

static void opened(int fd, const char *full, int flags, int existed)
{
    struct stat found;
    if (fd < 0 || fd >= FDS || fstat(fd, &found)) return;
    free(folders[fd]);
    folders[fd] = 0;
    if (S_ISDIR(found.st_mode)) {
        kinds[fd] = FOLDER_IN;
        folders[fd] = strdup(full);
        return;
    }
    kinds[fd] = FILE_IN;
    int id = existed ? id_of(found.st_ino) : 0;
    if (!id) {
        if (++known >= FILES) abort();
        for (int n = 1; n < known; n++)
            if (files[n].inode == found.st_ino) files[n].gone = 1;
        id = known, files[id].inode = found.st_ino;
        note(existed ? 'O' : 'C', id, 0, full, 0, 0);
    }
    ids[fd] = id;
    if (existed && (flags & O_TRUNC)) note('T', id, 0, 0, 0, 0);
}

static int open_any(int at, const char *path, int flags, mode_t mode)
{
    char full[PATH_MAX];
    if (notes < 0) return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int ours = inside(at, path, full);
    int existed = ours && !stat(full, &before);
    int fd = syscall(SYS_openat, at, path, flags, mode);
    int fault = errno;
    if (fd >= 0 && fd < FDS) {
        kinds[fd] = OTHER;
        if (ours) opened(fd, full, flags, existed);
        else if (path && !strcmp(path, acks)) kinds[fd] = ACKS;
    }
    pthread_mutex_unlock(&lock);
    errno = fault;
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return open_any(AT_FDCWD, path, flags, flags & (O_CREAT | O_TMPFILE) ? mode : 0); }
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return open_any(at, path, flags, flags & (O_CREAT | O_TMPFILE) ? mode : 0); }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }

int close(int fd)
{
    REAL(int, "close", int);
    if (notes >= 0 && fd == notes) return 0;
    pthread_mutex_lock(&lock);
    if (fd >= 0 && fd < FDS) kinds[fd] = OTHER;
    int done = real(fd);
    pthread_mutex_unlock(&lock);
    return done;
}

static int kind_of(int fd) { return notes >= 0 && fd >= 0 && fd < FDS ? kinds[fd] : OTHER; }

static ssize_t pwrite_any(int fd, const void *data, size_t size, off_t offset)
{
    if (kind_of(fd) != FILE_IN) return syscall(SYS_pwrite64, fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = syscall(SYS_pwrite64, fd, data, size, offset);
    if (done > 0) note('W', ids[fd], offset, 0, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite_any(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return pwrite_any(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size)
{
    int kind = kind_of(fd);
    if (kind != FILE_IN && kind != ACKS) return syscall(SYS_write, fd, data, size);
    pthread_mutex_lock(&lock);
    off_t end = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    ssize_t done = syscall(SYS_write, fd, data, size);
    if (done > 0 && kind == ACKS) note('A', 0, 0, 0, data, done);
    else if (done > 0) note('W', ids[fd], end, 0, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

static int truncate_any(int fd, off_t size)
{
    pthread_mutex_lock(&lock);
    int done = syscall(SYS_ftruncate, fd, size);
    if (!done && kind_of(fd) == FILE_IN) note('T', ids[fd], size, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t size) { return truncate_any(fd, size); }
int ftruncate64(int fd, off_t size) { return truncate_any(fd, size); }

static int sync_any(int fd, long number)
{
    pthread_mutex_lock(&lock);
    int done = syscall(number, fd);
    if (!done && kind_of(fd) == FILE_IN) note('S', ids[fd], 0, 0, 0, 0);
    if (!done && kind_of(fd) == FOLDER_IN) note('D', 0, 0, folders[fd], 0, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

/* One name that goes, or two of which the second comes. */
static int named(char kind, int at, const char *path, int to, const char *other, int flags, long number)
{
    char full[PATH_MAX], second[PATH_MAX];
    pthread_mutex_lock(&lock);
    int ours = inside(at, path, full);
    int both = other && inside(to, other, second);
    int done;
    if (number == SYS_renameat2 || number == SYS_linkat) done = syscall(number, at, path, to, other, flags);
    else done = syscall(number, at, path, flags);
    int fault = errno;
    if (!done && (ours || both)) {
        if (other && !(ours && both)) abort(); /* nothing here moves files over the border of the folder */
        note(kind, flags, 0, full, other ? second : 0, other ? strlen(second) : 0);
    }
    pthread_mutex_unlock(&lock);
    errno = fault;
    return done;
}
int unlink(const char *path) { return named('U', AT_FDCWD, path, 0, 0, 0, SYS_unlinkat); }
int unlinkat(int at, const char *path, int flags) { return named('U', at, path, 0, 0, flags, SYS_unlinkat); }
int rmdir(const char *path) { return named('U', AT_FDCWD, path, 0, 0, AT_REMOVEDIR, SYS_unlinkat); }
int mkdir(const char *path, mode_t mode) { return named('M', AT_FDCWD, path, 0, 0, mode, SYS_mkdirat); }
int rename(const char *path, const char *other)
{ return named('R', AT_FDCWD, path, AT_FDCWD, other, 0, SYS_renameat2); }
int renameat(int at, const char *path, int to, const char *other)
{ return named('R', at, path, to, other, 0, SYS_renameat2); }
int link(const char *path, const char *other) { return named('L', AT_FDCWD, path, AT_FDCWD, other, 0, SYS_linkat); }
int linkat(int at, const char *path, int to, const char *other, int flags)
{ return named('L', at, path, to, other, flags, SYS_linkat); }
