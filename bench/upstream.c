/* A small MCP server over Streamable HTTP, so fast that it is never what is measured (both eras, one thread, epoll).
 *
 *   upstream PORT [EVENT_MS]
 *
 * It reads every body as strict JSON and counts those that are malformed and those that still hold insignificant
 * whitespace: the load generator always writes some, so a gateway that promises to write each message anew must bring
 * that count to zero. A call's argument "shape" says what its answer looks like. GET opens a stream, which stays
 * silent or tells an event every EVENT_MS milliseconds. GET /stats gives the counts.
 */
#define _GNU_SOURCE
#include "wire.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#define EVENTS 256
#define BODY_MAX (8u << 20)
#define DEPTH_MAX 64

typedef struct {
    int descriptor, streaming, index;
    Buffer in, out;
} Peer;

typedef struct {
    const char *data;
    size_t size;
} Slice;

/* What is picked out of a message while it is judged. */
typedef struct {
    const char *at, *end;
    int whitespace;
    Slice id, method, version, shape, tool;
    int modern;
} Scan;

enum { ELSEWHERE, MESSAGE, PARAMS, ARGUMENTS };
enum { JSON_500, JSON_4K, JSON_50K, SSE_500, SHAPES };
static const char *SHAPE_NAMES[SHAPES] = {"json500", "json4k", "json50k", "sse"};
static const size_t SHAPE_BYTES[SHAPES] = {500, 4096, 51200, 500};

static struct {
    unsigned long requests, messages, calls, written, malformed, whitespace, initialized, notified, lists, discovers,
        gets, deletes, sessionless, streams;
} count;
static Buffer tails[SHAPES][2]; /* what follows the id of an answer, by era */
static Peer **streams;
static int streams_count, streams_room;
static unsigned long sessions;

/* ---- strict JSON ---------------------------------------------------------------------------------------------- */

static int value(Scan *scan, int place, int depth, Slice *found);

static void blank(Scan *scan) {
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\r' || *scan->at == '\t')) {
        scan->at++;
        scan->whitespace = 1;
    }
}

static int text(Scan *scan, Slice *found) {
    if (scan->at >= scan->end || *scan->at != '"') return 0;
    const char *start = ++scan->at;
    while (scan->at < scan->end) {
        unsigned char letter = (unsigned char)*scan->at++;
        if (letter == '"') {
            found->data = start;
            found->size = (size_t)(scan->at - 1 - start);
            return 1;
        }
        if (letter < 0x20) return 0;
        if (letter == '\\') {
            if (scan->at >= scan->end || !strchr("\"\\/bfnrtu", *scan->at)) return 0;
            if (*scan->at++ == 'u') {
                for (int i = 0; i < 4; i++, scan->at++)
                    if (scan->at >= scan->end || !strchr("0123456789abcdefABCDEF", *scan->at)) return 0;
            }
        }
    }
    return 0;
}

static int is(Slice slice, const char *text) {
    return slice.size == strlen(text) && !memcmp(slice.data, text, slice.size);
}

static int member(Scan *scan, int place, int depth) {
    Slice key = {0}, found = {0};
    blank(scan);
    if (!text(scan, &key)) return 0;
    blank(scan);
    if (scan->at >= scan->end || *scan->at++ != ':') return 0;
    blank(scan);
    int inner = ELSEWHERE;
    if (place == MESSAGE && is(key, "params")) inner = PARAMS;
    if (place == PARAMS && is(key, "arguments")) inner = ARGUMENTS;
    if (!value(scan, inner, depth + 1, &found)) return 0;
    if (place == MESSAGE && is(key, "id")) scan->id = found;
    if (place == MESSAGE && is(key, "method")) scan->method = found;
    if (place == PARAMS && is(key, "protocolVersion")) scan->version = found;
    if (place == PARAMS && is(key, "name")) scan->tool = found;
    if (place == PARAMS && is(key, "_meta"))
        scan->modern = memmem(found.data, found.size, "/protocolVersion", 16) != NULL;
    if (place == ARGUMENTS && is(key, "shape")) scan->shape = found;
    return 1;
}

static int container(Scan *scan, int place, int depth, char close) {
    scan->at++;
    blank(scan);
    if (scan->at < scan->end && *scan->at == close) return scan->at++, 1;
    for (;;) {
        Slice ignored;
        blank(scan);
        if (close == '}' ? !member(scan, place, depth) : !value(scan, ELSEWHERE, depth + 1, &ignored)) return 0;
        blank(scan);
        if (scan->at >= scan->end) return 0;
        char letter = *scan->at++;
        if (letter == close) return 1;
        if (letter != ',') return 0;
    }
}

