//go:build full

package bundles_test

const killRounds = 100
