// arrivals PORT PATH RATE SECONDS SETTLE: RATE times a second a new connection with one request, for
// SECONDS, of which the first SETTLE do not count. Prints a JSON object: by the answer's status the
// number of answers, milliseconds from connect to answer (p50, p90, p99, p99.9, longest), and the
// percentage that took at most 10 ms. Answers that do not come in time are not counted.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS 65536
#define STATUSES 600

static struct { double begin; int sent; } connections[CONNECTIONS];
static struct { double *took; int number; } answers[STATUSES];  // [0]: connections that broke

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int ascending(const void *one, const void *other) {
  double a = *(const double *)one, b = *(const double *)other;
  return (a > b) - (a < b);
}

static void count(int status, double took, int most) {
  if (!answers[status].took) answers[status].took = malloc(sizeof(double) * most);
  if (answers[status].number < most) answers[status].took[answers[status].number++] = took;
}

int main(int argc, char **arguments) {
  if (argc != 6) return fprintf(stderr, "arrivals PORT PATH RATE SECONDS SETTLE\n"), 2;
  const char *path = arguments[2], *body = "{\"inputs\": \"Bridge collapses after the flood\"}";
  double gap = 1e3 / atof(arguments[3]), seconds = atof(arguments[4]), settle = atof(arguments[5]);
  int most = atof(arguments[3]) * seconds + 1;
  char request[512];
  int size = strcmp(path, "/ping")
    ? sprintf(request, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
              "Connection: close\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body), body)
    : sprintf(request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
  setpriority(PRIO_PROCESS, 0, -19);  // where that is allowed
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

  int poll = epoll_create1(0);
  struct epoll_event events[256];
  double begin = now(), next = begin, end = begin + seconds * 1e3;
  while (now() < end) {
    for (; next <= now(); next += gap) {
      int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
      if (fd < 0 || fd >= CONNECTIONS)
        return fputs("more connections wait than can be opened: the rate is too high\n", stderr), 1;
      connections[fd].begin = now();
      connections[fd].sent = 0;
      connect(fd, (struct sockaddr *)&server, sizeof server);
      struct epoll_event event = {.events = EPOLLOUT, .data.fd = fd};
      epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    }
    double rest = next - now();
    rest = rest < 0 ? 0 : rest < 100 ? rest : 100;
    struct timespec until_next = {.tv_nsec = rest * 1e6};
    int ready = epoll_pwait2(poll, events, 256, &until_next, NULL);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd, status = 0;
      if (!connections[fd].sent && write(fd, request, size) == size) {
        connections[fd].sent = 1;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll, EPOLL_CTL_MOD, fd, &event);
        continue;
      }
      char answer[4096] = "";
      ssize_t got = read(fd, answer, sizeof answer - 1);  // servers send theirs in one piece
      if (got < 0 && errno == EAGAIN) continue;
      if (got > 12) status = atoi(answer + 9);
      if (status < 0 || status >= STATUSES) status = 0;
      if (connections[fd].begin - begin >= settle * 1e3)
        count(status, now() - connections[fd].begin, most);
      close(fd);
    }
  }
  const char *separator = "{";
  for (int status = 0; status < STATUSES; status++) {
    int number = answers[status].number, soon = 0;
    if (!number) continue;
    double *took = answers[status].took;
    qsort(took, number, sizeof *took, ascending);
    while (soon < number && took[soon] <= 10) soon++;
    printf("%s\"%d\": [%d, %.2f, %.2f, %.2f, %.2f, %.2f, %.1f]", separator, status, number,
           took[number / 2], took[number * 9 / 10], took[number * 99 / 100],
           took[(int)(number * .999)], took[number - 1], 100.0 * soon / number);
    separator = ", ";
  }
  puts(*separator == '{' ? "{}" : "}");
}
