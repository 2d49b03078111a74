//go:build !full

package envoy_test

// long says that the long matrices are wanted: build tag full.
const long = false
