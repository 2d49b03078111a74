//go:build linux && cgo

// Command envoymodule is libgatehouse.so, the library that Envoy loads as a dynamic module: the gate inside Envoy. What it does is package
// dynmod's; here is the C between that and Envoy. make module builds it, docs/envoy-module.md is about its use.
package main

/*
#cgo CFLAGS: -O2 -Wall -Wno-unused-parameter
#include <stdlib.h>
#include <string.h>
#include "shim.h"
*/
import "C"

import (
	"net/http"
	"runtime/cgo"
	"runtime/debug"
	"sync"
	"unsafe"

	"gatehouse/dynmod"
	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/trial/node"
)

// release is set by the linker.
var release = "dev"

func main() {} // the library has none, and Go wants one

// module is the process's. It is made with the first filter, when Envoy knows how many workers it has.
var module = sync.OnceValue(func() *dynmod.Module {
	return dynmod.New(dynmod.Config{Version: version(), Smoke: node.ReadSmoke, Say: say, Workers: int(C.gh_workers())})
})

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return release + " (in Envoy, " + info.GoVersion + ")"
	}
	return release
}

// say writes into Envoy's own log.
func say(text string) {
	text = "gatehouse: " + text
	c := C.CString(text)
	defer C.free(unsafe.Pointer(c))
	C.gh_say(c, C.size_t(len(text)))
}

// view is a text without a copy: it holds as long as the other side's memory does.
func view(t C.gh_text) string {
	if t.ptr == nil {
		return ""
	}
	return unsafe.String((*byte)(unsafe.Pointer(t.ptr)), int(t.len))
}

func own(t C.gh_text) string { return string(append([]byte(nil), view(t)...)) }

//export gatehouseOpen
func gatehouseOpen(config, lacks C.gh_text, validate C.bool, into *C.gh_config) (ok C.bool) {
	defer panics.Recover("opening a filter")
	f, err := module().Open(own(config), own(lacks), bool(validate))
	if err != nil {
		say(err.Error())
		return false
	}
	into.filter, into.broken = C.uintptr_t(cgo.NewHandle(f)), C.bool(f.Broken() != nil)
	s := f.Settings()
	into.clear_route_cache = C.bool(s.ClearRouteCache)
	if b := s.WithRequestBody; b != nil {
		into.body, into.partial, into.max_body = true, C.bool(b.AllowPartialMessage), C.uint32_t(b.MaxRequestBytes)
	}
	return true
}

//export gatehouseClose
func gatehouseClose(filter C.uintptr_t) {
	defer panics.Recover("closing a filter")
	h := cgo.Handle(filter)
	f := h.Value().(*dynmod.Filter)
	h.Delete()
	module().Close(f)
}

//export gatehouseOpenRoute
func gatehouseOpenRoute(config C.gh_text, into *C.gh_route) (ok C.bool) {
	defer panics.Recover("opening a route's settings")
	r, err := dynmod.ParseRoute(own(config))
	if err != nil {
		say(err.Error())
		return false
	}
	into.route, into.no_body = C.uintptr_t(cgo.NewHandle(r)), C.bool(r.DisableRequestBodyBuffering)
	return true
}

//export gatehouseCloseRoute
func gatehouseCloseRoute(route C.uintptr_t) {
	defer panics.Recover("closing a route's settings")
	cgo.Handle(route).Delete()
}

//export gatehouseDecide
func gatehouseDecide(r *C.gh_request, into *C.gh_reply) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("deciding in Envoy", p)
			lastResort(into)
		}
	}()
	raw := dynmod.Raw{
		Headers:     unsafe.Slice((*gate.Header)(unsafe.Pointer(r.headers)), int(r.headers_n)), // two texts are two strings
		Body:        unsafe.Slice((*string)(unsafe.Pointer(r.body)), int(r.body_n)),
		Protocol:    view(r.protocol),
		Source:      view(r.source),
		Destination: view(r.destination),
		Buffered:    bool(r.buffered),
		Received:    uint64(r.received),
	}
	if r.tls {
		raw.TLS = &dynmod.RawTLS{SNI: view(r.server_name), Peer: dynmod.Names{URI: view(r.peer_uri), DNS: view(r.peer_dns), Subject: view(r.peer_subject)},
			Local: dynmod.Names{URI: view(r.local_uri), DNS: view(r.local_dns), Subject: view(r.local_subject)}}
	}
	if r.route != 0 {
		raw.Route = cgo.Handle(r.route).Value().(*dynmod.Route)
	}
	f := cgo.Handle(r.filter).Value().(*dynmod.Filter)
	put(f.Decide(&raw, room(into)), into)
}

// room is the caller's memory for the steps of a reply.
func room(into *C.gh_reply) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(into.room)), int(into.cap))[:0]
}

// put writes a reply for C. Steps that did not fit into the caller's room go into memory that the caller frees.
func put(reply dynmod.Reply, into *C.gh_reply) {
	into.steps = into.room
	if n := len(reply.Ops); n > 0 && unsafe.Pointer(unsafe.SliceData(reply.Ops)) != unsafe.Pointer(into.room) {
		if n > int(into.cap) {
			into.steps = (*C.char)(C.malloc(C.size_t(n))) // it never returns nil
		}
		copy(unsafe.Slice((*byte)(unsafe.Pointer(into.steps)), n), reply.Ops)
	}
	into.len = C.size_t(len(reply.Ops))
	into.verdict, into.status, into.headers = C.int32_t(reply.Verdict), C.uint32_t(reply.Status), C.uint32_t(reply.Headers)
	into.changes, into.ticket = C.bool(reply.Changes), C.uint64_t(reply.Ticket)
}

// lastResort is a denial that needs nothing.
func lastResort(into *C.gh_reply) {
	into.steps, into.len, into.headers = into.room, 0, 0
	into.verdict, into.status = C.int32_t(dynmod.Deny), http.StatusInternalServerError
}

//export gatehouseStart
func gatehouseStart(ticket C.uint64_t, scheduler unsafe.Pointer) {
	defer panics.Recover("deciding beside Envoy")
	module().Start(uint64(ticket), func() { C.gh_wake(scheduler, ticket) })
}

//export gatehouseTake
func gatehouseTake(ticket C.uint64_t, into *C.gh_reply) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("taking a decision to Envoy", p)
			lastResort(into)
		}
	}()
	put(module().Take(uint64(ticket)), into)
}

//export gatehouseCancel
func gatehouseCancel(ticket C.uint64_t) {
	defer panics.Recover("giving up a decision")
	module().Cancel(uint64(ticket))
}
