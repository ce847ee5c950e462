// The provider of the benchmark: one thread, epoll, keep-alive, nothing but memory to answer from.
//
//   upstream PIECES       listens on a free port of 127.0.0.1 and prints it
//
// PIECES (made by payloads.py) holds whole runs of bytes, each after its length as a little-endian u32: first the plain answer with
// its head, then the events of a stream, the first with the head and the last with the end of the body. Sixteen '#' in a piece stand
// for the number of the request, which the prompt brings as "Call NUMBER": so whoever asked can tell its answer from another's.
// Sixteen '@' stand for the moment it is sent, in microseconds of the monotonic clock: so whoever reads it can tell how long it took.
//
// Of a stream one event is written per turn of the loop: streams that run at once take turns. "pace-MS" in the prompt puts MS
// milliseconds between two events; without it they come as fast as the connection takes them.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 32768, PIECES = 4096, ROOM = 65536, DIGITS = 16 };
enum { RETRY = 1000000, LEAST_WAIT = 100000 };  // ns: until a full connection is tried again; so that it wakes 10,000 times a second at most

typedef struct {
    char *bytes;
    uint32_t length;
    int64_t number_at, stamp_at;  // where the number and the moment belong; -1: nowhere
} piece;

typedef struct {
    int fd;
    int next;  // the event to write next; 0: no stream runs, for piece 0 is the plain answer
    int place;  // in `streaming`
    int64_t gap;
    size_t have, from, to;  // bytes read and not answered; bytes of `out` not yet written
    char number[DIGITS];
    char in[ROOM], out[ROOM];
} connection;

typedef struct {
    int64_t due;
    connection *of;
} turn_of;

static piece pieces[PIECES];
static int piece_count, streams, poller;
static turn_of streaming[MOST];  // a heap: whoever is due first comes first

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
        char *mark = memmem(bytes, length, "################", DIGITS), *stamp = memmem(bytes, length, "@@@@@@@@@@@@@@@@", DIGITS);
        pieces[piece_count] = (piece){bytes, length, mark ? mark - bytes : -1, stamp ? stamp - bytes : -1};
    }
    fclose(file);
}

static void set(int place, turn_of turn) {
    streaming[place] = turn;
    turn.of->place = place;
}

// Put a turn where it belongs, from `place` on, which is free.
static void settle(int place, turn_of turn) {
    for (int above; place && streaming[above = (place - 1) / 2].due > turn.due; place = above) set(place, streaming[above]);
    for (int below; (below = 2 * place + 1) < streams; place = below) {
        if (below + 1 < streams && streaming[below + 1].due < streaming[below].due) below++;
        if (streaming[below].due >= turn.due) break;
        set(place, streaming[below]);
    }
    set(place, turn);
}

static void stop_streaming(connection *c) {
    if (!c->next) return;
    turn_of last = streaming[--streams];
    if (last.of != c) settle(c->place, last);
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
    if (p->stamp_at >= 0) {
        int64_t left = now() / 1000;
        for (char *digit = c->out + p->stamp_at + DIGITS; digit-- > c->out + p->stamp_at; left /= 10) *digit = '0' + left % 10;
    }
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
    settle(streams++, (turn_of){now() + (c->gap ? (int64_t)(rand() % (c->gap / 1000)) * 1000 : 0), c});
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

// One event for every stream that is due. Returns for how many ns nothing will be; -1: until somebody asks.
static int64_t turn(void) {
    int64_t t = now();
    while (streams && streaming[0].due <= t) {
        connection *c = streaming[0].of;
        if (c->from < c->to) flush(c);
        if (c->from < c->to) {
            settle(0, (turn_of){t + RETRY, c});
            continue;
        }
        if (c->next < piece_count) put(c, &pieces[c->next++]);
        if (c->next < piece_count || c->from < c->to) {
            settle(0, (turn_of){c->gap ? streaming[0].due + c->gap : t + 1, c});
        } else {
            stop_streaming(c);
            requests(c);
        }
    }
    if (!streams) return -1;
    int64_t wait = streaming[0].due - now();
    return wait <= 1 ? 0 : wait < LEAST_WAIT ? LEAST_WAIT : wait;
}

static int events(struct epoll_event *ready, int most, int64_t wait) {
    struct timespec pause = {wait / 1000000000, wait % 1000000000};
    if (wait > 0) ppoll(&(struct pollfd){poller, POLLIN, 0}, 1, &pause, 0);  // epoll_wait itself knows nothing below a millisecond
    return epoll_wait(poller, ready, most, wait < 0 ? -1 : 0);
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
        int found = events(ready, 256, turn());
        for (int i = 0; i < found; i++) {
            if (ready[i].data.ptr)
                readable(ready[i].data.ptr);
            else
                welcome(listener);
        }
    }
}
