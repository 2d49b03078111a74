package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestServeSaysWhatIsDegraded breaks one part after the other of a running process: it stays ready, says what is wrong at all three places, and no
// longer says it when it is mended.
func TestServeSaysWhatIsDegraded(t *testing.T) {
	t.Parallel()
	config := plain + "routes: {file: routes.yaml}\ndecision_log: {file: decisions.log, dir: spool}\n"
	p := newProcess(t, config)
	const table = "framework: flask\nroutes:\n  - GET /orders\n"
	write(t, p.path("routes.yaml"), table)
	p.ready()
	says := func(part, want string) {
		t.Helper()
		eventually(t, "waiting for "+part, func() error {
			code, body := p.get("/readyz")
			_, metrics := p.get("/metrics")
			status := strings.Join(p.status().Degraded, "; ")
			value := "1"
			if want == "" {
				value = "0"
			}
			if code != http.StatusOK || !strings.Contains(body, want) || !strings.Contains(status, want) || want == "" && body != "ready\n" ||
				!strings.Contains(metrics, fmt.Sprintf("gatehouse_degraded{part=%q} %s", part, value)) {
				return fmt.Errorf("%d %s / %s", code, body, status)
			}
			return nil
		})
	}
	says("routes", "")
	write(t, p.path("routes.yaml"), "nonsense: [")
	says("routes", "routes.yaml cannot be used, the old table stays: ")
	write(t, p.path("routes.yaml"), table+"  - GET /more\n")
	says("routes", "")

	p.configure(strings.Replace(config, "policy:", "unknown_key: 1\npolicy:", 1))
	p.signal(syscall.SIGHUP)
	says("reload", "reload: the last one failed, the configuration before it stays active: ")
	if log := p.stderr.String(); strings.Contains(log, "nothing was started") || !strings.Contains(log, "the running configuration stays") {
		t.Error("a reload that failed says that nothing was started")
	}
	p.configure(strings.Replace(config, "listen: {", "listen: {max_streams: 77, idle_timeout: 2h, socket: {mode: \"0600\"}, ", 1))
	p.signal(syscall.SIGHUP)
	says("reload", "reload: changed, and needs a restart: listen.socket.mode, listen.max_streams, listen.idle_timeout")
	if log := p.stderr.String(); !strings.Contains(log, `"key":"listen.max_streams"`) || strings.Contains(log, `"key":"listen.grpc"`) {
		t.Error("the key that needs a restart is not named")
	}
	p.configure(config + "state_dir: elsewhere\n")
	p.signal(syscall.SIGHUP)
	says("reload", "reload: changed, and needs a restart: state_dir")
	if _, err := os.Stat(p.path("elsewhere")); !os.IsNotExist(err) {
		t.Error("the folder is in use without a restart:", err)
	}
	p.configure(config)
	p.signal(syscall.SIGHUP)
	says("reload", "")

	if err := os.RemoveAll(p.path("spool")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	says("decision_log", "decision log: the spool: the folder was removed while it was in use, and made again")
	if _, _, err := check(t.Context(), dial(t, p.grpc, nil)); err != nil {
		t.Error(err)
	}
}
