/*
 * faults: a preloaded shim that makes the file system and the clock of one process fail on command.
 *
 *   cc -shared -fPIC -O2 -o libfaults.so faults.c -ldl
 *   FAULTS_CONTROL=<control file> LD_PRELOAD=<libfaults.so> eventkit dev
 *
 * The control file is mapped, shared: whoever writes into it (an ordinary write at an offset will do) steers the running
 * process, and whoever reads it sees what was counted, also after the process has died. tests/support/shim.rs does both.
 *
 * Layout, little endian, CONTROL_BYTES in all:
 *
 *   0     u64  magic 0x31544c554146 ("FAULT1")
 *   8     u64  number of calls that a rule ended or changed
 *   16    u64  where the process killed itself: the operation's bit; 0 if it did not
 *   24    104  the path of that call, NUL-terminated
 *   128   the rules, RULES of 256 bytes each:
 *         +0   u64  action (below); 0 = the rule is off. Written last when a rule is set
 *         +8   u64  operations (below) that it is about, one bit each
 *         +16  u64  from: the first call that is concerned, counted from 1 by this rule
 *         +24  u64  times: how many calls from there on are concerned; 0 = all
 *         +32  i64  argument of the action
 *         +40  u64  seen: calls that matched operations and path so far (counted here)
 *         +48  u64  hit: calls that the action was taken on (counted here)
 *         +56  200  a part of the path, NUL-terminated; empty = every file
 *
 *   action  1 count    nothing but counting
 *           2 fail     the call is not made; errno = argument
 *           3 delay    argument microseconds pass before the call is made
 *           4 before   SIGKILL to this process instead of the call
 *           5 after    SIGKILL once the call was made
 *           6 half     a write: half of its bytes, then SIGKILL; anything else: as `before`
 *           7 room     argument = bytes by which files may still grow; a write beyond them gets what fits, then ENOSPC. What
 *                      is unlinked or cut adds to it. Opening with O_CREAT, mkdir and link need one byte of it
 *           8 clock    CLOCK_REALTIME shows argument microseconds more (path and operations do not matter)
 *
 *   operation  1 open  2 write  4 sync  8 truncate  16 allocate  32 rename  64 link  128 unlink  256 mkdir, rmdir  512 read
 *
 * The path of a call on a descriptor is what /proc/self/fd says; sockets and pipes match no rule that names a path. Each rule
 * that matches is applied, the first one that ends a call ends it.
 *
 * Out of reach: system calls that are made without libc. In eventkit these are rustix' (fallocate of the ballast, statvfs,
 * renameat2 of a poisoned log), and what SQLite does to its mapped -shm files.
 *
 * Hooks do not allocate, take no lock and keep errno; they may run in any thread.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x31544c554146ull
#define RULES 16
#define PATH_PART 200
#define DIED_PATH 104

enum { COUNT = 1, FAIL, DELAY, BEFORE, AFTER, HALF, ROOM, CLOCK };
enum {
  OPEN = 1, WRITE = 2, SYNC = 4, TRUNCATE = 8, ALLOCATE = 16, RENAME = 32, LINK = 64, UNLINK = 128, MKDIR = 256, READ = 512
};

struct rule {
  uint64_t action, operations, from, times;
  int64_t argument;
  uint64_t seen, hit;
  char part[PATH_PART];
};

struct control {
  uint64_t magic, changed, died;
  char died_path[DIED_PATH];
  struct rule rules[RULES];
};
_Static_assert(sizeof(struct rule) == 256, "the layout is a contract");
_Static_assert(offsetof(struct control, rules) == 128, "the layout is a contract");

static struct control *control;

#define GET(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define ADD(field, n) __atomic_add_fetch(&(field), (n), __ATOMIC_ACQ_REL)

__attribute__((constructor)) static void map_control(void) {
  const char *path = getenv("FAULTS_CONTROL");
  if (!path) return;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
  struct stat found;
  if (fd < 0 || syscall(SYS_fstat, fd, &found) != 0 || found.st_size < (off_t)sizeof(struct control)) {
    static const char text[] = "faults: FAULTS_CONTROL is no control file\n";
    syscall(SYS_write, 2, text, sizeof text - 1);
    _exit(127);
  }
  struct control *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (mapped == MAP_FAILED || mapped->magic != MAGIC) {
    static const char text[] = "faults: the control file is not of this format\n";
    syscall(SYS_write, 2, text, sizeof text - 1);
    _exit(127);
  }
  control = mapped;
}

/* Whether any rule is about this operation: spares everyone else the look for a path. */
static int is_watched(uint64_t operation) {
  if (!control) return 0;
  for (int i = 0; i < RULES; i++)
    if (GET(control->rules[i].action) != 0 && GET(control->rules[i].action) != CLOCK &&
        (GET(control->rules[i].operations) & operation))
      return 1;
  return 0;
}

