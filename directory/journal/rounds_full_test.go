//go:build full

package journal_test

const killRounds = 200
