package bundles_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

func TestRenameIntoPlaceIsOneActivation(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(0)})
	r := run(t, one(dir))
	r.until("0")
	for i := 1; i <= 10; i++ {
		write(t, elsewhere, map[string]string{"new.rego": answering(i)})
		began := time.Now()
		must(t, os.Rename(filepath.Join(elsewhere, "new.rego"), filepath.Join(dir, "authz.rego")))
		if got := response(t, r.next()); got != strconv.Itoa(i) {
			t.Fatalf("rename %d published %s", i, got)
		}
		t.Logf("rename %d active after %v", i, time.Since(began))
	}
	r.none()
}

// Most tools rename a temporary file in the same directory.
func TestRenameWithinTheDirectoryIsOneActivation(t *testing.T) {
	for _, temporary := range []string{"authz.rego.tmp", ".authz.rego.swp", "authz.rego~", "sedAbCdEf"} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"authz.rego": answering(0)})
		r := run(t, one(dir))
		r.until("0")
		write(t, dir, map[string]string{temporary: answering(1)})
		must(t, os.Rename(filepath.Join(dir, temporary), filepath.Join(dir, "authz.rego")))
		if n := r.until("1"); n != 1 {
			t.Errorf("%s: %d activations, want 1", temporary, n)
		}
		r.none()
	}
}

// volume is a directory that changes like a ConfigMap mounted by Kubernetes.
type volume struct {
	t       *testing.T
	dir     string
	version int
}

// swap updates files as the kubelet does: a new hidden folder, a new link, a rename of the link, links for new files, and removal of the old
// folder.
func (v *volume) swap(files map[string]string) {
	v.t.Helper()
	old, _ := os.Readlink(filepath.Join(v.dir, "..data"))
	v.version++
	stamp := fmt.Sprintf("..2026_03_01_12_00_00.%09d", v.version)
	write(v.t, filepath.Join(v.dir, stamp), files)
	must(v.t, os.Symlink(stamp, filepath.Join(v.dir, "..data_tmp")))
	must(v.t, os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")))
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if _, err := os.Lstat(filepath.Join(v.dir, top)); err != nil {
			must(v.t, os.Symlink(filepath.Join("..data", top), filepath.Join(v.dir, top)))
		}
	}
	if old != "" {
		must(v.t, os.RemoveAll(filepath.Join(v.dir, old)))
	}
}

// paired returns a policy whose two answers come from two files: they differ only if two versions are mixed.
func paired(n int) map[string]string {
	return map[string]string{
		"authz.rego": fmt.Sprintf("package authz\n\nallow := {\"allowed\": true, "+
			"\"headers\": [{\"x-code\": \"%d\"}, {\"x-data\": data.revision}]}\n", n),
		"data.json": fmt.Sprintf(`{"revision": "%d"}`, n),
	}
}

func TestConfigMapSwapIsExactlyOneActivation(t *testing.T) {
	v := &volume{t: t, dir: t.TempDir()}
	v.swap(paired(0))
	r := run(t, one(v.dir))
	r.until("0")
	var slowest time.Duration
	for i := 1; i <= 20; i++ {
		files := paired(i)
		if i%5 == 0 { // a key appears and disappears
			files[fmt.Sprintf("extra%d.rego", i)] = "package extra\n"
		}
		began := time.Now()
		v.swap(files)
		s := r.next()
		slowest = max(slowest, time.Since(began))
		if got := pair(t, s); got != strconv.Itoa(i) {
			t.Fatalf("swap %d published %s", i, got)
		}
	}
	// A surplus activation would have been seen by now, or comes before this one.
	v.swap(paired(21))
	if n := r.until("21"); n != 1 {
		t.Errorf("%d activations after the last swap, want 1", n)
	}
	r.none()
	t.Logf("slowest of 20 swaps: %v", slowest)
}

// pair returns the decision's answer, or fails if versions are mixed.
func pair(t testing.TB, s *policy.Snapshot) string {
	d, err := s.Decide(context.Background(), rego.Object(), time.Now())
	if err != nil || len(d.Headers) != 2 {
		t.Errorf("decision %+v, error %v", d, err)
		return ""
	}
	if d.Headers[0].Value != d.Headers[1].Value {
		t.Errorf("a mixed decision: code %s, data %s", d.Headers[0].Value, d.Headers[1].Value)
	}
	return d.Headers[0].Value
}

