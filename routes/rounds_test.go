//go:build !full

package routes_test

// differentialRequests is how many requests each application gets in the differential test.
const differentialRequests = 1000
