//go:build !full

package query_test

const rounds = 5_000 // queries that are put to the frameworks
