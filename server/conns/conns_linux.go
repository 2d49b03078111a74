package conns

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerUser names the user at the other end of a unix socket, as the kernel has it. Without an answer all are one.
func peerUser(c *net.UnixConn) string {
	name := "unix"
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if who, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				name = fmt.Sprint("user ", who.Uid)
			}
		})
	}
	return name
}
