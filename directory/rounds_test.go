//go:build !full

package directory_test

// How many random histories are held against the model, and how long they are.
const histories, batches = 1, 24
