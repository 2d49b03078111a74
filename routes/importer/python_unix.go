//go:build unix

package importer

import (
	"os/exec"
	"syscall"
)

// ownGroup runs a command in its own process group, so that its children end with the context too.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
