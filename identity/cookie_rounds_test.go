//go:build !full

package identity_test

const cookieRounds = 2_000 // Cookie headers that are put to the frameworks
