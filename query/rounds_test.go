//go:build !full

package query_test

const rounds = 2_500 // queries that are put to the frameworks
