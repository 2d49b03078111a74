//go:build pprof

package server

import (
	"net/http"
	"net/http/pprof"
)

// profile adds /debug/pprof to the admin port, in binaries that were built for it (make profile). Others have none: a profile of the heap
// shows what requests held.
func profile(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
