//go:build !linux

package children

import "syscall"

// attributes puts a child into a group of its own. Only Linux can also end it when we are killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