static const char *path_of(int fd, char *buffer, size_t size) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  long length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, size - 1);
  buffer[length < 0 ? 0 : length] = 0;
  return buffer;
}

static void die(uint64_t operation, const char *path) {
  size_t length = strlen(path);
  const char *end = length >= DIED_PATH ? path + length - DIED_PATH + 1 : path;
  memcpy(control->died_path, end, strlen(end) + 1);
  __atomic_store_n(&control->died, operation, __ATOMIC_RELEASE);
  syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
  for (;;) pause();
}

/* What the rules want of one call. */
struct verdict {
  int error;          /* not made, with this errno */
  int die_after;      /* made, then the end */
  int die_half;       /* half of a write, then the end */
  struct rule *room;  /* what it grows by is taken from here */
};

static struct verdict judge(uint64_t operation, const char *path) {
  struct verdict verdict = {0, 0, 0, NULL};
  for (int i = 0; i < RULES; i++) {
    struct rule *rule = &control->rules[i];
    uint64_t action = GET(rule->action);
    if (action == 0 || action == CLOCK || !(GET(rule->operations) & operation)) continue;
    if (rule->part[0] && !strstr(path, rule->part)) continue;
    if (!rule->part[0] && path[0] != '/') continue;
    uint64_t seen = ADD(rule->seen, 1);
    uint64_t from = GET(rule->from), times = GET(rule->times);
    if (seen < from || (times && seen >= from + times)) continue;
    if (action != ROOM && action != COUNT) {
      ADD(rule->hit, 1);
      ADD(control->changed, 1);
    }
    switch (action) {
      case FAIL: verdict.error = (int)rule->argument; return verdict;
      case DELAY: {
        struct timespec left = {rule->argument / 1000000, rule->argument % 1000000 * 1000};
        while (syscall(SYS_nanosleep, &left, &left) != 0 && errno == EINTR) {}
        break;
      }
      case BEFORE: die(operation, path); break;
      case AFTER: verdict.die_after = 1; break;
      case HALF:
        if (operation != WRITE) die(operation, path);
        verdict.die_half = 1;
        break;
      case ROOM: verdict.room = rule; break;
      default: break;
    }
  }
  return verdict;
}

static void refused(struct rule *rule) {
  ADD(rule->hit, 1);
  ADD(control->changed, 1);
}

