//go:build full

package bounds_test

const rounds = 60
