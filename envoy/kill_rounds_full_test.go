//go:build full

package envoy_test

const kills = 100
