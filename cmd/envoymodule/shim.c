//go:build linux && cgo

// The hooks that Envoy calls for an HTTP filter, and what they do with Go's replies. One request is one call into Go, in decide. Everything that
// Envoy owns is read before that call and changed after it; a stream may be gone once Envoy was told to answer or to go on, so nothing of it is
// touched afterwards.

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "_cgo_export.h"
#include "shim.h"

#define HOOK __attribute__((visibility("default")))

enum { FRESH, BUFFERING, WAITING, PASSED, DENIED };

typedef struct {
  const gh_config *config;
  int state;
  void *scheduler; // with a ticket alone
  uint64_t ticket;
  uint64_t received; // bytes of the body
  char *response;    // steps for the application's answer
  size_t response_len;
} gh_stream;

static gh_text text(const char *s) { return (gh_text){s, strlen(s)}; }

static gh_text header(void *envoy, const char *name) {
  gh_text value = {NULL, 0};
  if (!ENVOY(http_get_header)(envoy, REQUEST_HEADERS, text(name), &value, 0, NULL)) value = (gh_text){NULL, 0};
  return value;
}

static bool is(gh_text t, const char *word) { return t.len == strlen(word) && strncasecmp(t.ptr, word, t.len) == 0; }

static const char SPACE[] = "envoy.filters.http.ext_authz";

void gh_say(char *message, size_t len) {
  if (ENVOY(log)) ENVOY(log)(LOG_ERROR, (gh_text){message, len});
}

void gh_wake(void *scheduler, uint64_t ticket) { ENVOY(http_filter_scheduler_commit)(scheduler, ticket); }

uint32_t gh_workers(void) { return ENVOY(get_concurrency) ? ENVOY(get_concurrency)() : 1; }

// The first function that this Envoy has not; NULL where it has all of them.
static const char *missing(void) {
#define NEED(name) \
  if (!ENVOY(name)) return #name
  NEED(log);
  NEED(get_concurrency);
  NEED(is_validation_mode);
  NEED(http_get_header);
  NEED(http_get_headers_size);
  NEED(http_get_headers);
  NEED(http_set_header);
  NEED(http_add_header);
  NEED(http_get_body_size);
  NEED(http_get_body_chunks_size);
  NEED(http_get_body_chunks);
  NEED(http_received_buffered_request_body);
  NEED(http_set_buffer_limit);
  NEED(http_set_dynamic_metadata_string);
  NEED(http_set_dynamic_metadata_number);
  NEED(http_set_dynamic_metadata_struct);
  NEED(http_get_downstream_direct_remote_address);
  NEED(http_filter_get_attribute_string);
  NEED(http_clear_route_cache);
  NEED(http_filter_continue_decoding);
  NEED(get_most_specific_route_config);
  NEED(http_filter_scheduler_new);
  NEED(http_filter_scheduler_commit);
  NEED(http_filter_scheduler_delete);
  return NULL;
}

// ---- the configuration

HOOK const char *envoy_dynamic_module_on_program_init(void) { return GATEHOUSE_ABI; }

HOOK const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, gh_text name, gh_text config) {
  const char *lacks = missing();
  if (!ENVOY(http_send_response)) return NULL; // not even a denial could be sent
  gh_config *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  bool validate = ENVOY(is_validation_mode) && ENVOY(is_validation_mode)();
  if (!gatehouseOpen(config, lacks ? text(lacks) : (gh_text){NULL, 0}, validate, c)) {
    free(c);
    return NULL;
  }
  return c;
}

HOOK void envoy_dynamic_module_on_http_filter_config_destroy(const void *config) {
  if (!config) return;
  gatehouseClose(((const gh_config *)config)->filter);
  free((void *)config);
}

HOOK const void *envoy_dynamic_module_on_http_filter_per_route_config_new(gh_text name, gh_text config) {
  gh_route *r = calloc(1, sizeof *r);
  if (r && !gatehouseOpenRoute(config, r)) {
    free(r);
    r = NULL;
  }
  return r;
}

HOOK void envoy_dynamic_module_on_http_filter_per_route_config_destroy(const void *route) {
  if (!route) return;
  gatehouseCloseRoute(((const gh_route *)route)->route);
  free((void *)route);
}

