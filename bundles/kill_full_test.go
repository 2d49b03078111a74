//go:build full

package bundles_test

const (
	killRounds = 100
	killBytes  = 3 << 20 // of the bundle
)