/* How many of the bytes at this place there is room for, taken at once. */
static size_t take_room(struct rule *rule, int fd, off_t at, size_t bytes) {
  struct stat file;
  if (syscall(SYS_fstat, fd, &file) != 0 || !S_ISREG(file.st_mode)) return bytes;
  if (at < 0) at = file.st_size;
  int64_t grows = at + (int64_t)bytes - file.st_size;
  if (grows <= 0) return bytes;
  int64_t left = __atomic_load_n(&rule->argument, __ATOMIC_ACQUIRE);
  for (;;) {
    int64_t taken = left < grows ? (left < 0 ? 0 : left) : grows;
    if (__atomic_compare_exchange_n(&rule->argument, &left, left - taken, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      int64_t fits = (int64_t)bytes - (grows - taken);
      if (fits < (int64_t)bytes) refused(rule);
      return fits < 0 ? 0 : (size_t)fits;
    }
  }
}

static void give_room(struct rule *rule, off_t bytes) {
  if (rule && bytes > 0) __atomic_add_fetch(&rule->argument, bytes, __ATOMIC_ACQ_REL);
}

static int has_room(struct rule *rule) {
  if (!rule || __atomic_load_n(&rule->argument, __ATOMIC_ACQUIRE) > 0) return 1;
  refused(rule);
  return 0;
}

#define REAL(name)                                                                    \
  static __typeof__(name) *real;                                                      \
  if (!real) {                                                                        \
    int kept = errno;                                                                 \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                               \
    errno = kept;                                                                     \
  }

#define FINISH(operation, path)                                                       \
  do {                                                                                \
    if (verdict.die_after) die((operation), (path));                                  \
  } while (0)

/* --- sync --- */

#define SYNC_HOOK(name)                                                               \
  int name(int fd) {                                                                  \
    REAL(name)                                                                        \
    if (!is_watched(SYNC)) return real(fd);                                           \
    char buffer[PATH_MAX];                                                            \
    int kept = errno;                                                                 \
    const char *path = path_of(fd, buffer, sizeof buffer);                            \
    struct verdict verdict = judge(SYNC, path);                                       \
    if (verdict.error) { errno = verdict.error; return -1; }                          \
    errno = kept;                                                                     \
    int done = real(fd);                                                              \
    FINISH(SYNC, path);                                                               \
    return done;                                                                      \
  }
SYNC_HOOK(fsync)
SYNC_HOOK(fdatasync)

/* --- write --- */

/* Judges a write of `bytes` at `at` (-1: at the descriptor's own place). Returns how many may be written, or -1. */
static ssize_t admit(struct verdict *verdict, const char **path, char *buffer, int fd, off_t at, size_t bytes) {
  int kept = errno;
  *path = path_of(fd, buffer, PATH_MAX);
  *verdict = judge(WRITE, *path);
  if (verdict->error) { errno = verdict->error; return -1; }
  size_t fits = bytes;
  if (verdict->room && bytes > 0) {
    if (at < 0) {
      int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
      at = flags & O_APPEND ? -1 : (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    fits = take_room(verdict->room, fd, at, bytes);
    if (fits == 0) { errno = ENOSPC; return -1; }
  }
  if (verdict->die_half) fits = (fits + 1) / 2;
  errno = kept;
  return (ssize_t)fits;
}

#define WRITTEN()                                                                     \
  do {                                                                                \
    if (verdict.die_half || verdict.die_after) die(WRITE, path);                      \
  } while (0)

ssize_t write(int fd, const void *bytes, size_t count) {
  REAL(write)
  if (!is_watched(WRITE)) return real(fd, bytes, count);
  char buffer[PATH_MAX];
  const char *path;
  struct verdict verdict;
  ssize_t fits = admit(&verdict, &path, buffer, fd, -1, count);
  if (fits < 0) return -1;
  ssize_t done = real(fd, bytes, (size_t)fits);
  WRITTEN();
  return done;
}

#define PWRITE_HOOK(name, offset)                                                     \
  ssize_t name(int fd, const void *bytes, size_t count, offset at) {                  \
    REAL(name)                                                                        \
    if (!is_watched(WRITE)) return real(fd, bytes, count, at);                        \
    char buffer[PATH_MAX];                                                            \
    const char *path;                                                                 \
    struct verdict verdict;                                                           \
    ssize_t fits = admit(&verdict, &path, buffer, fd, at, count);                     \
    if (fits < 0) return -1;                                                          \
    ssize_t done = real(fd, bytes, (size_t)fits, at);                                 \
    WRITTEN();                                                                        \
    return done;                                                                      \
  }
PWRITE_HOOK(pwrite, off_t)
PWRITE_HOOK(pwrite64, off64_t)

/* The first vector that is not empty stands for all when not everything may be written: a short write. */
static ssize_t first_only(int fd, const struct iovec *vectors, int count, size_t fits, off_t at) {
  for (int i = 0; i < count; i++) {
    size_t length = vectors[i].iov_len < fits ? vectors[i].iov_len : fits;
    if (length == 0) continue;
    return at < 0 ? syscall(SYS_write, fd, vectors[i].iov_base, length)
                  : syscall(SYS_pwrite64, fd, vectors[i].iov_base, length, at);
  }
  return 0;
}

static size_t length_of(const struct iovec *vectors, int count) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += vectors[i].iov_len;
  return bytes;
}

ssize_t writev(int fd, const struct iovec *vectors, int count) {
  REAL(writev)
  if (!is_watched(WRITE)) return real(fd, vectors, count);
  char buffer[PATH_MAX];
  const char *path;
  struct verdict verdict;
  size_t bytes = length_of(vectors, count);
  ssize_t fits = admit(&verdict, &path, buffer, fd, -1, bytes);
  if (fits < 0) return -1;
  ssize_t done = (size_t)fits == bytes ? real(fd, vectors, count) : first_only(fd, vectors, count, (size_t)fits, -1);
  WRITTEN();
  return done;
}

#define PWRITEV_HOOK(name, offset)                                                    \
  ssize_t name(int fd, const struct iovec *vectors, int count, offset at) {           \
    REAL(name)                                                                        \
    if (!is_watched(WRITE)) return real(fd, vectors, count, at);                      \
    char buffer[PATH_MAX];                                                            \
    const char *path;                                                                 \
    struct verdict verdict;                                                           \
    size_t bytes = length_of(vectors, count);                                         \
    ssize_t fits = admit(&verdict, &path, buffer, fd, at, bytes);                     \
    if (fits < 0) return -1;                                                          \
    ssize_t done = (size_t)fits == bytes ? real(fd, vectors, count, at)               \
                                         : first_only(fd, vectors, count, (size_t)fits, at); \
    WRITTEN();                                                                        \
    return done;                                                                      \
  }
PWRITEV_HOOK(pwritev, off_t)
PWRITEV_HOOK(pwritev64, off64_t)

/* --- read --- */

#define READ_JUDGED(call)                                                             \
  do {                                                                                \
    char buffer[PATH_MAX];                                                            \
    int kept = errno;                                                                 \
    const char *path = path_of(fd, buffer, sizeof buffer);                            \
    struct verdict verdict = judge(READ, path);                                       \
    if (verdict.error) { errno = verdict.error; return -1; }                          \
    errno = kept;                                                                     \
    ssize_t done = (call);                                                            \
    FINISH(READ, path);                                                               \
    return done;                                                                      \
  } while (0)

ssize_t read(int fd, void *bytes, size_t count) {
  REAL(read)
  if (!is_watched(READ)) return real(fd, bytes, count);
  READ_JUDGED(real(fd, bytes, count));
}
ssize_t pread(int fd, void *bytes, size_t count, off_t at) {
  REAL(pread)
  if (!is_watched(READ)) return real(fd, bytes, count, at);
  READ_JUDGED(real(fd, bytes, count, at));
}
ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
  REAL(pread64)
  if (!is_watched(READ)) return real(fd, bytes, count, at);
  READ_JUDGED(real(fd, bytes, count, at));
}

/* --- open: judged when it may create or cut, else it only looks --- */

static int opened(const char *path, int flags, struct verdict *verdict) {
  int kept = errno;
  *verdict = judge(OPEN, path);
  struct stat file;
  int found = syscall(SYS_newfstatat, AT_FDCWD, path, &file, 0) == 0;
  if (!verdict->error && (flags & O_CREAT) && !found && !has_room(verdict->room)) verdict->error = ENOSPC;
  if (verdict->error) { errno = verdict->error; return -1; }
  if (found && (flags & O_TRUNC) && S_ISREG(file.st_mode)) give_room(verdict->room, file.st_size);
  errno = kept;
  return 0;
}

#define MODE()                                                                        \
  mode_t mode = 0;                                                                    \
  if (flags & (O_CREAT | __O_TMPFILE)) {                                              \
    va_list rest;                                                                     \
    va_start(rest, flags);                                                            \
    mode = va_arg(rest, mode_t);                                                      \
    va_end(rest);                                                                     \
  }

#define OPEN_HOOK(name)                                                               \
  int name(const char *path, int flags, ...) {                                        \
    MODE()                                                                            \
    static int (*real)(const char *, int, ...);                                       \
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);       \
    if (!is_watched(OPEN)) return real(path, flags, mode);                   \
    struct verdict verdict;                                                           \
    if (opened(path, flags, &verdict) != 0) return -1;                                \
    int done = real(path, flags, mode);                                               \
    FINISH(OPEN, path);                                                               \
    return done;                                                                      \
  }
