package main

import (
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// central is a server that takes decisions from clients with a certificate and a token.
type central struct {
	*httptest.Server
	mu    sync.Mutex // guards what follows
	token string
	ids   []string
}

func newCentral(t *testing.T, ca *authority) *central {
	t.Helper()
	c := &central{token: "first"}
	c.Server = httptest.NewUnstartedServer(c)
	c.TLS = &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "localhost")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool()}
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

// ServeHTTP implements http.Handler.
func (c *central) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.Header.Get("Authorization") != "Bearer "+c.token || req.URL.Path != "/logs" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var events []struct {
		ID string `json:"decision_id"`
	}
	in, err := gzip.NewReader(req.Body)
	if err == nil {
		err = json.NewDecoder(in).Decode(&events)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, e := range events {
		if !slices.Contains(c.ids, e.ID) {
			c.ids = append(c.ids, e.ID)
		}
	}
}

// has waits until the server has n decisions.
func (c *central) has(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("waiting for %d decisions at the server", n), func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.ids) != n {
			return fmt.Errorf("there are %d", len(c.ids))
		}
		return nil
	})
}

// TestDecisionsGoToAServer sends decisions with the credentials of a service, through a new token and reloads that change the sinks.
func TestDecisionsGoToAServer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	c := newCentral(t, ca)
	_, port, err := net.SplitHostPort(c.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	config := func(sinks string) string {
		return plain + `state_dir: state
services: [{name: central, ca: ca.crt, cert: client.crt, key: client.key, bearer_file: token}]
decision_log:
  sinks:
` + strings.NewReplacer("$OPA", `    - opa: {url: "https://localhost:`+port+`/logs", service: central, delay: 10ms}`).Replace(sinks)
	}
	p := newProcess(t, config("    - file: decisions.log\n$OPA\n"))
	cert, key := ca.issue(t, "gatehouse")
	for file, text := range map[string]string{"ca.crt": ca.pem(), "client.crt": cert, "client.key": key, "token": "first\n"} {
		write(t, p.path(file), text)
	}
	p.ready()
	conn := dial(t, p.grpc, nil)
	ask := func() {
		t.Helper()
		if code, _, err := check(t.Context(), conn); code != 200 || err != nil {
			t.Fatal(code, err)
		}
	}
	ask()
	c.has(t, 1)
	p.logged(1)

	c.mu.Lock()
	c.token = "second"
	c.mu.Unlock()
	ask()
	eventually(t, "waiting for an error", func() error {
		if st := p.status().DecisionLog; len(st.Sinks) != 2 || st.Sinks[1].Error != "the server answered 401 Unauthorized" || st.Sinks[1].Unread == 0 || st.Sinks[0].Unread != 0 {
			return fmt.Errorf("%+v", st)
		}
		if _, metrics := p.get("/metrics"); !strings.Contains(metrics, `gatehouse_decision_log_errors_total{sink="opa"}`) ||
			!strings.Contains(metrics, `gatehouse_decision_log_spool_unread_bytes{sink="file"} 0`) {
			return fmt.Errorf("metrics:\n%s", metrics)
		}
		return nil
	})
	write(t, p.path("token"), "second\n")
	c.has(t, 2)

	reload := func(sinks string, n int) {
		t.Helper()
		p.configure(config(sinks))
		p.signal(syscall.SIGHUP)
		eventually(t, "waiting for the reload", func() error {
			if st := p.status().DecisionLog; len(st.Sinks) != n {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
	}
	reload("$OPA\n", 1)
	ask()
	c.has(t, 3)
	reload("$OPA\n    - {name: more, file: more.log}\n    - file: decisions.log\n", 3)
	ask()
	c.has(t, 4)
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSinksOfTheConfiguration(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, log, want string }{
		{"no server", "sinks: [{opa: {delay: 1s}}]", "gatehouse.yaml:5: decision_log.sinks[0].opa: url: is missing"},
		{"no service", `sinks: [{opa: {url: "https://x.example.com/logs", service: there}}]`, `gatehouse.yaml:5: decision_log.sinks[0].opa.service: there is no service "there"`},
		{"clear text", `sinks: [{otlp: {url: "http://x.example.com/v1/logs"}}]`, "plain http is for this machine"},
		{"no folder", `sinks: [{otlp: {url: "http://127.0.0.1/v1/logs"}}]`, "set dir, or state_dir"},
		{"two", "sinks: [{file: a}, {file: b}]\n  dir: d", `two sinks are named "file"`},
		{"a mask", "file: a\n  mask: [/labels]", `mask "/labels": must begin with one of`},
		{"an op", "file: a\n  mask: [{op: swap, path: /input}]", `op is "swap"`},
		{"a key", "file: a\n  mask: [{pth: /input}]", `unknown key "pth" in decision_log.mask[0]: did you mean "path"?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t, plain+"decision_log:\n  "+tt.log+"\n").start()
			if code := p.exit(); code != 2 && code != 1 || !strings.Contains(p.stderr.String(), tt.want) {
				t.Errorf("exit code %d: %s", code, p.stderr.String())
			}
		})
	}
}
