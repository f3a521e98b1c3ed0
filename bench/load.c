/* Calls an MCP endpoint from many connections and checks every answer (one thread, epoll).
 *
 *   load calls PORT PATH HEADER_FILE [name=value ...]
 *       connections=32 calls=20000   closed loop: each connection sends its next call when it has its answer
 *       rate=0                       open loop: so many calls a second, latency counted from the time they were due
 *       bytes=1024 shape=json500 tool=echo era=legacy|modern
 *       vary=0                       1: a header that differs in every request (X-Request-Id); 2: traceparent
 *       refused=0                    1: 1 % refused traffic, half with a bad token, half with a tool that is denied
 *       obeyed=1                     0: the refused traffic is answered like the rest (a proxy without controls)
 *   load streams PORT PATH HEADER_FILE connections=N
 *       opens N sessions with a silent GET stream each, and holds them
 *
 * HEADER_FILE holds header lines; Authorization goes there, and is spoiled for the calls with a bad token. Each legacy
 * connection makes a session of its own. When everything stands, "ready" is printed and a line on stdin is awaited, so
 * that the caller can read the clock of the server's processes; the result is one line of JSON. Every call has other
 * arguments, another id and one of 32 lengths, written with spaces after colons and commas.
 */
#define _GNU_SOURCE
#include "wire.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

enum { WAITS_INITIALIZE, WAITS_NOTIFIED, IDLE, BUSY, STREAMING };
enum { PLAIN, BAD_TOKEN, DENIED, KINDS };

typedef struct {
    int descriptor, state, kind;
    unsigned long id;
    int64_t due;
    char session[600];
    Buffer in, out;
} Peer;

static struct {
    const char *shape, *tool, *era, *path;
    int port, connections, bytes, vary, refused, obeyed, modern, streams;
    unsigned long calls, rate;
} option = {.shape = "json500", .tool = "echo", .era = "legacy", .connections = 32, .bytes = 1024, .calls = 20000, .obeyed = 1};

static struct {
    unsigned long sent, done, ok, bad_token, denied, wrong, broken, handshakes, events, bytes;
} count;
static char headers[KINDS][8192];
static Peer *peers, **idle;
static int idle_count, poll, standing;
static float *latencies;
static int64_t began, clock_start;
static char first_wrong[400];

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void print(Buffer *out, const char *format, ...) {
    va_list arguments;
    reserve(out, 16384);
    va_start(arguments, format);
    out->size += (size_t)vsnprintf(out->data + out->size, out->room - out->size, format, arguments);
    va_end(arguments);
}

