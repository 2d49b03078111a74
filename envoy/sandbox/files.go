package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gatehouse/identity/mint"
)

// The ports that every application's envoy.yaml and gatehouse.yaml are written with.
var written = ports{app: 8000, http: 8080, envoyAdmin: 9901, grpc: 9191, admin: 9192}

// writeFiles fills the work directory: policy, directory, keys and both configurations.
func (s *Sandbox) writeFiles() error {
	for _, old := range []string{s.PolicyDir(), s.DecisionLog(), s.path("orders.db"), s.path("logs"), s.path(".gatehouse"), s.DirectoryDir(),
		s.path("key.pem"), s.path("jwks.json")} {
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("clearing work directory: %w", err)
		}
	}
	if err := os.MkdirAll(s.PolicyDir(), 0o755); err != nil {
		return fmt.Errorf("making work directory: %w", err)
	}
	if err := s.cfg.Policy(s.PolicyDir()); err != nil {
		return fmt.Errorf("filling policy directory: %w", err)
	}
	if people := filepath.Join(s.cfg.App, "directory"); exists(people) {
		if err := os.CopyFS(s.DirectoryDir(), os.DirFS(people)); err != nil {
			return fmt.Errorf("copying the directory: %w", err)
		}
	}
	var err error
	if s.issuer, err = mint.OpenLocalIssuer(s.cfg.WorkDir, Issuer); err != nil {
		return err
	}
	if err := s.writeEnvoyConfig(); err != nil {
		return err
	}
	if s.cfg.Gatehouse == "" {
		return nil
	}
	return s.copyConfig("gatehouse.yaml", map[string]string{
		hostPort(written.grpc):  hostPort(s.ports.grpc),
		hostPort(written.admin): hostPort(s.ports.admin),
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (s *Sandbox) writeEnvoyConfig() error {
	grpc := s.ports.grpc
	if s.cfg.Authz != "" {
		_, port, err := net.SplitHostPort(s.cfg.Authz)
		if err != nil {
			return fmt.Errorf("sandbox: Authz %q: %w", s.cfg.Authz, err)
		}
		if grpc, err = strconv.Atoi(port); err != nil {
			return fmt.Errorf("sandbox: Authz %q: %w", s.cfg.Authz, err)
		}
	}
	value := func(port int) string { return fmt.Sprintf("port_value: %d}", port) }
	if own := filepath.Join(s.cfg.App, "envoy-module.yaml"); s.cfg.Module != "" && exists(own) {
		err := s.copyConfig("envoy-module.yaml", map[string]string{
			value(written.app):        value(s.ports.app),
			value(written.http):       value(s.ports.http),
			value(written.envoyAdmin): value(s.ports.envoyAdmin),
		})
		if err != nil {
			return err
		}
		return os.Rename(s.path("envoy-module.yaml"), s.path("envoy.yaml"))
	}
	err := s.copyConfig("envoy.yaml", map[string]string{
		value(written.app):        value(s.ports.app),
		value(written.http):       value(s.ports.http),
		value(written.envoyAdmin): value(s.ports.envoyAdmin),
		value(written.grpc):       value(grpc),
	})
	if err != nil || s.cfg.Module == "" {
		return err
	}
	text, err := os.ReadFile(s.path("envoy.yaml"))
	if err != nil {
		return err
	}
	changed, err := InModule(string(text), s.path("gatehouse.yaml"))
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("envoy.yaml"), []byte(changed), 0o644)
}

// copyConfig copies one of the application's files to the work directory with each key of changes replaced by its value.
// A key that does not occur is an error: the file would go on using a port that is not ours.
func (s *Sandbox) copyConfig(name string, changes map[string]string) error {
	source := filepath.Join(s.cfg.App, name)
	text, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	var pairs []string
	for from, to := range changes {
		if !strings.Contains(string(text), from) {
			return fmt.Errorf("%s: %q not found; the sandbox puts a free port there", source, from)
		}
		pairs = append(pairs, from, to)
	}
	changed := strings.NewReplacer(pairs...).Replace(string(text))
	if s.cfg.LongDeadlines {
		changed = LongDeadlines(changed)
	}
	if err := os.WriteFile(s.path(name), []byte(changed), 0o644); err != nil {
		return fmt.Errorf("writing configuration: %w", err)
	}
	return nil
}

// LongDeadlines is the text of an envoy.yaml or gatehouse.yaml with the examples' deadlines for a decision made long.
func LongDeadlines(text string) string {
	if !strings.Contains(text, "\n  timeout: ") { // policy.timeout
		text = strings.Replace(text, "\npolicy:\n", "\npolicy:\n  timeout: 4s\n", 1)
	}
	return strings.ReplaceAll(text, " timeout: 0.25s\n", " timeout: 5s\n")
}
