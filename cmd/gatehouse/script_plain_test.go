//go:build race && !full

package main

// plainScripts says that scripts run a gatehouse without the race detector.
const plainScripts = true
