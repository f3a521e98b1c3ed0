/* What the upstream and the load generator share: growing buffers and small searches. No dependency but libc. */
#ifndef DOORWARD_BENCH_WIRE_H
#define DOORWARD_BENCH_WIRE_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    char *data;
    size_t size, room;
} Buffer;

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline void reserve(Buffer *buffer, size_t more) {
    if (buffer->size + more <= buffer->room) return;
    size_t room = buffer->room ? buffer->room : 4096;
    while (room < buffer->size + more) room *= 2;
    buffer->data = realloc(buffer->data, room);
    if (!buffer->data) die("memory");
    buffer->room = room;
}

static inline void append(Buffer *buffer, const char *data, size_t size) {
    reserve(buffer, size);
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

static inline void drop_front(Buffer *buffer, size_t count) {
    buffer->size -= count;
    if (buffer->size) memmove(buffer->data, buffer->data + count, buffer->size);
}

static inline int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The value of a header in a head of `size` bytes, or NULL; `length` is set to that of the value. */
static inline const char *field_of(const char *head, size_t size, const char *name, size_t *length) {
    size_t wanted = strlen(name);
    const char *line = head, *end = head + size;
    while (line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) break;
        if ((size_t)(stop - line) > wanted && line[wanted] == ':' && !strncasecmp(line, name, wanted)) {
            const char *value = line + wanted + 1;
            while (value < stop && (*value == ' ' || *value == '\t')) value++;
            const char *last = stop;
            while (last > value && (last[-1] == '\r' || last[-1] == ' ')) last--;
            *length = (size_t)(last - value);
            return value;
        }
        line = stop + 1;
    }
    return NULL;
}

static inline void no_delay(int descriptor) {
    int on = 1;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

#endif
