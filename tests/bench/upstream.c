// The provider of the benchmark: one thread, epoll, keep-alive, nothing but memory to answer from.
//
//   upstream PIECES       listens on a free port of 127.0.0.1 and prints it
//
// PIECES (made by payloads.py) holds whole runs of bytes, each after its length as a little-endian u32: first the plain answer with
// its head, then the events of a stream, the first with the head and the last with the end of the body. Sixteen '#' in a piece stand
// for the number of the request, which the prompt brings as "Call NUMBER": so whoever asked can tell its answer from another's.
//
// Of a stream one event is written per turn of the loop: streams that run at once take turns. "pace-MS" in the prompt puts MS
// milliseconds between two events; without it they come as fast as the connection takes them.
#define _GNU_SOURCE
#include <arpa/inet.h>
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

enum { MOST = 4096, PIECES = 4096, ROOM = 65536, DIGITS = 16 };

typedef struct {
    char *bytes;
    uint32_t length;
    int64_t number_at;  // where the number belongs; -1: nowhere
} piece;

typedef struct {
    int fd;
    int next;  // the event to write next; 0: no stream runs, for piece 0 is the plain answer
    int active;  // place in `streaming`
    int64_t due, gap;
    size_t have, from, to;  // bytes read and not answered; bytes of `out` not yet written
    char number[DIGITS];
    char in[ROOM], out[ROOM];
} connection;

static piece pieces[PIECES];
static int piece_count, streams, poller;
static connection *streaming[MOST];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void load_pieces(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    for (uint32_t length; piece_count < PIECES && fread(&length, 4, 1, file) == 1; piece_count++) {
        char *bytes = malloc(length);
        if (length > ROOM || fread(bytes, 1, length, file) != length) die("a piece is too long or cut off");
        char *mark = memmem(bytes, length, "################", DIGITS);
        pieces[piece_count] = (piece){bytes, length, mark ? mark - bytes : -1};
    }
    fclose(file);
}

static void stop_streaming(connection *c) {
    if (!c->next) return;
    streaming[c->active] = streaming[--streams];
    streaming[c->active]->active = c->active;
    c->next = 0;
}

static void drop(connection *c) {
    stop_streaming(c);
    close(c->fd);
    free(c);
}

// Write what is left in `out`. A full connection is tried again on the next turn; of a broken one the next read tells.
static void flush(connection *c) {
    while (c->from < c->to) {
        ssize_t written = send(c->fd, c->out + c->from, c->to - c->from, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (written < 0) return;
        c->from += written;
    }
}

static void put(connection *c, const piece *p) {
    memcpy(c->out, p->bytes, p->length);
    if (p->number_at >= 0) memcpy(c->out + p->number_at, c->number, DIGITS);
    c->from = 0;
    c->to = p->length;
    flush(c);
}

static void answer(connection *c, char *body, size_t length) {
    char *number = memmem(body, length, "Call ", 5), *pace = memmem(body, length, "pace-", 5);
    if (number) memcpy(c->number, number + 5, DIGITS);
    if (!memmem(body, length, "\"stream\":true", 13)) {
        put(c, &pieces[0]);
        return;
    }
    c->next = 1;
    c->gap = pace ? atoi(pace + 5) * 1000000LL : 0;
    // Paced streams that were asked for together do not beat together.
    c->due = now() + (c->gap ? (int64_t)(rand() % (c->gap / 1000)) * 1000 : 0);
    c->active = streams;
    streaming[streams++] = c;
}

// Answer the requests that have come whole; one after the other, for HTTP/1.1 answers are in order.
static void requests(connection *c) {
    while (!c->next && c->from == c->to) {
        char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
        if (!end) return;
        *end = 0;
        char *header = strcasestr(c->in, "\r\ncontent-length:");
        size_t head = end + 4 - c->in, length = header ? atoi(header + 17) : 0;
        *end = '\r';
        if (c->have < head + length) return;
        answer(c, c->in + head, length);
        c->have -= head + length;
        memmove(c->in, c->in + head + length, c->have);
    }
}

static void readable(connection *c) {
    ssize_t got = recv(c->fd, c->in + c->have, ROOM - 1 - c->have, MSG_DONTWAIT);
    if (got <= 0) {
        drop(c);
        return;
    }
    c->have += got;
    requests(c);
}

static void welcome(int listener) {
    for (int fd, one = 1; (fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        struct epoll_event interest = {EPOLLIN, {.ptr = c}};
        if (fd >= MOST || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &interest)) die("too many connections");
    }
}

// One event for every stream that is due. Returns how long nothing will be, in ms.
static int turn(void) {
    int64_t t = now(), wait = -1;
    for (int i = 0; i < streams; i++) {
        connection *c = streaming[i];
        if (c->from < c->to) flush(c);
        if (c->from == c->to && c->due <= t) {
            put(c, &pieces[c->next]);
            c->due = c->gap ? c->due + c->gap : t;
            if (++c->next == piece_count) {
                stop_streaming(c);
                requests(c);
                i--;
                continue;
            }
        }
        int64_t left = c->from < c->to ? 1000000 : c->due > t ? c->due - t : 0;
        if (wait < 0 || left < wait) wait = left;
    }
    return wait < 0 ? -1 : (int)((wait + 999999) / 1000000);
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    load_pieces(arguments[1]);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, MOST)) die("listen");
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    struct epoll_event interest = {EPOLLIN, {.ptr = 0}}, ready[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &interest);
    for (;;) {
        int found = epoll_wait(poller, ready, 256, turn());
        for (int i = 0; i < found; i++) {
            if (ready[i].data.ptr)
                readable(ready[i].data.ptr);
            else
                welcome(listener);
        }
    }
}
