/* Both ends of the console's benchmarks, and the least that a relay can do; in C so that neither end is the slow one.

   screens display PATH            a VNC server: RFB 3.8, VNC authentication (any answer will do), then it does what the
                                   client's update requests say: x=0 answer y bytes; x=1 send w MiB in writes of y KiB;
                                   x=2 send y bytes, the time first, every w ms from now on
   screens awake                   keeps its core from sleeping
   screens relay PORT PATH BYTES   TCP to UNIX by splice(2), one process: the bare limit. Reads so much at once, 0: 256 KiB
   screens bulk|echo|new|hold|tick ADDRESS KIND ...   the browser's end, see main(). KIND is raw, or ws with a file of
                                   header lines, one for each connection (used in turn)
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef unsigned char byte;

static void die(const char *what) { fprintf(stderr, "screens: %s: %s\n", what, strerror(errno)); exit(1); }

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static unsigned be16(const byte *at) { return at[0] << 8 | at[1]; }

/* --- display ---------------------------------------------------------------------------------------------------- */

struct screen { int fd, state, have, every, size; uint64_t due; size_t owed, piece; byte said[64]; };

static struct screen *screens[8192];
static byte big[1 << 20];

static void tell(struct screen *s, const void *data, size_t size) {
  if (write(s->fd, data, size) < 0 && errno != EAGAIN) s->state = -1;
}

static void pour(struct screen *s, int epoll) {
  while (s->owed) {
    ssize_t sent = write(s->fd, big, s->owed < s->piece ? s->owed : s->piece);
    if (sent < 0) { if (errno != EAGAIN) { s->state = -1; s->owed = 0; } break; }
    s->owed -= sent;
  }
  struct epoll_event event = {.events = EPOLLIN | (s->owed ? EPOLLOUT : 0), .data.fd = s->fd};
  epoll_ctl(epoll, EPOLL_CTL_MOD, s->fd, &event);
}

static const byte server_init[28] = {2, 128, 1, 224, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0, 0, 0, 0, 4, 'b', 'e', 'n', 'c'};

static void obey(struct screen *s, int epoll) {
  switch (s->state++) {
  case 0: tell(s, "\1\2", 2); break;
  case 1: tell(s, "0123456789abcdef", 16); break;
  case 2: tell(s, "\0\0\0\0", 4); break;
  case 3: tell(s, server_init, sizeof server_init); break;
  default: {
    unsigned what = be16(s->said + 2), y = be16(s->said + 4), w = be16(s->said + 6);
    s->state = 4;
    if (what == 0) tell(s, big, y);
    if (what == 1) { s->owed = (size_t)w << 20; s->piece = (size_t)y << 10; pour(s, epoll); }
    if (what == 2) { s->every = w; s->size = y; s->due = now_ns() + (uint64_t)w * 1000000 * (s->fd % 97) / 97; }
  }
  }
}

static void display(const char *path) {
  static const int need[] = {12, 1, 16, 1, 10};
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  strncpy(name.sun_path, path, sizeof name.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0), ticking = 0, top = 0;
  if (bind(listener, (void *)&name, sizeof name) || listen(listener, 4096)) die(path);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, found[256];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int count = epoll_wait(epoll, found, 256, ticking ? 1 : -1);
    for (int i = 0; i < count; i++) {
      int fd = found[i].data.fd;
      if (fd == listener) {
        while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
          if (fd >= 8192) { close(fd); continue; }
          if (fd >= top) top = fd + 1;
          screens[fd] = calloc(1, sizeof(struct screen));
          screens[fd]->fd = fd;
          event.data.fd = fd; event.events = EPOLLIN;
          epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
          tell(screens[fd], "RFB 003.008\n", 12);
        }
        continue;
      }
      struct screen *s = screens[fd];
      if (found[i].events & EPOLLOUT) pour(s, epoll);
      if (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t got;
        while (s->state >= 0 && (got = read(fd, s->said + s->have, need[s->state] - s->have)) > 0) {
          s->have += got;
          if (s->have == need[s->state]) { s->have = 0; obey(s, epoll); }
          ticking |= s->every > 0;
        }
        if (s->state < 0 || got == 0 || (got < 0 && errno != EAGAIN)) { close(fd); free(s); screens[fd] = 0; }
      }
    }
    if (!ticking) continue;
    uint64_t now = now_ns();
    for (int fd = 0; fd < top; fd++) {
      struct screen *s = screens[fd];
      if (!s || !s->every || s->due > now) continue;
      s->due += s->every * 1000000ull;
      uint64_t stamp = now_ns();
      memcpy(big, &stamp, 8);
      tell(s, big, s->size);
    }
  }
}

