/* Preloaded into a child process: journals, in one order, everything that it does to the files under one directory, so
 * that the state of a disk after a power cut at any moment can be rebuilt.
 *
 *   EVENTKIT_JOURNAL_ROOT     the directory, absolute and without symbolic links
 *   EVENTKIT_JOURNAL_FILE     where the journal goes; unset: nothing is journalled, syncs are still treated as below
 *   EVENTKIT_JOURNAL_SYNC_US  a sync of a file under the directory takes so many microseconds and does nothing else:
 *                             what it means is decided by whoever reads the journal
 *
 * Each call and its record happen under one lock, so that the journal is the order in which things really happened. Only a
 * sync is two records, its beginning and its end: others may write while it runs. Calls that failed are not recorded.
 *
 * Calls that are not intercepted (raw system calls, shared mappings, copy_file_range) would be missing. The reader
 * notices: the whole journal, replayed, has to give the directory as it is.
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
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum op {
  OPEN = 1, CLOSE, DUP, WRITE, TRUNCATE, ALLOCATE, SYNC_BEGIN, SYNC_END, RENAME, LINK, UNLINK, MAKE_DIR, REMOVE_DIR
};

/* Little endian, followed by the first path, the second path and the data. */
struct __attribute__((packed)) record {
  uint32_t bytes; /* of the whole record */
  uint32_t op;
  int32_t fd;
  int32_t flags;
  uint64_t a;
  uint64_t b;
  uint32_t first_bytes;
  uint32_t second_bytes;
};

#define FDS 65536
static unsigned char watched[FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_bytes;
static int journal = -1;
static int skip_syncs;
static long sync_us;
static uint64_t syncs;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) {
    dprintf(2, "journal: no %s\n", name);
    abort();
  }
  return found;
}