// ---- replies

// The next step; false at the end.
static bool step(const char **at, const char *end, int *op, gh_text *name, gh_text *value) {
  uint32_t n, v;
  if ((size_t)(end - *at) < 9) return false;
  *op = (unsigned char)**at;
  memcpy(&n, *at + 1, 4);
  memcpy(&v, *at + 5, 4);
  *at += 9;
  if ((size_t)(end - *at) < (size_t)n + v) return false;
  *name = (gh_text){*at, n};
  *value = (gh_text){*at + n, v};
  *at += (size_t)n + v;
  return true;
}

// As in package dynmod.
enum { SET_REQUEST = 1, REMOVE_REQUEST, ADD_RESPONSE, SET_RESPONSE, ADD_RESPONSE_IF_ABSENT, SET_RESPONSE_IF_PRESENT, DENIAL_HEADER, DENIAL_BODY,
       METADATA_TEXT, METADATA_NUMBER, METADATA_STRUCT };

static void metadata(void *envoy, int op, gh_text name, gh_text value) {
  gh_text space = {SPACE, sizeof SPACE - 1};
  double number;
  switch (op) {
  case METADATA_TEXT:
    ENVOY(http_set_dynamic_metadata_string)(envoy, space, name, value);
    break;
  case METADATA_NUMBER:
    memcpy(&number, value.ptr, sizeof number);
    ENVOY(http_set_dynamic_metadata_number)(envoy, space, name, number);
    break;
  case METADATA_STRUCT:
    ENVOY(http_set_dynamic_metadata_struct)(envoy, space, value);
    break;
  }
}

// Changes the request, and keeps the steps for the answer. false: they cannot be kept.
static bool allow(gh_stream *s, void *envoy, const gh_reply *reply) {
  const char *at = reply->steps, *end = at + reply->len, *from = NULL;
  gh_text name, value;
  int op;
  if (reply->changes && s->config->clear_route_cache) ENVOY(http_clear_route_cache)(envoy);
  for (const char *before = at; step(&at, end, &op, &name, &value); before = at) {
    switch (op) {
    case SET_REQUEST:
      ENVOY(http_set_header)(envoy, REQUEST_HEADERS, name, value); // an empty value takes it off: the ABI has no other meaning for one
      break;
    case REMOVE_REQUEST:
      ENVOY(http_set_header)(envoy, REQUEST_HEADERS, name, (gh_text){NULL, 0});
      break;
    case METADATA_TEXT:
    case METADATA_NUMBER:
    case METADATA_STRUCT:
      metadata(envoy, op, name, value);
      break;
    default: // the rest is for the answer
      from = before;
      at = end;
    }
  }
  if (!from) return true;
  s->response_len = (size_t)(end - from);
  if (!(s->response = malloc(s->response_len))) return false;
  memcpy(s->response, from, s->response_len);
  return true;
}

enum { HEADERS_ON_STACK = 64 };

// The status by which gRPC knows an HTTP status. To Envoy a module's answer is a success of gRPC, unless it says otherwise.
static const char *grpc_status(uint32_t status) {
  switch (status) {
  case 400:
    return "13";
  case 401:
    return "16";
  case 403:
    return "7";
  case 404:
    return "12";
  case 429:
  case 502:
  case 503:
  case 504:
    return "14";
  }
  return "2";
}

static bool is_grpc(void *envoy) {
  static const char grpc[] = "application/grpc";
  if (!ENVOY(http_get_header)) return true; // an Envoy that is refused: rather one header too many
  gh_text type = header(envoy, "content-type");
  size_t n = sizeof grpc - 1;
  return type.len >= n && strncasecmp(type.ptr, grpc, n) == 0 && (type.len == n || type.ptr[n] == '+' || type.ptr[n] == ';');
}

