//go:build !full

package bounds_test

// rounds is the number of combinations of hostile operands for each built-in.
const rounds = 3
