//go:build !linux

package sandbox

import "syscall"

// processAttributes puts a child into a group of its own. Only Linux can also end it when we are killed.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
