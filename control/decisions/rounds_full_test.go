//go:build full

package decisions_test

const killRounds = 100
