//go:build unix

package importer

import (
	"os/exec"
	"syscall"
)

// ownGroup has a command, with whatever it starts, end with its context.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
