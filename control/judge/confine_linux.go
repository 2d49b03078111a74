//go:build amd64 || arm64

package judge

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bounds has the kernel bound memory, time and files of this process, by what control says in its environment.
func bounds() error {
	memory, err := strconv.ParseUint(os.Getenv("GATEHOUSE_JUDGE_MEMORY"), 10, 62)
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseUint(os.Getenv("GATEHOUSE_JUDGE_SECONDS"), 10, 31)
	if err != nil {
		return err
	}
	os.Clearenv()
	for resource, most := range map[int]uint64{
		unix.RLIMIT_DATA:  memory,
		unix.RLIMIT_CPU:   seconds,
		unix.RLIMIT_FSIZE: 4 << 20, // the verdict, should it go to a file
		unix.RLIMIT_CORE:  0,
	} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("limit %d: %w", resource, err)
		}
	}
	return unix.Setpriority(unix.PRIO_PROCESS, 0, 10) // control and its edges come first
}

// allowed are the system calls that the Go runtime needs to compute, and to read and write what is open. None of them
// opens a file or a socket, starts a program or reaches another process.
var allowed = append([]uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_FCNTL, unix.SYS_FSTAT, unix.SYS_LSEEK,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_CLONE, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_RESTART_SYSCALL,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_GETRANDOM, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}, ofThisMachine...)

// Offsets in seccomp_data.
const (
	atNumber       = 0
	atArchitecture = 4
	atArgument0    = 16
)

// filter is the program of seccomp: calls that are not allowed fail with EPERM, and those of another architecture end
// the process. clone may make threads alone. (It is a Berkeley packet filter: jumps count the instructions after theirs.)
func filter() []unix.SockFilter {
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	answer := func(with uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: with} }
	const refused = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	program := []unix.SockFilter{
		load(atArchitecture),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: architecture, Jt: 1},
		answer(unix.SECCOMP_RET_KILL_PROCESS),
		load(atNumber),
		// clone: its flags must have CLONE_THREAD
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jf: 4},
		load(atArgument0),
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_THREAD, Jt: 1},
		answer(refused),
		answer(unix.SECCOMP_RET_ALLOW),
	}
	for _, number := range allowed {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jf: 1}, answer(unix.SECCOMP_RET_ALLOW))
	}
	return append(program, answer(refused))
}

// confine gives up for ever what this process does not need. All of its threads are bound by it.
func confine() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	program := filter()
	with := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&with)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("seccomp: thread %d keeps another filter", thread)
	}
	return nil
}