/* --- the bare relay --------------------------------------------------------------------------------------------- */

struct way { int from, to, in, out; size_t inside; struct way *back; };

static size_t at_once = 1 << 18;

static int flow(struct way *w) { /* 0 when the way is over */
  for (;;) {
    ssize_t got = w->inside ? 0 : splice(w->from, 0, w->in, 0, at_once, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got == 0 && !w->inside) return 0;
    if (got < 0) return errno == EAGAIN;
    w->inside += got;
    ssize_t sent = splice(w->out, 0, w->to, 0, w->inside, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (sent < 0) return errno == EAGAIN;
    w->inside -= sent;
  }
}

static void relay(int port, const char *path) {
  int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) die("bind");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = 0}, found[64];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int count = epoll_wait(epoll, found, 64, -1);
    for (int i = 0; i < count; i++) {
      struct way *w = found[i].data.ptr;
      if (!w) {
        int fd;
        while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
          struct sockaddr_un name = {.sun_family = AF_UNIX};
          strncpy(name.sun_path, path, sizeof name.sun_path - 1);
          int other = socket(AF_UNIX, SOCK_STREAM, 0), pipes[2][2];
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
          if (connect(other, (void *)&name, sizeof name) || pipe2(pipes[0], O_NONBLOCK) || pipe2(pipes[1], O_NONBLOCK)) die("connect");
          fcntl(other, F_SETFL, O_NONBLOCK);
          fcntl(pipes[0][1], F_SETPIPE_SZ, 1 << 18);
          struct way *up = malloc(sizeof *up), *down = malloc(sizeof *down);
          *down = (struct way){other, fd, pipes[0][1], pipes[0][0], 0, up};
          *up = (struct way){fd, other, pipes[1][1], pipes[1][0], 0, down};
          event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = up};
          epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
          event.data.ptr = down;
          epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event);
        }
        continue;
      }
      if (w->from < 0) continue;
      if (flow(w) && flow(w->back)) continue;
      int ends[] = {w->from, w->to, w->in, w->out, w->back->in, w->back->out};
      for (int k = 0; k < 6; k++) close(ends[k]);
      w->from = w->back->from = -1; /* A few bytes stay; an event of this round may still name them. */
    }
  }
}

/* --- the browser's end ------------------------------------------------------------------------------------------ */

struct peer { int fd, ws; size_t left; };

static struct sockaddr_in there;
static char **lines;
static int line_count, line_next, is_ws;

static void all(int fd, byte *data, size_t size) {
  for (size_t at = 0; at < size;) {
    ssize_t got = recv(fd, data + at, size - at, MSG_WAITALL);
    if (got <= 0) die(got ? "recv" : "closed by the other side");
    at += got;
  }
}

static void frame_begin(struct peer *p) {
  byte head[10];
  for (;;) {
    all(p->fd, head, 2);
    p->left = head[1];
    if (head[1] == 126) { all(p->fd, head + 2, 2); p->left = be16(head + 2); }
    if (head[1] == 127) { all(p->fd, head + 2, 8); p->left = 0; for (int i = 2; i < 10; i++) p->left = p->left << 8 | head[i]; }
    if ((head[0] & 15) == 8) { byte why[128] = {0}; all(p->fd, why, p->left); fprintf(stderr, "screens: closed: %s\n", why + 2); exit(1); }
    if ((head[0] & 15) == 2 && p->left) return;
    byte skipped[128];
    all(p->fd, skipped, p->left);
  }
}

static void hear(struct peer *p, byte *data, size_t size) {
  while (size) {
    size_t part = size;
    if (p->ws) { if (!p->left) frame_begin(p); if (part > p->left) part = p->left; p->left -= part; }
    all(p->fd, data, part);
    data += part; size -= part;
  }
}

static void say(struct peer *p, const void *data, size_t size) {
  byte out[256] = {0x82, 0x80 | size, 1, 2, 3, 4};
  size_t head = p->ws ? 6 : 0;
  for (size_t i = 0; i < size; i++) out[head + i] = ((const byte *)data)[i] ^ (p->ws ? out[2 + i % 4] : 0);
  if (send(p->fd, out, head + size, MSG_NOSIGNAL) != (ssize_t)(head + size)) die("send");
}