__attribute__((constructor)) static void begin(void) {
  const char *directory = getenv("EVENTKIT_JOURNAL_ROOT");
  const char *file = getenv("EVENTKIT_JOURNAL_FILE");
  const char *us = getenv("EVENTKIT_JOURNAL_SYNC_US");
  if (!directory || strlen(directory) >= sizeof root) return;
  strcpy(root, directory);
  root_bytes = strlen(root);
  if (us) {
    skip_syncs = 1;
    sync_us = atol(us);
  }
  if (file) {
    int fd = REAL(open)(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    /* Out of the way of the descriptors that the program gets. */
    journal = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
    REAL(close)(fd);
    if (journal < 0) {
      dprintf(2, "journal: cannot open %s\n", file);
      abort();
    }
  }
}

static int is_watched(int fd) { return fd >= 0 && fd < FDS && watched[fd]; }

/* The path below the root; NULL when it is elsewhere. */
static const char *below(int directory, const char *path, char *room) {
  if (!root_bytes || !path) return NULL;
  if (path[0] != '/') {
    char link[64];
    if (directory == AT_FDCWD)
      snprintf(link, sizeof link, "/proc/self/cwd");
    else
      snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t n = readlink(link, room, PATH_MAX - 1);
    if (n < 0 || (size_t)n + strlen(path) + 2 > PATH_MAX) return NULL;
    snprintf(room + n, PATH_MAX - (size_t)n, "/%s", path);
    path = room;
  }
  if (strncmp(path, root, root_bytes) != 0) return NULL;
  path += root_bytes;
  if (*path != '/' && *path != 0) return NULL;
  while (*path == '/') path++;
  return path;
}

static void put(struct record record, const char *first, const char *second, const struct iovec *data, int parts) {
  if (journal < 0) return;
  int saved = errno;
  struct iovec all[parts + 3];
  record.first_bytes = first ? (uint32_t)strlen(first) : 0;
  record.second_bytes = second ? (uint32_t)strlen(second) : 0;
  all[0] = (struct iovec){&record, sizeof record};
  all[1] = (struct iovec){(void *)first, record.first_bytes};
  all[2] = (struct iovec){(void *)second, record.second_bytes};
  size_t bytes = sizeof record + record.first_bytes + record.second_bytes;
  for (int i = 0; i < parts; i++) {
    all[i + 3] = data[i];
    bytes += data[i].iov_len;
  }
  record.bytes = (uint32_t)bytes;
  if (REAL(writev)(journal, all, parts + 3) != (ssize_t)bytes) {
    dprintf(2, "journal: a record could not be written\n");
    abort();
  }
  errno = saved;
}

#define LOCKED(...)                \
  do {                             \
    pthread_mutex_lock(&lock);     \
    __VA_ARGS__;                   \
    pthread_mutex_unlock(&lock);   \
  } while (0)

/* === names === */

static int open_any(const char *which, int directory, const char *path, int flags, mode_t mode) {
  char room[PATH_MAX];
  const char *name = below(directory, path, room);
  int (*call)(int, const char *, int, ...) = real(which);
  if (!name) return call(directory, path, flags, mode);
  int fd;
  LOCKED({
    fd = call(directory, path, flags, mode);
    if (fd >= FDS) abort();
    if (fd >= 0) {
      watched[fd] = 1;
      put((struct record){.op = OPEN, .fd = fd, .flags = flags}, name, NULL, NULL, 0);
    }
  });
  return fd;
}

#define MODE(flags)                             \
  mode_t mode = 0;                              \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {      \
    va_list rest;                               \
    va_start(rest, flags);                      \
    mode = va_arg(rest, mode_t);                \
    va_end(rest);                               \
  }

int open(const char *path, int flags, ...) {
  MODE(flags)
  return open_any("openat", AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE(flags)
  return open_any("openat64", AT_FDCWD, path, flags, mode);
}
int openat(int directory, const char *path, int flags, ...) {
  MODE(flags)
  return open_any("openat", directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) {
  MODE(flags)
  return open_any("openat64", directory, path, flags, mode);
}
int creat(const char *path, mode_t mode) {
  return open_any("openat", AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) {
  return open_any("openat64", AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int close(int fd) {
  int result;
  if (!is_watched(fd)) return REAL(close)(fd);
  LOCKED({
    watched[fd] = 0;
    put((struct record){.op = CLOSE, .fd = fd}, NULL, NULL, NULL, 0);
    result = REAL(close)(fd);
  });
  return result;
}

static int duplicated(int from, int to) {
  if (to >= 0 && is_watched(from)) {
    if (to >= FDS) abort();
    watched[to] = 1;
    put((struct record){.op = DUP, .fd = from, .a = (uint64_t)to}, NULL, NULL, NULL, 0);
  }
  return to;
}
int dup(int fd) {
  int result;
  LOCKED(result = duplicated(fd, REAL(dup)(fd)));
  return result;
}
static int fcntl_any(const char *which, int fd, int command, void *argument) {
  int (*call)(int, int, ...) = real(which);
  if (command != F_DUPFD && command != F_DUPFD_CLOEXEC) return call(fd, command, argument);
  int result;
  LOCKED(result = duplicated(fd, call(fd, command, argument)));
  return result;
}
#define ARGUMENT                       \
  va_list rest;                        \
  va_start(rest, command);             \
  void *argument = va_arg(rest, void *); \
  va_end(rest);
int fcntl(int fd, int command, ...) {
  ARGUMENT
  return fcntl_any("fcntl", fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
  ARGUMENT
  return fcntl_any("fcntl64", fd, command, argument);
}

static int named(enum op op, int flags, const char *first, const char *second, int result) {
  if (result == 0) put((struct record){.op = op, .flags = flags}, first, second, NULL, 0);
  return result;
}

static int rename_any(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
  char room[2][PATH_MAX];
  const char *first = below(from_directory, from, room[0]);
  const char *second = below(to_directory, to, room[1]);
  int result;
  if (!first != !second) abort(); /* across the border: nothing that is tested does it */
  if (!first) return REAL(renameat2)(from_directory, from, to_directory, to, flags);
  LOCKED(result = named(RENAME, (int)flags, first, second, REAL(renameat2)(from_directory, from, to_directory, to, flags)));
  return result;
}
int rename(const char *from, const char *to) { return rename_any(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return rename_any(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return rename_any(a, from, b, to, flags); }

int linkat(int a, const char *from, int b, const char *to, int flags) {
  char room[2][PATH_MAX];
  const char *first = below(a, from, room[0]);
  const char *second = below(b, to, room[1]);
  int result;
  if (!first != !second) abort();
  if (!first) return REAL(linkat)(a, from, b, to, flags);
  LOCKED(result = named(LINK, flags, first, second, REAL(linkat)(a, from, b, to, flags)));
  return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int directory, const char *path, int flags) {
  char room[PATH_MAX];
  const char *name = below(directory, path, room);
  int result;
  if (!name) return REAL(unlinkat)(directory, path, flags);
  LOCKED(result = named(flags & AT_REMOVEDIR ? REMOVE_DIR : UNLINK, 0, name, NULL, REAL(unlinkat)(directory, path, flags)));
  return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int directory, const char *path, mode_t mode) {
  char room[PATH_MAX];
  const char *name = below(directory, path, room);
  int result;
  if (!name) return REAL(mkdirat)(directory, path, mode);
  LOCKED(result = named(MAKE_DIR, 0, name, NULL, REAL(mkdirat)(directory, path, mode)));
  return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* === bytes === */

/* What was really written of the parts, at an offset. */
static void wrote(int fd, uint64_t offset, const struct iovec *data, int parts, size_t bytes) {
  struct iovec kept[parts];
  int count = 0;
  for (int i = 0; i < parts && bytes > 0; i++) {
    size_t n = data[i].iov_len < bytes ? data[i].iov_len : bytes;
    kept[count++] = (struct iovec){data[i].iov_base, n};
    bytes -= n;
  }
  put((struct record){.op = WRITE, .fd = fd, .a = offset}, NULL, NULL, kept, count);
}

ssize_t writev(int fd, const struct iovec *data, int parts) {
  ssize_t n;
  if (!is_watched(fd)) return REAL(writev)(fd, data, parts);
  LOCKED({
    n = REAL(writev)(fd, data, parts);
    if (n > 0) wrote(fd, (uint64_t)(lseek(fd, 0, SEEK_CUR) - n), data, parts, (size_t)n);
  });
  return n;
}
ssize_t write(int fd, const void *bytes, size_t count) {
  if (!is_watched(fd)) return REAL(write)(fd, bytes, count);
  struct iovec data = {(void *)bytes, count};
  return writev(fd, &data, 1);
}
ssize_t pwritev64(int fd, const struct iovec *data, int parts, off64_t offset) {
  ssize_t n;
  if (!is_watched(fd)) return REAL(pwritev64)(fd, data, parts, offset);
  LOCKED({
    n = REAL(pwritev64)(fd, data, parts, offset);
    if (n > 0) wrote(fd, (uint64_t)offset, data, parts, (size_t)n);
  });
  return n;
}
ssize_t pwritev(int fd, const struct iovec *data, int parts, off_t offset) { return pwritev64(fd, data, parts, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
  struct iovec data = {(void *)bytes, count};
  if (!is_watched(fd)) return REAL(pwrite64)(fd, bytes, count, offset);
  return pwritev64(fd, &data, 1, offset);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

int ftruncate64(int fd, off64_t length) {
  int result;
  if (!is_watched(fd)) return REAL(ftruncate64)(fd, length);
  LOCKED({
    result = REAL(ftruncate64)(fd, length);
    if (result == 0) put((struct record){.op = TRUNCATE, .fd = fd, .a = (uint64_t)length}, NULL, NULL, NULL, 0);
  });
  return result;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off64_t offset, off64_t bytes) {
  int result;
  if (!is_watched(fd)) return REAL(fallocate64)(fd, mode, offset, bytes);
  LOCKED({
    result = REAL(fallocate64)(fd, mode, offset, bytes);
    struct record record = {.op = ALLOCATE, .fd = fd, .flags = mode, .a = (uint64_t)offset, .b = (uint64_t)bytes};
    if (result == 0) put(record, NULL, NULL, NULL, 0);
  });
  return result;
}
int fallocate(int fd, int mode, off_t offset, off_t bytes) { return fallocate64(fd, mode, offset, bytes); }
int posix_fallocate64(int fd, off64_t offset, off64_t bytes) { return fallocate64(fd, 0, offset, bytes) ? errno : 0; }
int posix_fallocate(int fd, off_t offset, off_t bytes) { return posix_fallocate64(fd, offset, bytes); }

/* === syncs === */

static int sync_any(const char *which, int fd) {
  int (*call)(int) = real(which);
  int result = 0;
  uint64_t id;
  if (!is_watched(fd)) return call(fd);
  int data_only = which[1] == 'd';
  LOCKED({
    id = ++syncs;
    put((struct record){.op = SYNC_BEGIN, .fd = fd, .flags = data_only, .a = id}, NULL, NULL, NULL, 0);
  });
  if (!skip_syncs) {
    result = call(fd);
  } else if (sync_us > 0) {
    struct timespec pause = {sync_us / 1000000, sync_us % 1000000 * 1000};
    nanosleep(&pause, NULL);
  }
  LOCKED(if (result == 0) put((struct record){.op = SYNC_END, .fd = fd, .flags = data_only, .a = id}, NULL, NULL, NULL, 0));
  return result;
}
int fsync(int fd) { return sync_any("fsync", fd); }
int fdatasync(int fd) { return sync_any("fdatasync", fd); }
