// The clients of many streams at once: one thread, epoll, keep-alive, a closed loop per connection.
//
//   slow PORT STREAMS SECONDS FIRST STAMPS RAMP_MS END < REQUEST
//
// REQUEST is a whole HTTP request (made by payloads.py) in which sixteen '#' stand for a number: FIRST for the first request sent, one
// more for each further one. STREAMS connections are opened over RAMP_MS; each asks, reads its stream to the end, and asks again.
// After RAMP_MS comes a window of SECONDS: events that arrive in it count. Then nothing new is sent, and the streams that run are
// read to their end.
//
// Events are known by the stamp they carry, whatever format they come in: "t=MICROSECONDS;" says when the upstream sent them, by the
// same clock as is read here. A whole stream has status 200, STAMPS of them, its own number, and END as its last line that is not
// empty. Anything else is an error: its connection is closed, and another one opened in its place.
//
// Prints one line of JSON: asked, answers, errors and the first of them in words, events and on_time (within 20 ms) of the window,
// seconds of it, p50_us, p99_us and most_us of the delay per event.
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

enum { ROOM = 65536, HEAD = 8192, LINE = 2048, REQUEST = 65536, DIGITS = 16, ON_TIME = 20000, MOST_ERRORS = 100 };
static const int64_t PATIENCE = 30000000;  // µs, without a byte from anybody

enum framing { SIZE_LINE, DATA, AFTER_DATA, TRAILER };

typedef struct {
    int fd;  // -1: not connected
    int status, stamps, own;  // of the answer; status 0: its head has not come whole
    enum framing expected;
    size_t left;  // of a chunk
    size_t held;  // bytes of the head, or of a line, or of a chunk's size, that wait for the rest
    size_t last;  // length of `ending`
    char number[DIGITS + 1];
    char head[HEAD], line[LINE], ending[64];
} client;

static char request[REQUEST];
static size_t request_size;
static char *request_number;
static const char *ending;
static uint64_t first, asked, answers, errors;
static char what[512];
static int port, stamps, poller, running;
static int64_t from, until;  // the window, µs
static uint64_t events, on_time;
static uint32_t *delays;
static size_t delay_room;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void start(client *c);

static void failed(client *c, const char *why) {
    if (!errors++) {
        snprintf(what, sizeof what, "request %s: %s, status %d: %.*s", c->number, why, abs(c->status), (int)c->held, c->line);
        for (char *at = what; *at; at++)
            if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') *at = '\'';  // so that it stands in JSON
    }
    if (errors > MOST_ERRORS) {
        fprintf(stderr, "too many errors; the first: %s\n", what);
        exit(1);
    }
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    running--;
    if (now() < until) start(c);
}

static void ask(client *c) {
    snprintf(c->number, sizeof c->number, "%016" PRIx64, first + asked);
    memcpy(request_number, c->number, DIGITS);
    c->status = c->stamps = c->own = 0;
    c->held = c->last = c->left = 0;
    c->expected = SIZE_LINE;
    running++;
    if (send(c->fd, request, request_size, MSG_NOSIGNAL) == (ssize_t)request_size)
        asked++;
    else
        failed(c, "could not be sent");
}