static void write_head(Peer *peer, const char *verb, int kind, size_t length) {
    print(&peer->out, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: doorward-bench/1\r\n", verb, option.path, option.port);
    print(&peer->out, "Accept: %stext/event-stream\r\n", *verb == 'P' ? "application/json, " : "");
    append(&peer->out, headers[kind], strlen(headers[kind]));
    if (option.modern) {
        print(&peer->out, "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: %s\r\n",
              kind == DENIED ? "erase" : option.tool);
    } else if (peer->session[0]) {
        print(&peer->out, "MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: %s\r\n", peer->session);
    } else if (peer->state > WAITS_INITIALIZE) {
        print(&peer->out, "MCP-Protocol-Version: 2025-11-25\r\n");
    }
    if (option.vary == 1) print(&peer->out, "X-Request-Id: %016lx-%lu\r\n", peer->id * 0x9E3779B97F4A7C15ul, peer->id);
    if (option.vary == 2)
        print(&peer->out, "traceparent: 00-%016lx%016lx-%016lx-01\r\n", peer->id * 0x9E3779B97F4A7C15ul, peer->id, ~peer->id);
    if (*verb == 'P') print(&peer->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", length);
    append(&peer->out, "\r\n", 2);
}

static void post(Peer *peer, int kind, const char *body, size_t size) {
    write_head(peer, "POST", kind, size);
    append(&peer->out, body, size);
}

/* A call whose arguments no other call has; the filler is cut differently for each. */
static void write_call(Peer *peer, int kind) {
    static const char *words = "please find the orders of last week, and tell how many of them were late; thank you. ";
    static Buffer body;
    unsigned long id = peer->id, mark = id * 0x9E3779B97F4A7C15ul ^ (unsigned long)began;
    body.size = 0;
    print(&body, "{\"jsonrpc\": \"2.0\", \"id\": %lu, \"method\": \"tools/call\", \"params\": {", id);
    if (option.modern)
        print(&body, "\"_meta\": {\"io.modelcontextprotocol/protocolVersion\": \"2026-07-28\", "
                     "\"io.modelcontextprotocol/clientCapabilities\": {}, "
                     "\"io.modelcontextprotocol/clientInfo\": {\"name\": \"bench\", \"version\": \"1\"}}, ");
    print(&body, "\"name\": \"%s\", \"arguments\": {\"shape\": \"%s\", \"mark\": \"%016lx\", \"count\": %lu, \"text\": \"",
          kind == DENIED ? "erase" : option.tool, option.shape, mark, id % 977);
    size_t wanted = (size_t)option.bytes + mark % 32 - 16, length = strlen(words), start = mark % 61;
    for (size_t i = 0; body.size + 4 < wanted; i++) {
        if (i % 100 == 99) append(&body, "\\n", 2);
        else append(&body, &words[(start + i) % length], 1);
    }
    append(&body, "\"}}}", 4);
    post(peer, kind, body.data, body.size);
}

static void flush(Peer *peer);

static void begin_call(Peer *peer, int64_t due) {
    peer->id = ++count.sent;
    peer->kind = PLAIN;
    if (option.refused && peer->id % 200 == 50) peer->kind = BAD_TOKEN;
    if (option.refused && peer->id % 200 == 150) peer->kind = DENIED;
    peer->due = due;
    peer->state = BUSY;
    write_call(peer, peer->kind);
    flush(peer);
}

static void begin_handshake(Peer *peer) {
    static const char hello[] =
        "{\"jsonrpc\": \"2.0\", \"id\": 0, \"method\": \"initialize\", \"params\": {\"protocolVersion\": \"2025-11-25\", "
        "\"capabilities\": {}, \"clientInfo\": {\"name\": \"bench\", \"version\": \"1\"}}}";
    peer->state = WAITS_INITIALIZE;
    post(peer, PLAIN, hello, sizeof hello - 1);
    flush(peer);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

/* Bytes of the complete response at the front of the buffer; 0 when it is not complete, -1 when it never will be. */
static long whole(Peer *peer, size_t *head_size, int *status, int *chunked) {
    char *data = peer->in.data, *end = memmem(data, peer->in.size, "\r\n\r\n", 4);
    size_t length;
    if (!end) return 0;
    *head_size = (size_t)(end - data) + 4;
    *status = atoi(data + 9);
    const char *field = field_of(data, *head_size, "content-length", &length);
    if (field) {
        size_t total = *head_size + strtoul(field, NULL, 10);
        return peer->in.size >= total ? (long)total : 0;
    }
    if (!field_of(data, *head_size, "transfer-encoding", &length)) return *status == 202 || *status == 204 ? (long)*head_size : -1;
    *chunked = 1;
    for (size_t at = *head_size;;) {
        char *line = memmem(data + at, peer->in.size - at, "\r\n", 2);
        if (!line) return 0;
        size_t size = strtoul(data + at, NULL, 16);
        at = (size_t)(line - data) + 2 + size + 2;
        if (at > peer->in.size) return 0;
        if (!size) return (long)at;
    }
}

static void wrong(Peer *peer, size_t size) {
    count.wrong++;
    if (!first_wrong[0])
        for (size_t i = 0; i < size && i < sizeof first_wrong - 1; i++) {
            char letter = peer->in.data[i];
            first_wrong[i] = letter < ' ' || letter == '"' || letter == '\\' || letter > '~' ? '.' : letter;
        }
}

/* Does the answer have the id, and the member that it should have? */
static int fits(Peer *peer, size_t size, const char *member) {
    char marks[2][40];
    int found = 0;
    for (int spaced = 0; spaced < 2; spaced++) {
        int length = sprintf(marks[spaced], "\"id\":%s%lu", spaced ? " " : "", peer->id);
        char *at = memmem(peer->in.data, size, marks[spaced], (size_t)length);
        found |= at && (at[length] < '0' || at[length] > '9');
    }
    return found && memmem(peer->in.data, size, member, strlen(member));
}

static void judge(Peer *peer, size_t size, int status) {
    latencies[count.done++] = (float)(now_ns() - peer->due) / 1000.0f;
    count.bytes += size;
    int kind = option.obeyed ? peer->kind : PLAIN;
    if (kind == PLAIN && status == 200 && fits(peer, size, "\"result\"")) count.ok++;
    else if (kind == BAD_TOKEN && status == 401) count.bad_token++;
    else if (kind == DENIED && status == 200 && fits(peer, size, "\"error\"")) count.denied++;
    else wrong(peer, size);
}

static void stand(Peer *peer) {
    peer->state = IDLE;
    standing++;
    if (option.streams) {
        write_head(peer, "GET", PLAIN, 0);
        peer->state = STREAMING;
        flush(peer);
        return;
    }
    idle[idle_count++] = peer;
}

static void take(Peer *peer, size_t size, size_t head_size, int status) {
    static const char noted[] = "{\"jsonrpc\": \"2.0\", \"method\": \"notifications/initialized\"}";
    size_t length;
    if (peer->state == WAITS_INITIALIZE) {
        const char *session = field_of(peer->in.data, head_size, "mcp-session-id", &length);
        if (status != 200) wrong(peer, size);
        if (session && length < sizeof peer->session) memcpy(peer->session, session, length);
        count.handshakes++;
        peer->state = WAITS_NOTIFIED;
        post(peer, PLAIN, noted, sizeof noted - 1);
        flush(peer);
    } else if (peer->state == WAITS_NOTIFIED) {
        if (status != 202) wrong(peer, size);
        stand(peer);
    } else if (peer->state == BUSY) {
        judge(peer, size, status);
        peer->state = IDLE;
        if (!option.rate && count.sent < option.calls) begin_call(peer, now_ns());
        else idle[idle_count++] = peer;
    }
}

/* ---- connections ---------------------------------------------------------------------------------------------- */

static void flush(Peer *peer) {
    while (peer->out.size) {
        ssize_t sent = send(peer->descriptor, peer->out.data, peer->out.size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = peer};
            epoll_ctl(poll, EPOLL_CTL_MOD, peer->descriptor, &event);
            return;
        }
        if (sent < 0) return; /* the end of the connection is seen when it is read */
        drop_front(&peer->out, (size_t)sent);
    }
}

static void dial(Peer *peer) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option.port)};
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    peer->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (peer->descriptor < 0 || connect(peer->descriptor, (struct sockaddr *)&place, sizeof place)) die("connect");
    fcntl(peer->descriptor, F_SETFL, O_NONBLOCK);
    no_delay(peer->descriptor);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(poll, EPOLL_CTL_ADD, peer->descriptor, &event);
}