// Answers in the application's place. The stream may be gone afterwards.
static void deny(void *envoy, const gh_reply *reply) {
  gh_header few[HEADERS_ON_STACK], *headers = few;
  const char *at = reply->steps, *end = at + reply->len;
  gh_text name, value, body = {"", 0};
  size_t n = 0;
  int op;
  bool grpc = is_grpc(envoy);
  if (reply->headers >= HEADERS_ON_STACK && !(headers = malloc((reply->headers + 1) * sizeof *headers))) headers = few;
  size_t most = headers == few ? HEADERS_ON_STACK - 1 : reply->headers;
  while (step(&at, end, &op, &name, &value)) {
    if (op == DENIAL_HEADER && is(name, "grpc-status") && value.len) grpc = false;
    if (op == DENIAL_HEADER && n < most)
      headers[n++] = (gh_header){name, value};
    else if (op == DENIAL_BODY)
      body = value;
    else
      metadata(envoy, op, name, value);
  }
  if (grpc) headers[n++] = (gh_header){text("grpc-status"), text(grpc_status(reply->status))};
  ENVOY(http_send_response)(envoy, reply->status ? reply->status : 500, headers, n, body, text("gatehouse_denied"));
  if (headers != few) free(headers);
}

static void done(gh_reply *reply) {
  if (reply->steps != reply->room) free(reply->steps);
}

// Carries out a reply, and returns the state that the stream is in. After DENIED the stream may be gone.
static int carry_out(gh_stream *s, void *envoy, gh_reply *reply) {
  int state = DENIED;
  if (reply->verdict == WAIT) {
    state = s->state = WAITING;
    s->ticket = reply->ticket;
    s->scheduler = ENVOY(http_filter_scheduler_new)(envoy);
    gatehouseStart(s->ticket, s->scheduler);
  } else if (reply->verdict == ALLOW && allow(s, envoy, reply)) {
    state = s->state = PASSED;
  } else {
    s->state = DENIED;
    if (reply->verdict == ALLOW) { // its answer's headers cannot be kept
      reply->status = 500;
      reply->len = reply->headers = 0;
    }
    deny(envoy, reply);
  }
  done(reply);
  return state;
}

// ---- requests

static gh_text attribute(void *envoy, int which) {
  gh_text value = {NULL, 0};
  if (!ENVOY(http_filter_get_attribute_string)(envoy, which, &value)) value = (gh_text){NULL, 0};
  return value;
}

enum { ROOM = 8192, CHUNKS_ON_STACK = 32 };

// Asks Go about the request, with what there is of its body.
static int decide(gh_stream *s, void *envoy, bool buffered, bool in_data) {
  gh_header few[HEADERS_ON_STACK * 2];
  gh_text pieces[CHUNKS_ON_STACK];
  char room[ROOM];
  gh_request r = {.filter = s->config->filter, .headers = few, .body = pieces, .buffered = buffered, .received = s->received};
  gh_reply reply = {.room = room, .cap = sizeof room, .steps = room};
  if (!s->config->broken) {
    r.headers_n = ENVOY(http_get_headers_size)(envoy, REQUEST_HEADERS);
    if (r.headers_n > HEADERS_ON_STACK * 2) r.headers = malloc(r.headers_n * sizeof *r.headers);
    size_t old = 0, new = 0;
    if (buffered) {
      bool same = in_data && ENVOY(http_received_buffered_request_body)(envoy);
      old = same ? 0 : ENVOY(http_get_body_chunks_size)(envoy, BUFFERED_BODY);
      new = in_data ? ENVOY(http_get_body_chunks_size)(envoy, RECEIVED_BODY) : 0;
      if (old + new > CHUNKS_ON_STACK) r.body = malloc((old + new) * sizeof *r.body);
    }
    if (!r.headers || !r.body) {
      if (r.headers != few) free(r.headers);
      if (r.body != pieces) free(r.body);
      s->state = DENIED;
      reply.status = 500;
      deny(envoy, &reply);
      return DENIED;
    }
    if (!ENVOY(http_get_headers)(envoy, REQUEST_HEADERS, r.headers)) r.headers_n = 0;
    if (old) ENVOY(http_get_body_chunks)(envoy, BUFFERED_BODY, r.body);
    if (new) ENVOY(http_get_body_chunks)(envoy, RECEIVED_BODY, r.body + old);
    r.body_n = old + new;
    r.protocol = attribute(envoy, REQUEST_PROTOCOL);
    r.destination = attribute(envoy, DESTINATION_ADDRESS);
    ENVOY(http_get_downstream_direct_remote_address)(envoy, &r.source);
    r.tls = attribute(envoy, TLS_VERSION).len > 0;
    if (r.tls) {
      r.server_name = attribute(envoy, SERVER_NAME);
      r.peer_uri = attribute(envoy, PEER_URI);
      r.peer_dns = attribute(envoy, PEER_DNS);
      r.peer_subject = attribute(envoy, PEER_SUBJECT);
      r.local_uri = attribute(envoy, LOCAL_URI);
      r.local_dns = attribute(envoy, LOCAL_DNS);
      r.local_subject = attribute(envoy, LOCAL_SUBJECT);
    }
    const gh_route *route = ENVOY(get_most_specific_route_config)(envoy);
    if (route) r.route = route->route;
  }
  gatehouseDecide(&r, &reply);
  if (r.headers != few) free(r.headers);
  if (r.body != pieces) free(r.body);
  return carry_out(s, envoy, &reply);
}

