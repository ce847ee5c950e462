// The clients of the benchmark: one thread, epoll, keep-alive, a closed loop per connection.
//
//   load PORT CONNECTIONS SECONDS FIRST STEP EVENTS < REQUEST
//
// REQUEST is a whole HTTP request (made by payloads.py) in which sixteen '#' stand for a number: FIRST for the first request sent,
// STEP more for each further one: with 1 no two prompts are alike, with 0 all are. Every answer is read to its end and judged: status 200, framing, the number
// of its own request, and for a stream (EVENTS > 0) the number of events and `[DONE]` as the last. The first wrong one ends the run
// with exit code 1. After SECONDS nothing new is sent, and the answers still due are waited for.
//
// Prints one line of JSON: answers, events, seconds until the last answer, p50_us, p99_us.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 262144, REQUEST = 65536, DIGITS = 16, PATIENCE = 15 };

typedef struct {
    int fd, chunked;
    int64_t started;
    uint64_t number;
    size_t have, head, length;  // bytes read; where the body begins (0: not yet known); its length, when that was announced
    size_t at, size;            // a chunked body: how far it is decoded, and into how many bytes
    char in[ROOM], body[ROOM];
} connection;

static char request[REQUEST];
static size_t request_size;
static char *request_number;
static uint64_t sent, first, step;
static uint64_t answers;
static int events, port;
static int64_t last;
static uint32_t *latencies;
static size_t latency_room;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const connection *c, const char *what) {
    fprintf(stderr, "request %016" PRIx64 ": %s\n", c ? c->number : 0, what);
    if (c) fprintf(stderr, "%.*s\n", (int)(c->have < 600 ? c->have : 600), c->in);
    exit(1);
}

static void ask(connection *c) {
    char digits[DIGITS + 1];
    c->number = first + step * sent++;
    c->have = c->head = c->at = c->size = 0;
    snprintf(digits, sizeof digits, "%016" PRIx64, c->number);
    memcpy(request_number, digits, DIGITS);
    c->started = now();
    if (send(c->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) fail(c, "could not be sent");
}

static void dial(connection *c, int poller) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&address, sizeof address)) fail(c, "no connection");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event interest = {EPOLLIN, {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &interest);
}

static void judge(const connection *c, const char *body, size_t size) {
    char digits[DIGITS + 1];
    snprintf(digits, sizeof digits, "%016" PRIx64, c->number);
    if (!memmem(body, size, digits, DIGITS)) fail(c, "this is another request's answer");
    if (!events) {
        if (body[size - 1] != '}') fail(c, "the answer is not whole");
        return;
    }
    static const char done[] = "\n\ndata: [DONE]\n\n";
    const size_t tail = sizeof done - 1;
    if (size < tail || memcmp(body + size - tail, done, tail)) fail(c, "the stream does not end with [DONE]");
    int found = !memcmp(body, "data: ", 6);
    for (const char *at = body; (at = memmem(at, body + size - at, "\n\ndata: ", 8)); at += 8) found++;
    if (found != events) fail(c, "the stream has another number of events");
}

static void read_head(connection *c) {
    char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!end) return;
    *end = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    c->chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != 0;
    int status = atoi(c->in + 9);
    *end = '\r';
    c->head = c->at = end + 4 - c->in;
    c->length = length ? atoi(length + 17) : 0;
    if (status != 200) fail(c, "the status is not 200");
    if (!c->chunked && !length) fail(c, "the answer has neither a length nor chunks");
}

// Decode the chunks that have come whole. True at the last one.
static int decode(connection *c) {
    for (;;) {
        char *start = c->in + c->at, *line = memchr(start, '\n', c->have - c->at);
        if (!line) return 0;
        size_t chunk = strtoul(start, 0, 16), from = line + 1 - c->in;
        if (c->have < from + chunk + 2) return 0;
        memcpy(c->body + c->size, c->in + from, chunk);
        c->size += chunk;
        c->at = from + chunk + 2;
        if (!chunk) return 1;
    }
}

// True when a whole answer has come and was found right.
static int answered(connection *c) {
    if (!c->head) read_head(c);
    if (!c->head) return 0;
    if (c->chunked ? !decode(c) : c->have < c->head + c->length) return 0;
    size_t end = c->chunked ? c->at : c->head + c->length;
    if (c->have != end) fail(c, "there are bytes after the answer");
    judge(c, c->chunked ? c->body : c->in + c->head, c->chunked ? c->size : c->length);
    return 1;
}

static void note(const connection *c) {
    last = now();
    if (answers == latency_room) latencies = realloc(latencies, (latency_room = latency_room * 2 + 1024) * sizeof *latencies);
    latencies[answers++] = (last - c->started) / 1000;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int count, char **arguments) {
    if (count != 7) return 2;
    port = atoi(arguments[1]);
    int connections = atoi(arguments[2]);
    int64_t window = strtod(arguments[3], 0) * 1e9;
    first = strtoull(arguments[4], 0, 10);
    step = strtoull(arguments[5], 0, 10);
    events = atoi(arguments[6]);
    request_size = fread(request, 1, sizeof request, stdin);
    request_number = memmem(request, request_size, "################", DIGITS);
    if (!request_number) fail(0, "the template has no place for a number");

    int poller = epoll_create1(0);
    connection *all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) dial(&all[i], poller);
    int64_t start = now();
    for (int i = 0; i < connections; i++) ask(&all[i]);

    for (struct epoll_event ready[256]; answers < sent;) {
        int found = epoll_wait(poller, ready, 256, 1000);
        if (now() - start > window + PATIENCE * 1000000000LL) fail(&all[0], "answers never came");
        for (int i = 0; i < found; i++) {
            connection *c = ready[i].data.ptr;
            ssize_t got = recv(c->fd, c->in + c->have, ROOM - 1 - c->have, MSG_DONTWAIT);
            if (got <= 0) fail(c, "the connection was closed");
            c->have += got;
            if (!answered(c)) continue;
            note(c);
            if (last - start < window) ask(c);
        }
    }
    qsort(latencies, answers, sizeof *latencies, ascending);
    printf("{\"answers\": %" PRIu64 ", \"events\": %" PRIu64 ", \"seconds\": %.6f, \"p50_us\": %u, \"p99_us\": %u}\n",
           answers, answers * events, (last - start) / 1e9, latencies[answers / 2], latencies[answers * 99 / 100]);
    return 0;
}
