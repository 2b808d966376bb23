/* Watches what a process does to the files below one folder; at a chosen call it kills the process or gives an error.
   Loaded by LD_PRELOAD, so that it sees the calls of Python and those of libraries in C++ alike. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static int log_file = -1, given;
static atomic_long calls, chosen = -1;

/* folder: absolute, "" for none; path: of a file that gets a line for each call, or NULL */
void faults_watch(const char *folder, const char *path) {
  if (log_file >= 0) syscall(SYS_close, log_file);
  log_file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
  snprintf(below, sizeof below, "%s", folder);
}

/* call: the number of the call from now on, -1 for none; error: what it gives, 0 to be killed there */
void faults_arm(long call, int error) {
  given = error;
  calls = 0;
  chosen = call;
}

long faults_calls(void) { return calls; }

static int touched(const char *kind, const char *path, const char *to) {
  char line[2 * PATH_MAX + 32];
  if (!below[0] || (strncmp(path, below, strlen(below)) && strncmp(to, below, strlen(below)))) return 0;
  if (given && !strcmp(kind, "remove")) return 0; /* a removal that fails loses nothing */
  if (log_file >= 0) {
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", kind, path, to);
    syscall(SYS_write, log_file, line, length);
  }
  long number = atomic_fetch_add(&calls, 1);
  if (number != chosen) return 0;
  if (!given) syscall(SYS_kill, getpid(), SIGKILL);
  return given;
}

static const char *of_number(int number, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", number);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  path[length < 0 ? 0 : length] = 0;
  return path;
}

static const char *at(int folder, const char *name, char *path) {
  if (!name || name[0] == '/') return name ? name : "";
  if (folder == AT_FDCWD) {
    if (!getcwd(path, PATH_MAX)) path[0] = 0;
  } else {
    of_number(folder, path);
  }
  size_t length = strlen(path);
  snprintf(path + length, PATH_MAX - length, "/%s", name);
  return path;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define REFUSED(kind, path, to)                 \
  do {                                          \
    int refused = touched(kind, path, to);      \
    if (refused) {                              \
      errno = refused;                          \
      return -1;                                \
    }                                           \
  } while (0)
#define ON_NUMBER(type, name, kind, declared, passed) \
  type name declared {                                \
    char path[PATH_MAX];                              \
    if (below[0]) REFUSED(kind, of_number(number, path), ""); \
    return REAL(name) passed;                         \
  }

ON_NUMBER(ssize_t, write, "write", (int number, const void *bytes, size_t size), (number, bytes, size))
ON_NUMBER(ssize_t, pwrite, "write", (int number, const void *bytes, size_t size, off_t from), (number, bytes, size, from))
ON_NUMBER(ssize_t, pwrite64, "write", (int number, const void *bytes, size_t size, off64_t from), (number, bytes, size, from))
ON_NUMBER(ssize_t, writev, "write", (int number, const struct iovec *parts, int count), (number, parts, count))
ON_NUMBER(ssize_t, pwritev, "write", (int number, const struct iovec *parts, int count, off_t from), (number, parts, count, from))
ON_NUMBER(ssize_t, pwritev64, "write", (int number, const struct iovec *parts, int count, off64_t from), (number, parts, count, from))
ON_NUMBER(int, ftruncate, "write", (int number, off_t size), (number, size))
ON_NUMBER(int, ftruncate64, "write", (int number, off64_t size), (number, size))
ON_NUMBER(int, fsync, "sync", (int number), (number))
ON_NUMBER(int, fdatasync, "sync", (int number), (number))

#define ON_OPEN(name, first, folder, passed)                                 \
  int name(first const char *file, int flags, ...) {                         \
    char path[PATH_MAX];                                                     \
    va_list rest;                                                            \
    va_start(rest, flags);                                                   \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;  \
    va_end(rest);                                                            \
    if (below[0] && flags & O_CREAT) REFUSED("create", at(folder, file, path), ""); \
    return REAL(name) passed;                                                \
  }
#define COMMA ,
ON_OPEN(open, , AT_FDCWD, (file, flags, mode))
ON_OPEN(open64, , AT_FDCWD, (file, flags, mode))
ON_OPEN(openat, int folder COMMA, folder, (folder, file, flags, mode))
ON_OPEN(openat64, int folder COMMA, folder, (folder, file, flags, mode))

int rename(const char *from, const char *to) {
  char first[PATH_MAX], second[PATH_MAX];
  if (below[0]) REFUSED("rename", at(AT_FDCWD, from, first), at(AT_FDCWD, to, second));
  return REAL(rename)(from, to);
}

int renameat(int folder, const char *from, int other, const char *to) {
  char first[PATH_MAX], second[PATH_MAX];
  if (below[0]) REFUSED("rename", at(folder, from, first), at(other, to, second));
  return REAL(renameat)(folder, from, other, to);
}

int renameat2(int folder, const char *from, int other, const char *to, unsigned flags) {
  char first[PATH_MAX], second[PATH_MAX];
  if (below[0]) REFUSED("rename", at(folder, from, first), at(other, to, second));
  return REAL(renameat2)(folder, from, other, to, flags);
}

#define ON_NAME(name, kind, folder, declared, passed) \
  int name declared {                                 \
    char path[PATH_MAX];                              \
    if (below[0]) REFUSED(kind, at(folder, file, path), ""); \
    return REAL(name) passed;                         \
  }
ON_NAME(mkdir, "create", AT_FDCWD, (const char *file, mode_t mode), (file, mode))
ON_NAME(mkdirat, "create", folder, (int folder, const char *file, mode_t mode), (folder, file, mode))
ON_NAME(unlink, "remove", AT_FDCWD, (const char *file), (file))
ON_NAME(unlinkat, "remove", folder, (int folder, const char *file, int flags), (folder, file, flags))
ON_NAME(rmdir, "remove", AT_FDCWD, (const char *file), (file))
