package images

// ParseManifest is parseManifest, for its fuzz target.
var ParseManifest = parseManifest