/* The server closed: a call under way is lost; the connection is made anew, its session lives on. */
static void redial(Peer *peer) {
    close(peer->descriptor);
    peer->in.size = peer->out.size = 0;
    if (peer->state == STREAMING || peer->state < IDLE) die("the server closed a connection that was being set up");
    dial(peer);
    if (peer->state != BUSY) return;
    count.broken++;
    latencies[count.done++] = 1e9f;
    peer->state = IDLE;
    if (!option.rate && count.sent < option.calls) begin_call(peer, now_ns());
    else idle[idle_count++] = peer;
}

static void ready(Peer *peer, uint32_t events) {
    if (events & EPOLLOUT) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        epoll_ctl(poll, EPOLL_CTL_MOD, peer->descriptor, &event);
        flush(peer);
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    reserve(&peer->in, 65536);
    ssize_t got = recv(peer->descriptor, peer->in.data + peer->in.size, peer->in.room - peer->in.size - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        redial(peer);
        return;
    }
    peer->in.size += (size_t)got;
    peer->in.data[peer->in.size] = 0;
    if (peer->state == STREAMING) {
        count.events++;
        count.bytes += (size_t)got;
        peer->in.size = 0;
        return;
    }
    for (;;) {
        size_t head_size = 0;
        int status = 0, chunked = 0;
        long size = whole(peer, &head_size, &status, &chunked);
        if (size < 0) {
            redial(peer);
            return;
        }
        if (!size) return;
        int state = peer->state;
        size_t length;
        int closes = field_of(peer->in.data, head_size, "connection", &length) && length == 5;
        if (status == 100) state = IDLE; /* not ours to answer */
        if (state == IDLE) wrong(peer, (size_t)size);
        else if (closes) {
            shutdown(peer->descriptor, SHUT_RDWR);
            close(peer->descriptor);
            dial(peer);
            take(peer, (size_t)size, head_size, status);
            peer->in.size = 0;
            return;
        } else take(peer, (size_t)size, head_size, status);
        drop_front(&peer->in, (size_t)size);
        if (!peer->in.size) return;
    }
}

static void turn(int timer) {
    struct epoll_event events[256];
    int found = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < found; i++) {
        uint64_t ticks;
        if (events[i].data.ptr) ready(events[i].data.ptr, events[i].events);
        else if (read(timer, &ticks, sizeof ticks) < 0) continue;
    }
}

