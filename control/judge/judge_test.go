//go:build linux

package judge

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/control/policies"
	"gatehouse/policy/bundle"
)

// asPrisoner has this program confine itself and then try to get out, instead of running tests.
const asPrisoner = "GATEHOUSE_TEST_PRISONER"

func TestMain(m *testing.M) {
	Main()
	if os.Getenv(asPrisoner) != "" {
		prisoner()
		return
	}
	os.Exit(m.Run())
}

// prisoner prints what it could do after confine.
func prisoner() {
	done := make(chan struct{})
	ready := make(chan struct{})
	go func() { // a thread that is there before
		<-ready
		_, err := os.ReadFile("/etc/passwd")
		fmt.Println("file from another thread:", err == nil)
		close(done)
	}()
	if err := confine(); err != nil {
		fmt.Println("confine:", err)
		return
	}
	close(ready)
	<-done
	try := func(what string, err error) { fmt.Printf("%s: %v\n", what, err == nil) }
	_, err := os.ReadFile("/etc/passwd")
	try("file", err)
	try("write", os.WriteFile("/tmp/escaped", nil, 0o600))
	_, err = net.DialTimeout("tcp", "127.0.0.1:1", time.Second)
	try("dial", err)
	_, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	try("socket", err)
	try("program", exec.Command("/bin/true").Run())
	try("signal", syscall.Kill(os.Getppid(), 0))
	_, _, errno := syscall.RawSyscall(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, uintptr(os.Getppid()), 0)
	fmt.Println("ptrace:", errno == 0)
	_, _, errno = syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
	fmt.Println("fork:", errno == 0)
	fmt.Println("end")
}

// TestConfine: the process that looks at a stranger's bundle opens nothing, starts nothing and reaches nobody.
func TestConfine(t *testing.T) {
	c := exec.Command(os.Args[0])
	c.Env = []string{asPrisoner + "=1"}
	out, err := c.CombinedOutput()
	if text := string(out); err != nil || strings.Contains(text, ": true") || !strings.HasSuffix(text, "end\n") || strings.Count(text, ": false") != 9 {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestHostile: a bundle that wants the machine for itself is refused in time, and others are checked after it.
func TestHostile(t *testing.T) {
	with, memory := policies.Checker{Memory: 400 << 20, Time: 4 * time.Second}, "MiB of memory"
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		with.Memory, memory = 1<<30, "MiB of memory|were not done after|ThreadSanitizer failed to allocate" // the detector takes most of it, is slow, and ends in its own way
	}
	c := policies.NewChecker(with)
	with.Time, with.Memory = time.Minute, with.Memory/3 // on a busy machine it takes its time to fill the memory
	patient := policies.NewChecker(with)
	check := func(name, test string) (*policies.Verdict, error) {
		c := c
		if name == "memory" {
			c = patient
		}
		data := "{}"
		if name == "memory" {
			data = "{\"list\": [1" + strings.Repeat(",[1,[2]]", 1<<20) + "]}"
		}
		return c.Check(t.Context(), policies.Job{Decision: "envoy/authz/allow", Files: map[string][]byte{
			"data.json":       []byte(data),
			"authz.rego":      []byte("package envoy.authz\n\ndefault allow := true\n"),
			"authz_test.rego": []byte("package authz_test\n\ntest_it if {\n" + test + "\n}\n"),
		}})
	}
	for name, row := range map[string]struct{ test, want string }{
		"endless":   {"count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i + j < 0]) == 0", "took more than|ran for more than|were not done after"},
		"memory":    {"true", memory},
		"network":   {"http.send({\"method\": \"GET\", \"url\": \"https://example.com\"}).status_code == 200", "authz_test.rego:4: the built-in http.send is off"},
		"runtime":   {"opa.runtime().env.HOME", "authz_test.rego:4: the built-in opa.runtime is off"},
		"time zone": {"time.clock([0, \"Europe/Berlin\"]) == [1, 0, 0]", ""},
	} {
		v, err := check(name, row.test)
		found := row.want == ""
		for _, part := range strings.Split(row.want, "|") {
			found = found || err != nil && strings.Contains(err.Error(), part)
		}
		_, refused := err.(bundle.Problems)
		refused = refused || err != nil && strings.Contains(err.Error(), "ThreadSanitizer")
		if !found || refused != (row.want != "") {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}
