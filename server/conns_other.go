//go:build !linux

package server

import "net"

func peerUser(*net.UnixConn) string { return "unix" }
