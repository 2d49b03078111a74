// What the module uses of Envoy's dynamic modules ABI, version v0.2.0: the names, the layouts and the numbers, which are facts of Envoy's binary
// interface. Everything else of the ABI is left out.
//
// The functions that Envoy has are weak: an Envoy without one of them gives a null pointer, which the module looks for before it calls any.
#ifndef GATEHOUSE_ABI_H
#define GATEHOUSE_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GATEHOUSE_ABI "v0.2.0"

// Bytes and their number. Envoy and module pass texts as this, and headers as two of them.
typedef struct {
  const char *ptr;
  size_t len;
} gh_text;

typedef struct {
  gh_text name, value;
} gh_header;

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2 };
enum { RECEIVED_BODY = 0, BUFFERED_BODY = 1 };
enum { LOG_WARN = 3, LOG_ERROR = 4 };

// Answers to Envoy's hooks.
enum { HEADERS_CONTINUE = 0, HEADERS_STOP = 1, HEADERS_STOP_ALL_WATERMARK = 4 };
enum { BODY_CONTINUE = 0, BODY_STOP_BUFFER = 1, BODY_STOP_WATERMARK = 2, BODY_STOP_NO_BUFFER = 3 };
enum { TRAILERS_CONTINUE = 0, TRAILERS_STOP = 1 };

// Attributes of a request.
enum {
  REQUEST_PROTOCOL = 10,
  DESTINATION_ADDRESS = 26,
  SERVER_NAME = 30,
  TLS_VERSION = 31,
  LOCAL_SUBJECT = 32,
  PEER_SUBJECT = 33,
  LOCAL_DNS = 34,
  PEER_DNS = 35,
  LOCAL_URI = 36,
  PEER_URI = 37,
};

#define OF_ENVOY(type, name, ...) type envoy_dynamic_module_callback_##name(__VA_ARGS__) __attribute__((weak))

OF_ENVOY(void, log, int level, gh_text message);
OF_ENVOY(uint32_t, get_concurrency, void);
OF_ENVOY(bool, is_validation_mode, void);
OF_ENVOY(bool, http_get_header, void *filter, int kind, gh_text name, gh_text *value, size_t index, size_t *count);
OF_ENVOY(size_t, http_get_headers_size, void *filter, int kind);
OF_ENVOY(bool, http_get_headers, void *filter, int kind, gh_header *into);
OF_ENVOY(bool, http_set_header, void *filter, int kind, gh_text name, gh_text value);
OF_ENVOY(bool, http_add_header, void *filter, int kind, gh_text name, gh_text value);
OF_ENVOY(void, http_send_response, void *filter, uint32_t status, gh_header *headers, size_t n, gh_text body, gh_text details);
OF_ENVOY(size_t, http_get_body_size, void *filter, int kind);
OF_ENVOY(size_t, http_get_body_chunks_size, void *filter, int kind);
OF_ENVOY(bool, http_get_body_chunks, void *filter, int kind, gh_text *into);
OF_ENVOY(bool, http_received_buffered_request_body, void *filter);
OF_ENVOY(void, http_set_buffer_limit, void *filter, uint64_t bytes);
OF_ENVOY(void, http_set_dynamic_metadata_string, void *filter, gh_text space, gh_text key, gh_text value);
OF_ENVOY(void, http_set_dynamic_metadata_number, void *filter, gh_text space, gh_text key, double value);
OF_ENVOY(bool, http_set_dynamic_metadata_struct, void *filter, gh_text space, gh_text packed);
OF_ENVOY(bool, http_get_downstream_direct_remote_address, void *filter, gh_text *into);
OF_ENVOY(bool, http_filter_get_attribute_string, void *filter, int attribute, gh_text *into);
OF_ENVOY(void, http_clear_route_cache, void *filter);
OF_ENVOY(void, http_filter_continue_decoding, void *filter);
OF_ENVOY(const void *, get_most_specific_route_config, void *filter);
OF_ENVOY(void *, http_filter_scheduler_new, void *filter);
OF_ENVOY(void, http_filter_scheduler_commit, void *scheduler, uint64_t event);
OF_ENVOY(void, http_filter_scheduler_delete, void *scheduler);

#define ENVOY(name) envoy_dynamic_module_callback_##name

#endif