static void run_closed(void) {
    while (idle_count && count.sent < option.calls) begin_call(idle[--idle_count], now_ns());
    while (count.done < option.calls) turn(-1);
}

static void run_open(void) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event);
    double every = 1e9 / (double)option.rate;
    while (count.done < option.calls) {
        while (count.sent < option.calls && idle_count) {
            int64_t due = clock_start + (int64_t)(every * (double)count.sent);
            if (due > now_ns()) {
                struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
                break;
            }
            begin_call(idle[--idle_count], due);
        }
        turn(timer);
    }
}

static int by_size(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static void report(void) {
    double seconds = (double)(now_ns() - clock_start) / 1e9;
    unsigned long n = count.done;
    qsort(latencies, n, sizeof *latencies, by_size);
#define AT(share) (n ? latencies[(unsigned long)((double)(n - 1) * (share))] : 0.0f)
    printf("{\"calls\":%lu,\"ok\":%lu,\"bad_token\":%lu,\"denied\":%lu,\"wrong\":%lu,\"broken\":%lu,\"handshakes\":%lu,"
           "\"events\":%lu,\"bytes\":%lu,\"seconds\":%.4f,\"rate\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,"
           "\"p999_us\":%.1f,\"max_us\":%.1f,\"first_wrong\":\"%s\"}\n",
           n, count.ok, count.bad_token, count.denied, count.wrong, count.broken, count.handshakes, count.events, count.bytes,
           seconds, seconds > 0 ? (double)n / seconds : 0.0, AT(0.5), AT(0.9), AT(0.99), AT(0.999), AT(1.0), first_wrong);
    fflush(stdout);
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

static void read_option(const char *text) {
    const char *value = strchr(text, '=');
    if (!value) exit(fprintf(stderr, "load: %s is no name=value\n", text));
    size_t size = (size_t)(value++ - text);
#define NAMED(NAME) (size == strlen(NAME) && !strncmp(text, NAME, size))
    if (NAMED("connections")) option.connections = atoi(value);
    else if (NAMED("calls")) option.calls = strtoul(value, NULL, 10);
    else if (NAMED("rate")) option.rate = strtoul(value, NULL, 10);
    else if (NAMED("bytes")) option.bytes = atoi(value);
    else if (NAMED("shape")) option.shape = value;
    else if (NAMED("tool")) option.tool = value;
    else if (NAMED("era")) option.modern = !strcmp(value, "modern");
    else if (NAMED("vary")) option.vary = atoi(value);
    else if (NAMED("refused")) option.refused = atoi(value);
    else if (NAMED("obeyed")) option.obeyed = atoi(value);
    else exit(fprintf(stderr, "load: no option %s\n", text));
}

static void read_headers(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    size_t size = fread(headers[PLAIN], 1, sizeof headers[PLAIN] - 1, file);
    fclose(file);
    headers[PLAIN][size] = 0;
    memcpy(headers[DENIED], headers[PLAIN], size + 1);
    memcpy(headers[BAD_TOKEN], headers[PLAIN], size + 1);
    char *token = strcasestr(headers[BAD_TOKEN], "bearer ");
    if (token) { /* one letter of the signature is another one */
        char *end = strstr(token, "\r\n");
        end[-9] = end[-9] == 'A' ? 'B' : 'A';
    }
}

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "usage: load calls|streams PORT PATH HEADER_FILE [name=value ...]\n"), 2;
    option.streams = !strcmp(argv[1], "streams");
    option.port = atoi(argv[2]);
    option.path = argv[3];
    read_headers(argv[4]);
    for (int i = 5; i < argc; i++) read_option(argv[i]);
    poll = epoll_create1(EPOLL_CLOEXEC);
    peers = calloc((size_t)option.connections, sizeof *peers);
    idle = calloc((size_t)option.connections, sizeof *idle);
    latencies = calloc(option.calls + 1, sizeof *latencies);
    began = now_ns();
    for (int i = 0; i < option.connections; i++) {
        dial(&peers[i]);
        if (option.modern) stand(&peers[i]);
        else begin_handshake(&peers[i]);
        while (i - standing > 64) turn(-1); /* no flood of beginners */
    }
    while (standing < option.connections) turn(-1);
    printf("ready\n");
    fflush(stdout);
    char line[16];
    if (!fgets(line, sizeof line, stdin)) return 0;
    clock_start = now_ns();
    if (!option.streams && option.rate) run_open();
    else if (!option.streams) run_closed();
    report();
    if (fgets(line, sizeof line, stdin)) return 0; /* the connections stay until the caller has looked at everything */
    return 0;
}