func TestConfigMapWithFolders(t *testing.T) {
	v := &volume{t: t, dir: t.TempDir()}
	v.swap(map[string]string{"a/authz.rego": answering(1)})
	r := run(t, one(v.dir))
	r.until("1")
	v.swap(map[string]string{"a/authz.rego": answering(2)})
	if n := r.until("2"); n != 1 {
		t.Errorf("%d activations, want 1", n)
	}
}

func TestInPlaceEditsOfSeveralFilesAreOneActivation(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, paired(0))
	r := run(t, one(dir))
	r.until("0")
	for i := 1; i <= 3; i++ {
		write(t, dir, paired(i))
		if got := pair(t, r.next()); got != strconv.Itoa(i) {
			t.Fatalf("edit %d published %s", i, got)
		}
	}
	r.none()
}

func TestTouchingAFileIsNoActivation(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(0)})
	r := run(t, one(dir))
	r.until("0")
	waitFor(t, func() bool { return !r.manager.Status()[0].ActiveSince.IsZero() })
	attempt := r.manager.Status()[0].LastAttempt
	write(t, dir, map[string]string{"authz.rego": answering(0)})
	waitFor(t, func() bool { return r.manager.Status()[0].LastAttempt.After(attempt) })
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	if n := r.until("1"); n != 1 {
		t.Errorf("%d activations, want 1: the contents had not changed", n)
	}
}

func TestNewFoldersAndFilesInThemAreSeen(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": "package authz\n\nallow := data.deep.down.answer\n",
		"start/data.json": "{}"})
	r := run(t, one(dir))
	r.next()
	write(t, dir, map[string]string{"deep/down/data.json": `{"answer": {"allowed": true, "headers": {"x": "1"}}}`})
	r.until("1")
	write(t, dir, map[string]string{"deep/down/data.json": `{"answer": {"allowed": true, "headers": {"x": "2"}}}`})
	r.until("2")
	must(t, os.Rename(filepath.Join(dir, "deep"), filepath.Join(t.TempDir(), "deep")))
	s := r.next()
	if _, err := s.Decide(context.Background(), rego.Object(), time.Now()); err == nil {
		t.Error("the folder is gone but its data still decides")
	}
}

func TestBrokenPolicyKeepsThePreviousOne(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1), "sub/other.rego": "package other\n"})
	r := run(t, one(dir))
	r.until("1")
	waitFor(t, func() bool { return !r.manager.Status()[0].ActiveSince.IsZero() })
	since := r.manager.Status()[0].ActiveSince

	for _, test := range []struct{ file, content, stage, complaint string }{
		{"authz.rego", broken, "reading", "authz.rego:5: "},
		{"authz.rego", "package authz\n\nallow := nothing\n", "compiling", "authz.rego:3: var nothing is unsafe"},
		{"authz.rego", "package authz\n\nallow := http.send({})\n", "compiling", "policy.capabilities turns it on"},
		{"authz.rego", "package other\n\nallow := true\n", "compiling", "not defined by any rule"},
		{"sub/data.json", "{\n \"a\": 1,\n}", "reading", "sub/data.json:3: "},
	} {
		write(t, dir, map[string]string{"authz.rego": answering(1), test.file: test.content})
		e := r.says(stays)
		fields := e.ContextMap()
		if got := fields["error"].(string); !strings.Contains(got, test.complaint) {
			t.Errorf("logged error %q, want one with %q", got, test.complaint)
		}
		if fields["source"] != dir || fields["bundle"] != "app" || fields["stage"] != test.stage {
			t.Errorf("logged %v, want the bundle app of %s and stage %s", fields, dir, test.stage)
		}
		waitFor(t, func() bool {
			s := r.manager.Status()[0]
			return s.Stage == test.stage && strings.Contains(s.Error, test.complaint) && s.ActiveSince.Equal(since)
		})
		r.none()
		must(t, os.RemoveAll(filepath.Join(dir, "sub", "data.json")))
	}
	write(t, dir, map[string]string{"authz.rego": answering(2)})
	r.until("2")
	waitFor(t, func() bool {
		s := r.manager.Status()[0]
		return s.Error == "" && s.Stage == "" && s.ActiveSince.After(since)
	})
}

// waitFor polls for a state that follows soon and has no event.
func waitFor(t testing.TB, state func() bool) {
	t.Helper()
	for end := time.Now().Add(hangGuard); !state(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a state did not come about")
		}
	}
}

func TestFolderRemovedAndCreatedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	r := run(t, one(dir))
	r.until("1")
	must(t, os.RemoveAll(dir))
	r.says(stays)
	r.none()
	write(t, dir, map[string]string{"authz.rego": answering(2)})
	r.until("2")
	write(t, dir, map[string]string{"authz.rego": answering(3)}) // watched again
	r.until("3")
}

