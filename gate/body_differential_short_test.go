//go:build !full

package gate_test

const bodies = 1500