// Whether a list of words has one.
static bool lists(gh_text t, const char *word) {
  while (t.len) {
    const char *comma = memchr(t.ptr, ',', t.len);
    gh_text one = {t.ptr, comma ? (size_t)(comma - t.ptr) : t.len};
    size_t skip = one.len + (comma ? 1 : 0);
    while (one.len && (*one.ptr == ' ' || *one.ptr == '\t')) one.ptr++, one.len--;
    while (one.len && (one.ptr[one.len - 1] == ' ' || one.ptr[one.len - 1] == '\t')) one.len--;
    if (is(one, word)) return true;
    t = (gh_text){t.ptr + skip, t.len - skip};
  }
  return false;
}

// Whether the body is one of frames that go on for as long as both sides like: a websocket, over HTTP/1 or with extended CONNECT.
static bool is_stream(void *envoy) {
  if (lists(header(envoy, "connection"), "upgrade") && is(header(envoy, "upgrade"), "websocket")) return true;
  gh_text protocol = header(envoy, ":protocol");
  return is(header(envoy, ":method"), "CONNECT") && protocol.len && !is(protocol, "bytestream");
}

HOOK const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *envoy) {
  gh_stream *s = calloc(1, sizeof *s);
  if (s) s->config = config;
  return s;
}

HOOK int envoy_dynamic_module_on_http_filter_request_headers(void *envoy, const void *stream, bool end) {
  gh_stream *s = (gh_stream *)stream;
  if (!s) return HEADERS_STOP;
  const gh_config *c = s->config;
  if (c->body && !c->broken && !end && !is_stream(envoy)) {
    const gh_route *route = ENVOY(get_most_specific_route_config)(envoy);
    if (!route || !route->no_body) {
      if (!c->partial) ENVOY(http_set_buffer_limit)(envoy, c->max_body);
      s->state = BUFFERING;
      return HEADERS_STOP;
    }
  }
  switch (decide(s, envoy, false, false)) {
  case PASSED:
    return HEADERS_CONTINUE;
  case WAITING:
    return HEADERS_STOP_ALL_WATERMARK;
  }
  return HEADERS_STOP;
}

HOOK int envoy_dynamic_module_on_http_filter_request_body(void *envoy, const void *stream, bool end) {
  gh_stream *s = (gh_stream *)stream;
  if (!s) return BODY_STOP_NO_BUFFER;
  int state = s->state;
  if (state == BUFFERING) {
    size_t size = ENVOY(http_get_body_size)(envoy, RECEIVED_BODY);
    size_t before = ENVOY(http_received_buffered_request_body)(envoy) ? 0 : ENVOY(http_get_body_size)(envoy, BUFFERED_BODY);
    s->received += size;
    if (!end && !(s->config->partial && before + size >= s->config->max_body)) return BODY_STOP_BUFFER;
    state = decide(s, envoy, true, true);
  }
  switch (state) {
  case PASSED:
    return BODY_CONTINUE;
  case WAITING:
    return BODY_STOP_WATERMARK;
  }
  return BODY_STOP_NO_BUFFER;
}