/* One value; `found` is its text, without quotes for a string, with them for an id. */
static int value(Scan *scan, int place, int depth, Slice *found) {
    if (depth > DEPTH_MAX || scan->at >= scan->end) return 0;
    const char *start = scan->at;
    int sound = 1;
    if (*start == '"') return text(scan, found);
    if (*start == '{') sound = container(scan, place, depth, '}');
    else if (*start == '[') sound = container(scan, place, depth, ']');
    else if (!strncmp(start, "true", 4) || !strncmp(start, "null", 4)) scan->at += 4;
    else if (!strncmp(start, "false", 5)) scan->at += 5;
    else {
        scan->at += strspn(scan->at, "+-.0123456789eE");
        sound = scan->at > start;
    }
    found->data = start;
    found->size = (size_t)(scan->at - start);
    return sound && scan->at <= scan->end;
}

static int judge(Scan *scan, const char *body, size_t size) {
    memset(scan, 0, sizeof *scan);
    scan->at = body;
    scan->end = body + size;
    blank(scan);
    if (scan->at >= scan->end || *scan->at != '{' || !container(scan, MESSAGE, 0, '}')) return 0;
    blank(scan);
    return scan->at == scan->end && scan->method.data != NULL;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void make_tails(void) {
    static const char *words = "the quick brown gate lets seven polite callers pass and notes each of them in a log; ";
    for (int shape = 0; shape < SHAPES; shape++)
        for (int modern = 0; modern < 2; modern++) {
            Buffer *tail = &tails[shape][modern];
            const char *open = ",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"";
            append(tail, open, strlen(open));
            for (size_t i = 0; i < SHAPE_BYTES[shape]; i++) {
                if (i % 100 == 99) append(tail, "\\n", 2); /* real answers have lines */
                else append(tail, &words[i % strlen(words)], 1);
            }
            const char *end = modern ? "\"}],\"isError\":false,\"resultType\":\"complete\"}}" : "\"}],\"isError\":false}}";
            append(tail, end, strlen(end));
        }
}

static void say(Peer *peer, int status, const char *fields, const char *body, size_t size) {
    char head[512];
    const char *phrase = status == 200 ? "OK" : status == 202 ? "Accepted" : "Bad Request";
    int length = snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\n%sContent-Length: %zu\r\n\r\n", status, phrase, fields, size);
    append(&peer->out, head, (size_t)length);
    append(&peer->out, body, size);
}

/* An id as it was written: strings get their quotes back. */
static void append_id(Buffer *out, Slice id) {
    int quoted = id.data[-1] == '"';
    append(out, id.data - quoted, id.size + 2 * (size_t)quoted);
}

static void answer(Peer *peer, Scan *scan, const char *fields, const char *tail, size_t size, int as_event) {
    static Buffer body;
    static const char open[] = "{\"jsonrpc\":\"2.0\",\"id\":";
    body.size = 0;
    append(&body, open, sizeof open - 1);
    append_id(&body, scan->id);
    append(&body, tail, size);
    if (!as_event) {
        say(peer, 200, fields, body.data, body.size);
        return;
    }
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";
    char chunk[32];
    append(&peer->out, head, sizeof head - 1);
    append(&peer->out, chunk, (size_t)sprintf(chunk, "%zx\r\n", body.size + 23));
    append(&peer->out, "event: message\ndata: ", 21);
    append(&peer->out, body.data, body.size);
    append(&peer->out, "\n\n\r\n0\r\n\r\n", 9);
}

static void call(Peer *peer, Scan *scan) {
    int shape = JSON_500;
    for (int i = 0; i < SHAPES; i++)
        if (is(scan->shape, SHAPE_NAMES[i])) shape = i;
    count.calls++;
    count.written += !is(scan->tool, "echo");
    Buffer *tail = &tails[shape][scan->modern];
    answer(peer, scan, "Content-Type: application/json\r\n", tail->data, tail->size, shape == SSE_500);
}

static void initialize(Peer *peer, Scan *scan) {
    char fields[160], tail[512];
    snprintf(fields, sizeof fields, "Content-Type: application/json\r\nMcp-Session-Id: bench-%016lx\r\n", ++sessions);
    int size = snprintf(tail, sizeof tail,
                        ",\"result\":{\"protocolVersion\":\"%.*s\",\"capabilities\":{\"tools\":{}},"
                        "\"serverInfo\":{\"name\":\"bench\",\"version\":\"1\"}}}",
                        (int)scan->version.size, scan->version.data ? scan->version.data : "");
    count.initialized++;
    answer(peer, scan, fields, tail, (size_t)size, 0);
}

#define TOOL(NAME, HINT)                                                                                      \
    "{\"name\":\"" NAME "\",\"description\":\"" NAME "\",\"inputSchema\":{\"type\":\"object\",\"properties\":" \
    "{\"text\":{\"type\":\"string\"}}}" HINT "}"
#define LIST \
    TOOL("echo", ",\"annotations\":{\"readOnlyHint\":true}") "," TOOL("note", "") "," TOOL("erase", "")

/* Paths that begin so speak one era only. */
static const char *const LEGACY_ONLY = "POST /legacy/", *const MODERN_ONLY = "POST /modern/";

/* Refuse what is of the other era as a server of this path's only era does; 0 when it is welcome. */
static int refuse_era(Peer *peer, const char *head, const Scan *scan) {
    static const char json[] = "Content-Type: application/json\r\n";
    static const char old[] = "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"not initialized\"}}";
    static const char fresh[] = "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32022,\"message\":\"version\","
                                "\"data\":{\"supported\":[\"2026-07-28\"]}}}";
    if (scan->modern && !strncmp(head, LEGACY_ONLY, strlen(LEGACY_ONLY))) say(peer, 400, json, old, sizeof old - 1);
    else if (!scan->modern && !strncmp(head, MODERN_ONLY, strlen(MODERN_ONLY))) say(peer, 400, json, fresh, sizeof fresh - 1);
    else return 0;
    return 1;
}

static void serve_message(Peer *peer, const char *head, size_t head_size, const char *body, size_t size) {
    static const char json[] = "Content-Type: application/json\r\n";
    Scan scan;
    size_t length;
    if (!judge(&scan, body, size)) {
        count.malformed++;
        say(peer, 400, "", "", 0);
        return;
    }
    if (refuse_era(peer, head, &scan)) return;
    count.messages++;
    count.whitespace += (unsigned long)scan.whitespace;
    if (!scan.id.data) {
        count.notified++;
        say(peer, 202, "", "", 0);
        return;
    }
    if (is(scan.method, "initialize")) {
        initialize(peer, &scan);
        return;
    }
    count.sessionless += !scan.modern && !field_of(head, head_size, "mcp-session-id", &length);
    if (is(scan.method, "tools/call")) {
        call(peer, &scan);
    } else if (is(scan.method, "tools/list")) {
        static const char legacy[] = ",\"result\":{\"tools\":[" LIST "]}}";
        static const char modern[] =
            ",\"result\":{\"tools\":[" LIST "],\"resultType\":\"complete\",\"ttlMs\":60000,\"cacheScope\":\"private\"}}";
        count.lists++;
        if (scan.modern) answer(peer, &scan, json, modern, sizeof modern - 1, 0);
        else answer(peer, &scan, json, legacy, sizeof legacy - 1, 0);
    } else if (is(scan.method, "server/discover") && scan.modern) {
        static const char found[] =
            ",\"result\":{\"supportedVersions\":[\"2026-07-28\"],\"capabilities\":{\"tools\":{}},"
            "\"resultType\":\"complete\",\"ttlMs\":60000,\"cacheScope\":\"private\","
            "\"serverInfo\":{\"name\":\"bench\",\"version\":\"1\"}}}";
        count.discovers++;
        answer(peer, &scan, json, found, sizeof found - 1, 0);
    } else if (is(scan.method, "ping")) {
        answer(peer, &scan, json, ",\"result\":{}}", 13, 0);
    } else {
        static const char unknown[] = ",\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}";
        answer(peer, &scan, json, unknown, sizeof unknown - 1, 0);
    }
}

static void tell_stats(Peer *peer) {
    char body[640];
    int size = snprintf(body, sizeof body,
                        "{\"requests\":%lu,\"messages\":%lu,\"calls\":%lu,\"written\":%lu,\"malformed\":%lu,"
                        "\"whitespace\":%lu,\"initialized\":%lu,\"notified\":%lu,\"lists\":%lu,\"discovers\":%lu,"
                        "\"gets\":%lu,\"deletes\":%lu,\"sessionless\":%lu,\"streams\":%lu}",
                        count.requests, count.messages, count.calls, count.written, count.malformed, count.whitespace,
                        count.initialized, count.notified, count.lists, count.discovers, count.gets, count.deletes,
                        count.sessionless, count.streams);
    say(peer, 200, "Content-Type: application/json\r\n", body, (size_t)size);
}

static void open_stream(Peer *peer) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";
    append(&peer->out, head, sizeof head - 1);
    if (streams_count == streams_room) {
        streams_room = streams_room ? streams_room * 2 : 1024;
        streams = realloc(streams, (size_t)streams_room * sizeof *streams);
    }
    peer->streaming = 1;
    peer->index = streams_count;
    streams[streams_count++] = peer;
    count.gets++;
    count.streams++;
}

