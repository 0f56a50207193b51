#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: loadgen echo|udp|http|idle|handshake --port N [options]\n"
    "  --host ADDR         IPv4 address (127.0.0.1)\n"
    "  --connections N     each with one request in flight (10)\n"
    "  --seconds S         measured time (2)\n"
    "  --requests N        measure N requests instead of a time\n"
    "  --warmup S          driven first, not measured (0.2)\n"
    "  --size N            echo, udp, idle: bytes of a message (64)\n"
    "  --request 'GET /x'  http: add to the mix, in turn; 'POST /x {json}' sends a body\n"
    "  --tls               over TLS; handshake: always\n"
    "  --pid N             server whose CPU time or memory is reported\n"
    "handshake: connect, make a full TLS handshake and wait for the server's close, again and "
    "again.\n"
    "Prints one JSON object. Exit status 1 when the load could not be driven, 2 for bad options.\n";

static int usage(const char *what, const char *value) {
    fprintf(stderr, "loadgen: %s: %s\n%s", what, value, usage_text);
    return 2;
}

static void add_echo(taut_load_config *cfg, size_t size) {
    taut_load_request *r = &cfg->mix[cfg->mix_len++];
    r->size = size;
    r->bytes = taut_load_alloc(size);
    for (size_t i = 0; i < size; i++) {
        r->bytes[i] = (char)('a' + i % 23);
    }
}

/* "METHOD path [body]" as an HTTP/1.1 request; -1 when malformed or the mix is full. */
static int add_http(taut_load_config *cfg, const char *text) {
    char method[16], path[1024];
    int used = 0;
    if (cfg->mix_len == TAUT_LOAD_REQUESTS_MAX ||
        sscanf(text, "%15s %1023s %n", method, path, &used) != 2 || path[0] != '/') {
        return -1;
    }
    const char *body = text + used;
    size_t body_size = strlen(body);
    size_t room = strlen(text) + strlen(cfg->host) + 256;
    taut_load_request *r = &cfg->mix[cfg->mix_len++];
    r->bytes = taut_load_alloc(room);
    int n = snprintf(r->bytes, room,
                     "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: loadgen\r\nAccept: */*\r\n", method,
                     path, cfg->host);
    if (body_size) {
        n += snprintf(r->bytes + n, room - (size_t)n,
                      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", body_size,
                      body);
    } else {
        n += snprintf(r->bytes + n, room - (size_t)n, "\r\n");
    }
    r->size = (size_t)n;
    return 0;
}

typedef struct {
    long port, size;
    taut_load_config cfg;
} taut_load_options;

