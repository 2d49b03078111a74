//go:build !linux

package conns

import "net"

func peerUser(*net.UnixConn) string { return "unix" }