OPEN_HOOK(open)
OPEN_HOOK(open64)

#define OPENAT_HOOK(name)                                                             \
  int name(int folder, const char *path, int flags, ...) {                            \
    MODE()                                                                            \
    static int (*real)(int, const char *, int, ...);                                  \
    if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name);  \
    if (!is_watched(OPEN) || path[0] != '/') return real(folder, path, flags, mode); \
    struct verdict verdict;                                                           \
    if (opened(path, flags, &verdict) != 0) return -1;                                \
    int done = real(folder, path, flags, mode);                                       \
    FINISH(OPEN, path);                                                               \
    return done;                                                                      \
  }
OPENAT_HOOK(openat)
OPENAT_HOOK(openat64)

/* --- size --- */

#define TRUNCATE_HOOK(name, offset)                                                   \
  int name(int fd, offset length) {                                                   \
    REAL(name)                                                                        \
    if (!is_watched(TRUNCATE)) return real(fd, length);                               \
    char buffer[PATH_MAX];                                                            \
    int kept = errno;                                                                 \
    const char *path = path_of(fd, buffer, sizeof buffer);                            \
    struct verdict verdict = judge(TRUNCATE, path);                                   \
    if (verdict.error) { errno = verdict.error; return -1; }                          \
    struct stat file;                                                                 \
    if (verdict.room && syscall(SYS_fstat, fd, &file) == 0) give_room(verdict.room, file.st_size - length); \
    errno = kept;                                                                     \
    int done = real(fd, length);                                                      \
    FINISH(TRUNCATE, path);                                                           \
    return done;                                                                      \
  }