static int parse(int argc, char **argv, taut_load_options *o) {
    static const struct option longs[] = {
        {"host", 1, 0, 'h'},    {"port", 1, 0, 'p'},     {"connections", 1, 0, 'c'},
        {"seconds", 1, 0, 's'}, {"requests", 1, 0, 'n'}, {"warmup", 1, 0, 'w'},
        {"size", 1, 0, 'z'},    {"request", 1, 0, 'r'},  {"pid", 1, 0, 'i'},
        {"tls", 0, 0, 't'},     {"help", 0, 0, '?'},     {0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (opt) {
        case 'h':
            o->cfg.host = optarg;
            break;
        case 'p':
            o->port = atol(optarg);
            break;
        case 'c':
            o->cfg.connections = (unsigned)atoi(optarg);
            break;
        case 's':
            o->cfg.seconds = atof(optarg);
            break;
        case 'n':
            o->cfg.requests = strtoull(optarg, NULL, 10);
            o->cfg.seconds = 0;
            break;
        case 'w':
            o->cfg.warmup_s = atof(optarg);
            break;
        case 'z':
            o->size = atol(optarg);
            break;
        case 'i':
            o->cfg.server_pid = (pid_t)atol(optarg);
            break;
        case 't':
            o->cfg.tls = true;
            break;
        case 'r':
            if (add_http(&o->cfg, optarg) != 0) {
                return usage("not 'METHOD /path [body]', or too many", optarg);
            }
            break;
        default:
            return usage("unknown option", argv[optind - 1]);
        }
    }
    if (o->port < 1 || o->port > 65535) {
        return usage("--port", "1 to 65535 is needed");
    }
    o->cfg.addr.sin_family = AF_INET;
    o->cfg.addr.sin_port = htons((uint16_t)o->port);
    if (inet_pton(AF_INET, o->cfg.host, &o->cfg.addr.sin_addr) != 1) {
        return usage("--host is not an IPv4 address", o->cfg.host);
    }
    if (o->cfg.connections < 1 || o->size < 1 || (o->cfg.seconds <= 0 && o->cfg.requests == 0)) {
        return usage("connections, size and seconds or requests", "must be positive");
    }
    return 0;
}

static int report(const char *mode, const taut_load_config *cfg, taut_load_result *res) {
    uint64_t answers = res->done + res->bad;
    if (answers == 0) {
        fprintf(stderr, "loadgen: not one answer\n");
        return 1;
    }
    printf("{\"mode\": \"%s\", \"connections\": %u, \"seconds\": %.4f, \"requests\": %llu, "
           "\"bad_status\": %llu, \"errors\": %llu, \"rps\": %.1f, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"cpu_us\": %.4f, \"tls\": \"%s\"}\n",
           mode, cfg->connections, res->seconds, (unsigned long long)answers,
           (unsigned long long)res->bad, (unsigned long long)res->errors,
           (double)answers / res->seconds, taut_load_quantile_us(res, 0.5),
           taut_load_quantile_us(res, 0.99), res->cpu_s * 1e6 / (double)answers,
           cfg->tls ? taut_load_tls_parameters() : "");
    return 0;
}

/* The requests of the mode. 0 or -1. */
static int fill_mix(taut_load_options *o, const char *mode) {
    if (strcmp(mode, "http") == 0) {
        return o->cfg.mix_len == 0 ? add_http(&o->cfg, "GET /") : 0;
    }
    o->cfg.mix_len = 0;
    if (o->cfg.shake) {
        o->cfg.mix_len = 1; /* nothing is sent but the handshake */
    } else {
        add_echo(&o->cfg, (size_t)o->size);
    }
    return 0;
}

static int run(const char *mode, const taut_load_config *cfg) {
    if (cfg->tls && taut_load_tls_start() != 0) {
        return 1;
    }
    taut_load_result res = {0};
    int err;
    if (strcmp(mode, "idle") == 0) {
        err = taut_load_idle(cfg) ? 1 : 0;
    } else {
        const bool http = strcmp(mode, "http") == 0;
        err = taut_load_run(cfg, http ? &taut_load_http : &taut_load_echo, &res) ? 1 : 0;
        if (!err) {
            err = report(mode, cfg, &res);
        }
    }
    free(res.samples);
    if (cfg->tls) {
        taut_load_tls_end();
    }
    return err;
}

int main(int argc, char **argv) {
    static const char *const modes[] = {"echo", "udp", "http", "idle", "handshake", NULL};
    if (argc < 2) {
        return usage("mode", "missing");
    }
    const char *const *mode = modes;
    while (*mode && strcmp(*mode, argv[1]) != 0) {
        mode++;
    }
    if (!*mode) {
        return usage("unknown mode", argv[1]);
    }
    taut_load_options o = {
        .size = 64, .cfg = {.host = "127.0.0.1", .connections = 10, .seconds = 2, .warmup_s = 0.2}};
    int err = parse(argc - 1, argv + 1, &o);
    if (err) {
        return err;
    }
    o.cfg.shake = strcmp(*mode, "handshake") == 0;
    o.cfg.tls = o.cfg.tls || o.cfg.shake;
    o.cfg.udp = strcmp(*mode, "udp") == 0;
    if (fill_mix(&o, *mode) != 0) {
        return 1;
    }
    taut_load_raise_nofile();
    err = run(*mode, &o.cfg);
    for (unsigned i = 0; i < o.cfg.mix_len; i++) {
        free(o.cfg.mix[i].bytes);
    }
    return err;
}
