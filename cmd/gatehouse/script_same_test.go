//go:build !race || full

package main

// plainScripts says that scripts run a gatehouse without the race detector. This binary has none, or the long tests want it.
const plainScripts = false
