//go:build !pprof

package server

import "net/http"

// profile adds nothing: see pprof.go.
func profile(*http.ServeMux) {}