func TestFolderReplacedByRename(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "policy")
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	r := run(t, one(dir))
	r.until("1")
	write(t, filepath.Join(base, "next"), map[string]string{"authz.rego": answering(2)})
	must(t, os.Rename(dir, filepath.Join(base, "previous")))
	must(t, os.Rename(filepath.Join(base, "next"), dir))
	if n := r.until("2"); n != 1 {
		t.Errorf("%d activations, want 1", n)
	}
	// The old folder is no longer watched under its old name; the new one is.
	write(t, base, map[string]string{"previous/authz.rego": answering(3), "policy/authz.rego": answering(4)})
	if n := r.until("4"); n != 1 {
		t.Errorf("%d activations, want 1", n)
	}
}

func TestLinkToTheFolderSwapped(t *testing.T) {
	base := t.TempDir()
	write(t, base, map[string]string{"v1/authz.rego": answering(1), "v2/authz.rego": answering(2)})
	current := filepath.Join(base, "current")
	must(t, os.Symlink("v1", current))
	r := run(t, one(current))
	r.until("1")
	must(t, os.Symlink("v2", current+".new"))
	must(t, os.Rename(current+".new", current))
	if n := r.until("2"); n != 1 {
		t.Errorf("%d activations, want 1", n)
	}
	write(t, base, map[string]string{"v2/authz.rego": answering(3)})
	r.until("3")
}

func TestGitCheckoutConverges(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com",
			"-c", "commit.gpgsign=false"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	many := func(n int) map[string]string {
		files := paired(n)
		for i := range 40 {
			files[fmt.Sprintf("lib/v%d/m%d.rego", n, i)] = fmt.Sprintf("package lib.m%d\n\nn := %d\n", i, n)
		}
		return files
	}
	git("init", "-q", "-b", "one")
	write(t, dir, many(1))
	git("add", ".")
	git("commit", "-q", "-m", "one")
	git("checkout", "-q", "-b", "two")
	git("rm", "-q", "-r", "lib")
	write(t, dir, many(2))
	git("add", ".")
	git("commit", "-q", "-m", "two")
	r := run(t, one(dir))
	if got := pair(t, r.next()); got != "2" {
		t.Fatalf("published %s, want 2", got)
	}
	for i, want := range []string{"1", "2", "1", "2"} {
		git("checkout", "-q", map[string]string{"1": "one", "2": "two"}[want])
		for n := 1; pair(t, r.next()) != want; n++ {
			t.Logf("checkout %d: activation %d was on the way", i, n)
		}
	}
}

func TestEditorsLeftoversAndHiddenFoldersAreNotRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"authz.rego": answering(1), "authz.rego~": broken, ".authz.rego.swp": broken, ".#authz.rego": broken,
		"#authz.rego#": broken, "4913": "", ".git/hooks/x.rego": broken, ".hidden/data.json": "{", "sub/.x.rego": broken,
		"README.md": "# rules",
	})
	m, err := bundles.New(bundles.Config{Sources: one(dir), Policy: policy.Config{Decision: "authz/allow"}})
	must(t, err)
	s, err := m.Load(context.Background())
	must(t, err)
	if got := s.Bundles()[0].Modules; got != 1 {
		t.Errorf("%d modules, want 1", got)
	}
}

func TestPollFindsWhatCausedNoEvent(t *testing.T) {
	base := t.TempDir()
	deep := filepath.Join(base, "a", "b", "policy")
	write(t, deep, map[string]string{"authz.rego": answering(1)})
	r := run(t, one(deep), func(c *bundles.Config) { c.Poll = 20 * time.Millisecond })
	r.until("1")
	// The source's grandparent folder is not watched.
	must(t, os.Rename(filepath.Join(base, "a"), filepath.Join(base, "gone")))
	r.says(stays)
	write(t, filepath.Join(base, "gone", "b", "policy"), map[string]string{"authz.rego": answering(2)})
	must(t, os.Rename(filepath.Join(base, "gone"), filepath.Join(base, "a")))
	r.until("2")
}

func TestConstantWritingIsReadAllTheSame(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(0), "noise.rego": "package noise\n"})
	r := run(t, one(dir))
	r.until("0")
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				_ = os.WriteFile(filepath.Join(dir, "noise.rego"), fmt.Appendf(nil, "package noise\n\nn := %d\n", i), 0o644)
			}
		}
	})
	defer writing.Wait()
	defer close(stop)
	began := time.Now()
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	r.until("1")
	if took := time.Since(began); took > hangGuard {
		t.Errorf("activated after %v under constant writing", took)
	}
}
