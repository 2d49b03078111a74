//go:build full

package directory_test

const histories, batches = 20, 100
