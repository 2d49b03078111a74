package bundles

// Unpack lets the tests hand archives over byte by byte.
var Unpack = unpack