static void start(client *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&address, sizeof address)) {
        running++;
        failed(c, "no connection");
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event interest = {EPOLLIN, {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &interest);
    ask(c);
}

static void arrived(int64_t sent, int64_t at) {
    if (at < from || at >= until) return;
    if (events == delay_room) delays = realloc(delays, (delay_room = delay_room * 2 + 65536) * sizeof *delays);
    int64_t delay = at > sent ? at - sent : 0;
    delays[events++] = delay;
    on_time += delay < ON_TIME;
}

// A whole line of the body, whatever the format: its stamp, the request's number, and whether it is the last.
static void read_line(client *c, int64_t at) {
    for (char *stamp = c->line; (stamp = memmem(stamp, c->line + c->held - stamp, "t=", 2)); stamp += 2)
        if (c->line + c->held - stamp > DIGITS + 2 && stamp[DIGITS + 2] == ';') {
            c->stamps++;
            arrived(strtoll(stamp + 2, 0, 10), at);
        }
    if (!c->own) c->own = memmem(c->line, c->held, c->number, DIGITS) != 0;
    if (c->held && c->line[c->held - 1] == '\r') c->held--;
    if (c->held) memcpy(c->ending, c->line, c->last = c->held < sizeof c->ending ? c->held : sizeof c->ending);
    c->held = 0;
}

static void read_body(client *c, const char *data, size_t size, int64_t at) {
    while (size) {
        const char *end = memchr(data, '\n', size);
        size_t length = end ? (size_t)(end - data) : size, fits = LINE - c->held < length ? LINE - c->held : length;
        memcpy(c->line + c->held, data, fits);
        c->held += fits;
        if (!end) return;
        read_line(c, at);
        data = end + 1;
        size -= length + 1;
    }
}

static int read_head(client *c, const char **data, size_t *size) {
    size_t taken = HEAD - 1 - c->held < *size ? HEAD - 1 - c->held : *size, before = c->held;
    memcpy(c->head + before, *data, taken);
    c->head[c->held += taken] = 0;
    char *end = memmem(c->head, c->held, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    c->status = atoi(c->head + 9);
    if (!strcasestr(c->head, "\r\ntransfer-encoding: chunked")) c->status = -c->status;  // no stream
    size_t of_it = end + 4 - c->head - before;
    *data += of_it;
    *size -= of_it;
    c->held = c->last = 0;
    return 1;
}

// What has come of an answer. 1 at its end, -1 where it is none of a stream.
static int feed(client *c, const char *data, size_t size, int64_t at) {
    if (!c->status && !read_head(c, &data, &size)) return 0;
    if (c->status != 200) {
        memcpy(c->line, data, c->held = size < LINE ? size : LINE);
        return -1;
    }
    while (size) {
        if (c->expected == DATA) {
            size_t part = size < c->left ? size : c->left;
            read_body(c, data, part, at);
            data += part;
            size -= part;
            if (!(c->left -= part)) c->expected = AFTER_DATA;
            continue;
        }
        char byte = *data++;
        size--;
        if (c->expected == SIZE_LINE && byte != '\n' && byte != '\r') {
            c->left = c->left * 16 + (byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
        } else if (byte == '\n') {
            if (c->expected == TRAILER) return size ? -1 : 1;
            c->expected = c->expected == AFTER_DATA ? SIZE_LINE : c->left ? DATA : TRAILER;
        }
    }
    return 0;
}

static void readable(client *c) {
    static char bytes[ROOM];
    ssize_t got = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got <= 0) {
        failed(c, "the connection was closed");
        return;
    }
    int done = feed(c, bytes, got, now());
    if (!done) return;
    if (done < 0 || c->stamps != stamps || !c->own || c->last < strlen(ending) || memcmp(c->ending, ending, strlen(ending))) {
        failed(c, done < 0 ? "this is no stream" : "the stream is not whole, or another's");
        return;
    }
    answers++;
    running--;
    if (now() < until) ask(c);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(double seconds) {
    qsort(delays, events, sizeof *delays, ascending);
    printf("{\"asked\": %" PRIu64 ", \"answers\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"first_error\": \"%s\", \"events\": %" PRIu64
           ", \"on_time\": %" PRIu64 ", \"seconds\": %.6f, \"p50_us\": %u, \"p99_us\": %u, \"most_us\": %u}\n",
           asked, answers, errors, what, events, on_time, seconds, events ? delays[events / 2] : 0,
           events ? delays[events * 99 / 100] : 0, events ? delays[events - 1] : 0);
}

int main(int count, char **arguments) {
    if (count != 8) return 2;
    port = atoi(arguments[1]);
    int streams = atoi(arguments[2]), opened = 0;
    double seconds = strtod(arguments[3], 0);
    first = strtoull(arguments[4], 0, 10);
    stamps = atoi(arguments[5]);
    int64_t ramp = atoi(arguments[6]) * 1000LL;
    ending = arguments[7];
    request_size = fread(request, 1, sizeof request, stdin);
    request_number = memmem(request, request_size, "################", DIGITS);
    if (!request_number) return 2;
    poller = epoll_create1(0);
    client *all = calloc(streams, sizeof *all);
    int64_t begun = now(), heard = begun;
    from = begun + ramp;
    until = from + (int64_t)(seconds * 1e6);
    for (struct epoll_event ready[256]; opened < streams || running;) {
        int64_t due = ramp ? (now() - begun) * streams / ramp + 1 : streams;
        while (opened < streams && opened < due) start(&all[opened++]);
        int found = epoll_wait(poller, ready, 256, opened < streams ? 1 : 1000);
        if (found) heard = now();
        if (now() - heard > PATIENCE) {
            fprintf(stderr, "%d answers never came\n", running);
            return 1;
        }
        for (int i = 0; i < found; i++) readable(ready[i].data.ptr);
    }
    report(seconds);
    return 0;
}
