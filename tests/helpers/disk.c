/* What a process does to files below one folder: written down in order, and made to fail at a chosen call.

   Preloaded into a process, it stands between it and libc, so it sees SQLite's calls and Python's alike. Records go to
   the file that DISK_TRACE names: kind, path, other path, offset, data, each with its length. `disk_arm` counts from now
   on, and lets the nth call and, if told, all after it fail with an error number; 0 lets none fail. */

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

#define FD_MAX 4096

static char *paths[FD_MAX];
static char root[PATH_MAX];
static int trace = -1;
static long countdown, calls;
static int error_number, is_lasting;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void begin(void) {
  static int is_begun;
  if (is_begun) return;
  is_begun = 1;
  const char *folder = getenv("DISK_ROOT"), *file = getenv("DISK_TRACE");
  if (folder) snprintf(root, sizeof root, "%s/", folder);
  if (file) trace = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static const char *whole(const char *path, char *out) {
  if (path[0] == '/') return path;
  char here[PATH_MAX];
  if (!getcwd(here, sizeof here)) return path;
  snprintf(out, PATH_MAX, "%s/%s", here, path);
  return out;
}

/* The part of a path below the root, or NULL; SQLite's shared memory is no part of what a disk keeps. */
static const char *below(const char *path, char *out) {
  begin();
  if (!root[0] || !path) return NULL;
  path = whole(path, out);
  size_t size = strlen(root), length = strlen(path);
  if (strncmp(path, root, size) || (length > 4 && !strcmp(path + length - 4, "-shm"))) return NULL;
  return path + size;
}

static void put(const void *data, uint32_t size) {
  __typeof__(&write) real = REAL(write);
  if (real(trace, &size, sizeof size) < 0 || (size && real(trace, data, size) < 0)) abort();
}

/* Write a call down; return the error that it fails with, or 0. */
static int met(char kind, const char *path, const char *other, int64_t offset, const void *data, size_t size) {
  pthread_mutex_lock(&lock);
  calls++;
  int failed = 0;
  if (countdown && strcmp(path, "said") && --countdown == 0) {
    failed = error_number;
    if (is_lasting) countdown = 1;
  }
  if (!failed && trace >= 0) {
    put(&kind, 1);
    put(path, strlen(path));
    put(other, strlen(other));
    put(&offset, sizeof offset);
    put(data, size);
  }
  pthread_mutex_unlock(&lock);
  return failed;
}

#define FAIL_IF_TOLD(...)            \
  do {                               \
    int failed = met(__VA_ARGS__);   \
    if (failed) {                    \
      errno = failed;                \
      return -1;                     \
    }                                \
  } while (0)

void disk_arm(long nth, int error, int lasting) {
  countdown = nth;
  error_number = error;
  is_lasting = lasting;
  calls = 0;
}

long disk_calls(void) { return calls; }

static int opened(int descriptor, const char *path) {
  char spare[PATH_MAX];
  const char *name = below(path, spare);
  if (descriptor >= 0 && descriptor < FD_MAX) {
    free(paths[descriptor]);
    paths[descriptor] = name ? strdup(name) : NULL;
  }
  return descriptor;
}

static const char *path_of(int descriptor) {
  return descriptor >= 0 && descriptor < FD_MAX ? paths[descriptor] : NULL;
}

static int open_it(const char *path, int flags, mode_t mode) {
  char spare[PATH_MAX];
  const char *name = below(path, spare);
  if (name && (flags & (O_CREAT | O_TRUNC))) {
    struct stat found;
    int is_there = !stat(path, &found);
    if (!(is_there && flags & O_EXCL) && (!is_there || flags & O_TRUNC))
      FAIL_IF_TOLD(flags & O_TRUNC ? 'T' : 'C', name, "", 0, "", 0);
  }
  return opened(REAL(open)(path, flags, mode), path);
}

#define OPEN(name)                             \
  int name(const char *path, int flags, ...) { \
    va_list rest;                              \
    va_start(rest, flags);                     \
    mode_t mode = va_arg(rest, mode_t);        \
    va_end(rest);                              \
    return open_it(path, flags, mode);         \
  }
OPEN(open)
OPEN(open64)

int close(int descriptor) {
  if (descriptor >= 0 && descriptor < FD_MAX) {
    free(paths[descriptor]);
    paths[descriptor] = NULL;
  }
  return REAL(close)(descriptor);
}

ssize_t write(int descriptor, const void *data, size_t size) {
  const char *name = path_of(descriptor);
  if (name) FAIL_IF_TOLD('W', name, "", lseek(descriptor, 0, SEEK_CUR), data, size);
  return REAL(write)(descriptor, data, size);
}

#define PWRITE(name)                                                                   \
  ssize_t name(int descriptor, const void *data, size_t size, __typeof__(off_t) at) {  \
    const char *file = path_of(descriptor);                                            \
    if (file) FAIL_IF_TOLD('W', file, "", at, data, size);                             \
    return REAL(pwrite)(descriptor, data, size, at);                                   \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define FTRUNCATE(name)                                          \
  int name(int descriptor, __typeof__(off_t) size) {             \
    const char *file = path_of(descriptor);                      \
    if (file) FAIL_IF_TOLD('L', file, "", size, "", 0);          \
    return REAL(ftruncate)(descriptor, size);                    \
  }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

static int synced(int descriptor, int (*real)(int)) {
  const char *name = path_of(descriptor);
  if (name) FAIL_IF_TOLD('S', name, "", 0, "", 0);
  return real(descriptor);
}
int fsync(int descriptor) { return synced(descriptor, REAL(fsync)); }
int fdatasync(int descriptor) { return synced(descriptor, REAL(fdatasync)); }

int rename(const char *from, const char *to) {
  char a[PATH_MAX], b[PATH_MAX];
  const char *source = below(from, a), *target = below(to, b);
  if (source && target) FAIL_IF_TOLD('R', source, target, 0, "", 0);
  return REAL(rename)(from, to);
}

int link(const char *from, const char *to) {
  char a[PATH_MAX], b[PATH_MAX];
  const char *source = below(from, a), *target = below(to, b);
  if (source && target) FAIL_IF_TOLD('K', source, target, 0, "", 0);
  return REAL(link)(from, to);
}

int unlink(const char *path) {
  char spare[PATH_MAX];
  const char *name = below(path, spare);
  struct stat found;
  if (name && !lstat(path, &found)) FAIL_IF_TOLD('U', name, "", 0, "", 0);
  return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
  char spare[PATH_MAX];
  const char *name = below(path, spare);
  struct stat found;
  if (name && stat(path, &found)) FAIL_IF_TOLD('M', name, "", 0, "", 0);
  return REAL(mkdir)(path, mode);
}
