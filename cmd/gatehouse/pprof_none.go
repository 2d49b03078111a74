//go:build !pprof

package main

import "net/http"

// profile adds nothing: see pprof.go.
func profile(*http.ServeMux) {}