TRUNCATE_HOOK(ftruncate, off_t)
TRUNCATE_HOOK(ftruncate64, off64_t)

/* An error number instead of -1 for the two that POSIX named. */
#define ALLOCATE_HOOK(name, parameters, arguments, end, fails)                        \
  int name parameters {                                                               \
    REAL(name)                                                                        \
    if (!is_watched(ALLOCATE)) return real arguments;                                 \
    char buffer[PATH_MAX];                                                            \
    int kept = errno;                                                                 \
    const char *path = path_of(fd, buffer, sizeof buffer);                            \
    struct verdict verdict = judge(ALLOCATE, path);                                   \
    int error = verdict.error;                                                        \
    if (!error && verdict.room && take_room(verdict.room, fd, 0, (size_t)(end)) < (size_t)(end)) error = ENOSPC; \
    if (error) { errno = error; return fails; }                                       \
    errno = kept;                                                                     \
    int done = real arguments;                                                        \
    FINISH(ALLOCATE, path);                                                           \
    return done;                                                                      \
  }
ALLOCATE_HOOK(fallocate, (int fd, int mode, off_t at, off_t length), (fd, mode, at, length), at + length, -1)
ALLOCATE_HOOK(fallocate64, (int fd, int mode, off64_t at, off64_t length), (fd, mode, at, length), at + length, -1)
ALLOCATE_HOOK(posix_fallocate, (int fd, off_t at, off_t length), (fd, at, length), at + length, error)
ALLOCATE_HOOK(posix_fallocate64, (int fd, off64_t at, off64_t length), (fd, at, length), at + length, error)

