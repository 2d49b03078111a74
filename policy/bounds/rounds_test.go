//go:build !full

package bounds_test

// rounds is how many combinations of hostile operands each built-in is called with.
const rounds = 3
