package children

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

// handedOut counts the ports that FreePort gave away, so that none is given twice.
var handedOut atomic.Int32

// FreePort is a port of 127.0.0.1 that nobody uses. It lies below those that kernels give to outgoing connections, and another
// call gives another one: until a process binds it nobody else is likely to.
func FreePort() (int, error) {
	const first, count = 15000, 15000
	for range 1000 {
		port := first + (os.Getpid()*61+int(handedOut.Add(1)))%count
		if IsFree(port) {
			return port, nil
		}
	}
	return 0, errors.New("no port of 127.0.0.1 is free: close some programs or raise the limit on open files")
}

// IsFree reports whether nobody listens on a port of 127.0.0.1.
func IsFree(port int) bool {
	l, err := net.Listen("tcp", Loopback(port))
	return err == nil && l.Close() == nil
}

// Loopback is the address of a port of 127.0.0.1.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