/* --- names --- */

static int is_new(const char *path) {
  struct stat file;
  return syscall(SYS_newfstatat, AT_FDCWD, path, &file, AT_SYMLINK_NOFOLLOW) != 0;
}

/* `named` is the path that counts, `gone` one whose bytes come free. */
#define NAME_HOOK(name, operation, parameters, arguments, named, gone, needs_room)    \
  int name parameters {                                                               \
    REAL(name)                                                                        \
    if (!is_watched(operation)) return real arguments;                                \
    int kept = errno;                                                                 \
    struct verdict verdict = judge((operation), (named));                             \
    if (!verdict.error && (needs_room) && !has_room(verdict.room)) verdict.error = ENOSPC; \
    if (verdict.error) { errno = verdict.error; return -1; }                          \
    struct stat file;                                                                 \
    const char *freed = (gone);                                                       \
    int frees = verdict.room && freed && syscall(SYS_newfstatat, AT_FDCWD, freed, &file, AT_SYMLINK_NOFOLLOW) == 0 && \
                S_ISREG(file.st_mode) && file.st_nlink == 1;                          \
    errno = kept;                                                                     \
    int done = real arguments;                                                        \
    if (done == 0 && frees) give_room(verdict.room, file.st_size);                    \
    FINISH((operation), (named));                                                     \
    return done;                                                                      \
  }
NAME_HOOK(rename, RENAME, (const char *from, const char *to), (from, to), to, to, 0)
NAME_HOOK(renameat, RENAME, (int a, const char *from, int b, const char *to), (a, from, b, to), to, to, 0)
NAME_HOOK(renameat2, RENAME, (int a, const char *from, int b, const char *to, unsigned int flags), (a, from, b, to, flags),
          to, to, 0)
NAME_HOOK(link, LINK, (const char *from, const char *to), (from, to), to, NULL, is_new(to))
NAME_HOOK(linkat, LINK, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), to, NULL,
          is_new(to))
NAME_HOOK(unlink, UNLINK, (const char *path), (path), path, path, 0)
NAME_HOOK(unlinkat, UNLINK, (int folder, const char *path, int flags), (folder, path, flags), path, path, 0)
NAME_HOOK(mkdir, MKDIR, (const char *path, mode_t mode), (path, mode), path, NULL, is_new(path))
NAME_HOOK(rmdir, MKDIR, (const char *path), (path), path, NULL, 0)

/* --- clock --- */

static int64_t shift(void) {
  if (!control) return 0;
  for (int i = 0; i < RULES; i++)
    if (GET(control->rules[i].action) == CLOCK) return __atomic_load_n(&control->rules[i].argument, __ATOMIC_ACQUIRE);
  return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, now);
  int64_t by = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? shift() : 0;
  if (done == 0 && by != 0) {
    int64_t micros = now->tv_sec * 1000000 + now->tv_nsec / 1000 + by;
    now->tv_sec = micros / 1000000;
    now->tv_nsec = micros % 1000000 * 1000;
  }
  return done;
}

int gettimeofday(struct timeval *now, void *zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
  int done = real(now, zone);
  int64_t by = shift();
  if (done == 0 && by != 0) {
    int64_t micros = now->tv_sec * 1000000 + now->tv_usec + by;
    now->tv_sec = micros / 1000000;
    now->tv_usec = micros % 1000000;
  }
  return done;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
