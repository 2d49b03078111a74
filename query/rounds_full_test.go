//go:build full

package query_test

const rounds = 200_000 // queries that are put to the frameworks
