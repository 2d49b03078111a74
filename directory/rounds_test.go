//go:build !full

package directory_test

// Number and length of the random histories compared with the model.
const histories, batches = 1, 24
