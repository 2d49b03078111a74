// Between the hooks that Envoy calls (shim.c) and Go (module.go).
#ifndef GATEHOUSE_SHIM_H
#define GATEHOUSE_SHIM_H

#include "abi.h"

// A filter of Envoy's configuration.
typedef struct {
  uintptr_t filter; // Go's, by number
  bool broken;      // it denies everything, and asks Envoy for nothing
  bool body, partial, clear_route_cache;
  uint32_t max_body;
} gh_config;

// The settings of a route.
typedef struct {
  uintptr_t route; // Go's, by number
  bool no_body;
} gh_route;

// A request, as Go gets it: all of it is Envoy's memory.
typedef struct {
  uintptr_t filter, route; // by number; 0 is no route
  gh_header *headers;
  size_t headers_n;
  gh_text protocol, source, destination;
  bool tls;
  gh_text server_name, peer_uri, peer_dns, peer_subject, local_uri, local_dns, local_subject;
  bool buffered;
  gh_text *body;
  size_t body_n;
  uint64_t received;
} gh_request;

enum { DENY = 0, ALLOW = 1, WAIT = 2 };

// A reply. Go writes the steps into the caller's room where they fit, else into memory that the caller frees: steps is then not room.
typedef struct {
  char *room;
  size_t cap;
  char *steps;
  size_t len;
  int32_t verdict;
  uint32_t status, headers;
  bool changes;
  uint64_t ticket;
} gh_reply;

// For Go.
void gh_say(char *text, size_t len);
void gh_wake(void *scheduler, uint64_t ticket);
uint32_t gh_workers(void);

#endif
