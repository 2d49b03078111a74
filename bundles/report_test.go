package bundles_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/upstream"
)

// report is the request body as documented for OPA's status API.
type report struct {
	Labels  map[string]string
	Bundles map[string]struct {
		Name           string    `json:"name"`
		ActiveRevision string    `json:"active_revision"`
		Activation     time.Time `json:"last_successful_activation"`
		Download       time.Time `json:"last_successful_download"`
		Type           string    `json:"type"`
		Size           int       `json:"size"`
		Code           string    `json:"code"`
		Message        string    `json:"message"`
		Errors         []struct {
			Code     string `json:"code"`
			Message  string `json:"message"`
			Location struct {
				File string `json:"file"`
				Row  int    `json:"row"`
			} `json:"location"`
		} `json:"errors"`
	}
}

// statusService stores the reports that it accepts.
type statusService struct {
	*httptest.Server
	reports chan report
	refuse  atomic.Bool
}

func newStatusService(t *testing.T, token string) *statusService {
	t.Helper()
	s := &statusService{reports: make(chan report, 1000)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body report
		switch {
		case s.refuse.Load():
			http.Error(w, "", http.StatusServiceUnavailable)
		case r.Method != http.MethodPost || r.URL.Path != "/status" || r.Header.Get("Content-Type") != "application/json" || !bearer(token)(r):
			http.Error(w, "", http.StatusBadRequest)
		case json.NewDecoder(r.Body).Decode(&body) != nil:
			http.Error(w, "", http.StatusBadRequest)
		default:
			s.reports <- body
			fmt.Fprint(w, "{}")
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// until waits for a matching report.
func (s *statusService) until(t *testing.T, what string, ok func(report) bool) report {
	t.Helper()
	timeout := time.After(hangGuard)
	for {
		select {
		case r := <-s.reports:
			if ok(r) {
				return r
			}
		case <-timeout:
			t.Fatalf("%s was not reported", what)
		}
	}
}

func TestStatusReports(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte("t"), 0o600))
	status := newStatusService(t, "t")
	server := newBundleServer(t, answers(1))
	r := run(t, from(server.URL), func(c *bundles.Config) {
		c.Report = &bundles.Report{URL: status.URL + "/status", Service: upstream.Service{BearerFile: token}, Labels: map[string]string{"region": "eu"}}
	})
	r.next()
	got := status.until(t, "the activation", func(r report) bool { return r.Bundles["app"].ActiveRevision != "" })
	b := got.Bundles["app"]
	if got.Labels["region"] != "eu" || b.Name != "app" || b.Code != "" || b.Size == 0 || b.Type != "snapshot" || b.Download.IsZero() || b.Activation.IsZero() {
		t.Errorf("report %+v", got)
	}
	status.refuse.Store(true) // after an outage only the newest state is sent
	server.set(packed(t, map[string]string{"a.rego": broken}))
	r.says(stays)
	r.says("the state of the bundles cannot be reported")
	server.set(packed(t, map[string]string{"b.rego": broken}))
	r.says(stays)
	status.refuse.Store(false)
	got = status.until(t, "the failure", func(report) bool { return true })
	b = got.Bundles["app"]
	if b.Code != "bundle_error" || len(b.Errors) != 1 || b.Errors[0].Code != "reading_error" || b.Errors[0].Location.File != "b.rego" || b.Errors[0].Location.Row != 5 || b.ActiveRevision == "" {
		t.Errorf("report %+v", b)
	}
	server.failing(unavailable)
	status.until(t, "the server's failure", func(r report) bool {
		return r.Bundles["app"].Code != "" // the error of the newest bundle takes precedence
	})
	server.failing(nil)
	server.set(packed(t, answers(3)))
	status.until(t, "the recovery", func(r report) bool { return r.Bundles["app"].Code == "" })
	server.failing(unavailable)
	status.until(t, "the server's failure", func(r report) bool {
		b := r.Bundles["app"]
		return b.Code == "bundle_error" && strings.Contains(b.Message, "503") && b.Errors[0].Code == "downloading_error"
	})
}

func TestReportsThatAreRefused(t *testing.T) {
	t.Parallel()
	for want, report := range map[string]bundles.Report{
		"status: interval":          {URL: "https://a.example", Interval: time.Millisecond},
		"status: url":               {URL: "http://a.example/status"},
		"status: bearer token":      {URL: "https://a.example", Service: upstream.Service{BearerFile: "/nonexistent"}},
		"status: client certificat": {URL: "https://a.example", Service: upstream.Service{Cert: "/nonexistent", Key: "/nonexistent"}},
	} {
		if _, err := bundles.New(bundles.Config{Sources: one(t.TempDir()), Report: &report}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