static struct peer join(void) {
  static byte heard[65536];
  struct peer p = {socket(AF_INET, SOCK_STREAM, 0), is_ws, 0};
  int yes = 1;
  if (connect(p.fd, (void *)&there, sizeof there)) die("connect");
  setsockopt(p.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (p.ws) {
    char request[4096];
    int size = snprintf(request, sizeof request,
      "GET /ws/console/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n%s\r\n\r\n", lines[line_next++ % line_count]);
    if (send(p.fd, request, size, MSG_NOSIGNAL) != size) die("send");
    size_t at = 0;
    do { all(p.fd, heard + at, 1); at++; } while (at < 4 || memcmp(heard + at - 4, "\r\n\r\n", 4));
    if (memcmp(heard + 9, "101", 3)) { fprintf(stderr, "screens: %.40s\n", heard); exit(1); }
  }
  hear(&p, heard, 12);
  say(&p, "RFB 003.008\n", 12);
  hear(&p, heard, 1);
  hear(&p, heard + 1, heard[0]);
  say(&p, heard + 1, 1);
  if (heard[1] == 2) { hear(&p, heard, 16); say(&p, "fedcba9876543210", 16); }
  hear(&p, heard, 4);
  say(&p, "\1", 1);
  hear(&p, heard, 24);
  hear(&p, heard + 24, heard[23]);
  return p;
}

static void ask(struct peer *p, int x, int y, int w) {
  byte message[10] = {3, 1, x >> 8, x, y >> 8, y, w >> 8, w, 0, 0};
  say(p, message, 10);
}

static int upwards(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void shares(double *values, int count) {
  qsort(values, count, sizeof *values, upwards);
  printf("{\"p50\": %.9f, \"p99\": %.9f, \"count\": %d}\n", values[count / 2], values[count * 99 / 100], count);
}

static void bulk(int kib, int mib) {
  struct peer p = join();
  size_t total = (size_t)mib << 20, heard = 0;
  uint64_t began = now_ns();
  ask(&p, 1, kib, mib);
  while (heard < total) { /* Frame headers count as well: some ten bytes in a piece. The kernel drops what it has. */
    ssize_t got = recv(p.fd, 0, 1 << 20, MSG_TRUNC);
    if (got <= 0) die("bulk");
    heard += got;
  }
  printf("{\"seconds\": %.6f}\n", (now_ns() - began) / 1e9);
}

static void *greet_one(void *listener) {
  static int fd;
  static byte said[16];
  fd = accept(*(int *)listener, 0, 0);
  if (fd < 0) die("accept");
  if (write(fd, "RFB 003.008\n", 12) < 0) die("greet");
  all(fd, said, 12);
  if (write(fd, "\1\2", 2) < 0) die("greet");
  all(fd, said, 1);
  if (write(fd, "0123456789abcdef", 16) < 0) die("greet");
  all(fd, said, 16);
  if (write(fd, "\0\0\0\0", 4) < 0) die("greet");
  all(fd, said, 1);
  if (write(fd, server_init, sizeof server_init) < 0) die("greet");
  return &fd;
}

/* Display and browser in one: they only ever act in turn, and a switch between two programs on one core would count as
   the relay's time. For as long as it lasts this process listens in the display's place. */
static void echo(int count, const char *path) {
  static byte heard[1024], said[10];
  char own[200], kept[200];
  if (strlen(path) > 90) die("the display's path is too long");
  snprintf(own, sizeof own, "%s.own", path);
  snprintf(kept, sizeof kept, "%s.kept", path);
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  strncpy(name.sun_path, own, sizeof name.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0), *display;
  pthread_t greeter;
  if (bind(listener, (void *)&name, sizeof name) || listen(listener, 8)) die(own);
  if (link(path, kept) || rename(own, path)) die(path);
  pthread_create(&greeter, 0, greet_one, &listener);
  struct peer p = join();
  pthread_join(greeter, (void **)&display);
  if (rename(kept, path)) die(path);
  double *took = malloc(count * sizeof *took);
  for (int i = -200; i < count; i++) {
    uint64_t began = now_ns();
    ask(&p, 0, 1024, 0);
    all(*display, said, 10);
    if (write(*display, big, 1024) != 1024) die("echo");
    hear(&p, heard, 1024);
    if (i >= 0) took[i] = (now_ns() - began) / 1e9;
  }
  shares(took, count);
}

static void fresh(int count, int at_once) {
  uint64_t began = now_ns();
  for (int k = 0; k < at_once; k++) {
    line_next = k * (count / at_once);
    if (fork()) continue;
    for (int i = 0; i < count / at_once; i++) { struct peer p = join(); close(p.fd); }
    fflush(stdout);
    _exit(0);
  }
  for (int k = 0, status; k < at_once; k++) { wait4(-1, &status, 0, 0); if (status) exit(1); }
  printf("{\"seconds\": %.6f}\n", (now_ns() - began) / 1e9);
}

static void hold(int count) {
  for (int i = 0; i < count; i++) join();
  printf("{\"held\": %d}\n", count);
  fflush(stdout);
  getchar();
}

static void tick(int count, int seconds, int size, int every) {
  struct peer *peers = calloc(count, sizeof *peers);
  int epoll = epoll_create1(0), most = count * (seconds + 3) * 1000 / every, got = 0;
  double *took = malloc(most * sizeof *took);
  byte *heard = malloc(size);
  for (int i = 0; i < count; i++) {
    peers[i] = join();
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    epoll_ctl(epoll, EPOLL_CTL_ADD, peers[i].fd, &event);
  }
  printf("{\"ready\": %d}\n", count);
  fflush(stdout);
  for (int i = 0; i < count; i++) ask(&peers[i], 2, size, every);
  uint64_t began = now_ns(), warm = began + 1000000000ull, end = warm + seconds * 1000000000ull;
  struct epoll_event found[256];
  while (now_ns() < end) {
    int ready = epoll_wait(epoll, found, 256, 100);
    for (int i = 0; i < ready; i++) {
      struct peer *p = &peers[found[i].data.u32];
      uint64_t sent;
      hear(p, heard, size);
      memcpy(&sent, heard, 8);
      if (sent > warm && got < most) took[got++] = (now_ns() - sent) / 1e9;
    }
  }
  shares(took, got);
}

/* Only when nobody else wants the core, which for that reason never sleeps: a virtual one takes longer to wake up than
   a relay takes to answer. */
static void stay_awake(void) {
  struct sched_param none = {0};
  if (sched_setscheduler(0, SCHED_IDLE, &none)) die("sched_setscheduler");
  for (;;) __asm__ volatile("" ::: "memory");
}

int main(int argc, char **argv) {
  struct rlimit many = {8192, 8192};
  setrlimit(RLIMIT_NOFILE, &many);
  signal(SIGPIPE, SIG_IGN);
  if (argc == 2 && !strcmp(argv[1], "awake")) stay_awake();
  if (argc == 3 && !strcmp(argv[1], "display")) display(argv[2]);
  if (argc == 5 && !strcmp(argv[1], "relay")) { if (atoi(argv[4])) at_once = atoi(argv[4]); relay(atoi(argv[2]), argv[3]); }
  if (argc < 4) { fprintf(stderr, "screens: see the comment in screens.c\n"); return 2; }
  there = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  is_ws = strcmp(argv[3], "raw") != 0;
  if (is_ws) {
    FILE *file = fopen(argv[3], "r");
    static char line[4096];
    if (!file) die(argv[3]);
    while (fgets(line, sizeof line, file)) {
      size_t size = strcspn(line, "\n");
      line[size] = 0;
      for (char *bar; (bar = strchr(line, '|'));) { memmove(bar + 2, bar + 1, strlen(bar)); memcpy(bar, "\r\n", 2); }
      lines = realloc(lines, (line_count + 1) * sizeof *lines);
      lines[line_count++] = strdup(line);
    }
  }
  int a = argc > 4 ? atoi(argv[4]) : 0, b = argc > 5 ? atoi(argv[5]) : 0, c = argc > 6 ? atoi(argv[6]) : 0, d = argc > 7 ? atoi(argv[7]) : 0;
  if (!strcmp(argv[1], "bulk")) bulk(a, b);
  if (!strcmp(argv[1], "echo")) echo(a, argv[5]);
  if (!strcmp(argv[1], "new")) fresh(a, b);
  if (!strcmp(argv[1], "hold")) hold(a);
  if (!strcmp(argv[1], "tick")) tick(a, b, c, d);
  return 0;
}
