//go:build full

package decisionlog_test

const rounds = 100
