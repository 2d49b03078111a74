//go:build !linux

package main

import "net"

func peerUser(*net.UnixConn) string { return "unix" }