/* ---- connections ---------------------------------------------------------------------------------------------- */

/* Serve one request from the front of the buffer; 0 when it is not complete, -1 when it cannot be served. */
static int serve(Peer *peer) {
    char *end = memmem(peer->in.data, peer->in.size, "\r\n\r\n", 4);
    if (!end) return peer->in.size > 65536 ? -1 : 0;
    size_t head_size = (size_t)(end - peer->in.data) + 4, length = 0, body_size = 0;
    const char *field = field_of(peer->in.data, head_size, "content-length", &length);
    if (field) body_size = strtoul(field, NULL, 10);
    if (body_size > BODY_MAX || field_of(peer->in.data, head_size, "transfer-encoding", &length)) return -1;
    if (peer->in.size < head_size + body_size) return 0;
    count.requests++;
    if (!strncmp(peer->in.data, "POST ", 5)) {
        serve_message(peer, peer->in.data, head_size, peer->in.data + head_size, body_size);
    } else if (!strncmp(peer->in.data, "GET /stats", 10)) {
        tell_stats(peer);
    } else if (!strncmp(peer->in.data, "GET ", 4)) {
        open_stream(peer);
    } else {
        count.deletes++;
        say(peer, 200, "", "", 0);
    }
    drop_front(&peer->in, head_size + body_size);
    return 1;
}

