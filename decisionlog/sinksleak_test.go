package decisionlog_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/input"
)

// body is all that a server was sent.
type body struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *body) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	var in io.Reader = req.Body
	if req.Header.Get("content-encoding") == "gzip" {
		in, _ = gzip.NewReader(req.Body)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintln(&b.text, req.URL, req.Header)
	io.Copy(&b.text, in)
}

func (b *body) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), text)
}

// TestNoSecretLeavesBySinks has servers in OPA's format and in OTLP's, and an entry that has the request's key in everything a client chooses.
func TestNoSecretLeavesBySinks(t *testing.T) {
	for _, secret := range plantedSecrets[:3] {
		var opa, otlp body
		servers := []*httptest.Server{httptest.NewServer(&opa), httptest.NewServer(&otlp)}
		l := open(t, decisionlog.Config{Dir: filepath.Join(t.TempDir(), "spool"), Sinks: []decisionlog.Sink{
			{OPA: serverAt(servers[0].URL)}, {OTLP: serverAt(servers[1].URL)}}})
		end := run(l)
		n := 0
		for _, put := range places {
			e := &decisionlog.Entry{DecisionID: fmt.Sprint("d-", n), Asked: true, Outcome: "deny", Reason: "denied",
				Input: decisionlog.Input{Request: input.Request{Path: "/a?b=1"}}}
			header(e, "authorization", "Bearer "+secret)
			put(e, secret)
			add(t, l, e)
			n++
		}
		for place, put := range map[string]func(e *decisionlog.Entry){
			"method":  func(e *decisionlog.Entry) { e.Method = secret },
			"host":    func(e *decisionlog.Entry) { e.Host = secret + ".example.com" },
			"scheme":  func(e *decisionlog.Entry) { e.Input.Scheme = secret },
			"sni":     func(e *decisionlog.Entry) { e.Input.TLS = &input.TLSSession{SNI: secret} },
			"labels":  func(e *decisionlog.Entry) { e.Input.Source.Labels = map[string]string{"a": secret} },
			"service": func(e *decisionlog.Entry) { e.Input.Source.Service = secret },
		} {
			e := &decisionlog.Entry{DecisionID: "e-" + place, Asked: true, Outcome: "deny", Reason: "denied",
				Input: decisionlog.Input{Request: input.Request{Path: "/a?b=1"}}}
			header(e, "authorization", "Bearer "+secret)
			put(e)
			add(t, l, e)
			n++
		}
		for start := time.Now(); opa.count(`"decision_id"`) < n || otlp.count(`"decision_id"`) < n; time.Sleep(time.Millisecond) {
			if time.Since(start) > time.Minute {
				t.Fatal(opa.count(`"decision_id"`), otlp.count(`"decision_id"`), n)
			}
		}
		finish(t, end)
		for i, b := range []*body{&opa, &otlp} {
			servers[i].Close()
			for line := range strings.SplitSeq(b.text.String(), `{"decision_id"`) {
				findSecrets(t, []string{"OPA", "OTLP"}[i], line)
			}
		}
	}
}