HOOK int envoy_dynamic_module_on_http_filter_request_trailers(void *envoy, const void *stream) {
  gh_stream *s = (gh_stream *)stream;
  if (!s) return TRAILERS_STOP;
  int state = s->state;
  if (state == BUFFERING) state = decide(s, envoy, s->received > 0, false);
  return state == PASSED ? TRAILERS_CONTINUE : TRAILERS_STOP;
}

// A decision that was waited for is there.
HOOK void envoy_dynamic_module_on_http_filter_scheduled(void *envoy, const void *stream, uint64_t event) {
  gh_stream *s = (gh_stream *)stream;
  if (!s || s->state != WAITING || event != s->ticket) return;
  char room[ROOM];
  gh_reply reply = {.room = room, .cap = sizeof room, .steps = room};
  gatehouseTake(s->ticket, &reply);
  ENVOY(http_filter_scheduler_delete)(s->scheduler);
  s->scheduler = NULL;
  if (carry_out(s, envoy, &reply) == PASSED) ENVOY(http_filter_continue_decoding)(envoy);
}

// The application's answer, or one of Envoy's own.
HOOK int envoy_dynamic_module_on_http_filter_response_headers(void *envoy, const void *stream, bool end) {
  gh_stream *s = (gh_stream *)stream;
  if (!s || !s->response) return HEADERS_CONTINUE;
  const char *at = s->response, *last = at + s->response_len;
  gh_text name, value, old;
  int op;
  while (step(&at, last, &op, &name, &value)) {
    size_t count = 0;
    if (op == ADD_RESPONSE_IF_ABSENT || op == SET_RESPONSE_IF_PRESENT) {
      ENVOY(http_get_header)(envoy, RESPONSE_HEADERS, name, &old, 0, &count);
      if ((op == SET_RESPONSE_IF_PRESENT) != (count > 0)) continue;
    }
    if (op == ADD_RESPONSE || op == ADD_RESPONSE_IF_ABSENT)
      ENVOY(http_add_header)(envoy, RESPONSE_HEADERS, name, value);
    else
      ENVOY(http_set_header)(envoy, RESPONSE_HEADERS, name, value);
  }
  return HEADERS_CONTINUE;
}

HOOK void envoy_dynamic_module_on_http_filter_destroy(const void *stream) {
  gh_stream *s = (gh_stream *)stream;
  if (!s) return;
  if (s->scheduler) { // it ends while it is decided about: from here on nobody is woken
    gatehouseCancel(s->ticket);
    ENVOY(http_filter_scheduler_delete)(s->scheduler);
  }
  free(s->response);
  free(s);
}

// ---- hooks that Envoy wants to find, and that have nothing to do

HOOK int envoy_dynamic_module_on_http_filter_response_body(void *envoy, const void *stream, bool end) { return BODY_CONTINUE; }
HOOK int envoy_dynamic_module_on_http_filter_response_trailers(void *envoy, const void *stream) { return TRAILERS_CONTINUE; }
HOOK void envoy_dynamic_module_on_http_filter_stream_complete(void *envoy, const void *stream) {}
HOOK void envoy_dynamic_module_on_http_filter_http_callout_done(void *envoy, const void *stream, uint64_t id, int result, gh_header *headers, size_t headers_n,
                                                                 gh_text *body, size_t body_n) {}
HOOK void envoy_dynamic_module_on_http_filter_http_stream_headers(void *envoy, const void *stream, uint64_t id, gh_header *headers, size_t n, bool end) {}
HOOK void envoy_dynamic_module_on_http_filter_http_stream_data(void *envoy, const void *stream, uint64_t id, const gh_text *data, size_t n, bool end) {}
HOOK void envoy_dynamic_module_on_http_filter_http_stream_trailers(void *envoy, const void *stream, uint64_t id, gh_header *trailers, size_t n) {}
HOOK void envoy_dynamic_module_on_http_filter_http_stream_complete(void *envoy, const void *stream, uint64_t id) {}
HOOK void envoy_dynamic_module_on_http_filter_http_stream_reset(void *envoy, const void *stream, uint64_t id, int reason) {}
HOOK void envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(void *envoy, const void *stream) {}
HOOK void envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(void *envoy, const void *stream) {}
