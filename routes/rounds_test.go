//go:build !full

package routes_test

// differentialRequests is how many requests each application gets in the differential test.
const differentialRequests = 500

// expressionCount is how many expressions made at random are put to Python's re.
const expressionCount = 400