static int flush(Peer *peer, int poll) {
    while (peer->out.size) {
        ssize_t sent = send(peer->descriptor, peer->out.data, peer->out.size, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return -1;
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = peer};
            epoll_ctl(poll, EPOLL_CTL_MOD, peer->descriptor, &event);
            return 0;
        }
        drop_front(&peer->out, (size_t)sent);
    }
    return 0;
}

static void leave(Peer *peer) {
    if (peer->streaming) {
        Peer *last = streams[--streams_count];
        streams[peer->index] = last;
        last->index = peer->index;
        count.streams--;
    }
    close(peer->descriptor);
    free(peer->in.data);
    free(peer->out.data);
    free(peer);
}

static void ready(Peer *peer, uint32_t events, int poll) {
    int state = 1;
    if (events & EPOLLIN) {
        reserve(&peer->in, 16384);
        ssize_t got = recv(peer->descriptor, peer->in.data + peer->in.size, peer->in.room - peer->in.size - 1, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            leave(peer);
            return;
        }
        if (got > 0) peer->in.size += (size_t)got;
        peer->in.data[peer->in.size] = 0; /* an end for the string functions */
        while (peer->in.size && (state = serve(peer)) > 0);
    }
    if (events & EPOLLOUT) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        epoll_ctl(poll, EPOLL_CTL_MOD, peer->descriptor, &event);
    }
    if (state < 0) count.malformed++;
    if (state < 0 || flush(peer, poll) < 0 || (events & (EPOLLERR | EPOLLHUP))) leave(peer);
}

static void welcome(int listener, int poll) {
    for (;;) {
        int descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) return;
        no_delay(descriptor);
        Peer *peer = calloc(1, sizeof *peer);
        peer->descriptor = descriptor;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        epoll_ctl(poll, EPOLL_CTL_ADD, descriptor, &event);
    }
}

static void tell_events(int timer, int poll) {
    static const char notice[] =
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"tick\"}}\n\n";
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) < 0) return;
    char chunk[256];
    int size = sprintf(chunk, "%zx\r\n%s\r\n", sizeof notice - 1, notice);
    for (int i = 0; i < streams_count; i++) {
        append(&streams[i]->out, chunk, (size_t)size);
        flush(streams[i], poll);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: upstream PORT [EVENT_MS]\n"), 2;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 4096)) die("listen");
    make_tails();
    int poll = epoll_create1(EPOLL_CLOEXEC), timer = -1;
    static int listener_mark, timer_mark;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener_mark};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    if (argc > 2 && atoi(argv[2]) > 0) {
        long ms = atol(argv[2]);
        struct itimerspec every = {{ms / 1000, ms % 1000 * 1000000}, {ms / 1000, ms % 1000 * 1000000}};
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        timerfd_settime(timer, 0, &every, NULL);
        event.data.ptr = &timer_mark;
        epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event);
    }
    for (struct epoll_event events[EVENTS];;) {
        int found = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < found; i++) {
            if (events[i].data.ptr == &listener_mark) welcome(listener, poll);
            else if (events[i].data.ptr == &timer_mark) tell_events(timer, poll);
            else ready(events[i].data.ptr, events[i].events, poll);
        }
    }
}
