//go:build !full

package bundles_test

const (
	killRounds = 10
	killBytes  = 768 << 10 // of the bundle; smaller in make test, because making and reading it takes most of the time
)
