package authzen_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/authzen"
	"gatehouse/decisionlog"
	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door is the API behind a real listener, with its decision log.
type door struct {
	url    string
	client *http.Client
	file   string
	stop   func() // ends the decision log
}

// open serves the API around a gate with a directory and a policy, until the test ends.
func open(t *testing.T, d *directory.Snapshot, modules map[string]string, with authzen.Config) *door {
	t.Helper()
	out := &door{file: filepath.Join(t.TempDir(), "decisions.log")}
	s := gatetest.Settings()
	s.Users = &gate.Users{}
	log, err := decisionlog.New(decisionlog.Config{File: out.file})
	if err != nil {
		t.Fatal(err)
	}
	s.Log = log
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }() // goroutine: of a test, which a panic may end
	out.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(out.stop)
	if modules == nil {
		modules = map[string]string{}
	}
	modules["envoy.rego"] = gatetest.AllowAll
	with.Gate = gatetest.Start(t, gate.Config{}, gatetest.With(t, s, gatetest.Compile(t, policy.Config{Decision: gatetest.Decision}, "test", modules)),
		func(v *gate.View) { v.Directory = d })
	with.Authenticate = func(authorization string) (authzen.Client, error) {
		switch authorization {
		case "Bearer app":
			return authzen.Client{ID: "app", ActAs: true}, nil
		case "basic reader":
			return authzen.Client{ID: "reader"}, nil
		}
		return authzen.Client{}, errors.New("unknown key")
	}
	h, err := authzen.New(with)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	out.url, out.client = server.URL, server.Client()
	return out
}

// logged ends the log and gives its lines.
func (d *door) logged(t *testing.T) (lines []map[string]any) {
	t.Helper()
	d.stop()
	text, err := os.ReadFile(d.file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, entry)
	}
	return lines
}

// send sends a request as it is told to, and gives the answer with its body.
func (d *door) send(t *testing.T, method, path, body string, header map[string]string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	resp, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// ask posts JSON with a good key, and gives status and body.
func (d *door) ask(t *testing.T, path, body string) (int, string) {
	t.Helper()
	resp, text := d.send(t, http.MethodPost, path, body, map[string]string{"authorization": "Bearer app", "content-type": "application/json"})
	return resp.StatusCode, text
}

// snapshot is a directory of a manifest and relations as text, object#relation@subject; their ends come with them.
func snapshot(t *testing.T, manifest string, limits directory.Limits, relations ...string) *directory.Snapshot {
	t.Helper()
	m, err := directory.ParseManifest("manifest.yaml", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	ref := func(text string) directory.Ref {
		typ, id, _ := strings.Cut(text, ":")
		return directory.Ref{Type: typ, ID: id}
	}
	var objects, all []directory.Change
	for _, text := range relations {
		object, rest, related := strings.Cut(text, "#")
		objects = append(objects, directory.Change{SetObject: &directory.Object{Ref: ref(object)}})
		if !related {
			continue
		}
		relation, rest, _ := strings.Cut(rest, "@")
		subject, set, _ := strings.Cut(rest, "#")
		if s := ref(subject); s.ID != "*" {
			objects = append(objects, directory.Change{SetObject: &directory.Object{Ref: s}})
		}
		all = append(all, directory.Change{SetRelation: &directory.Relation{Object: ref(object), Relation: relation, Subject: ref(subject), SubjectRelation: set}})
	}
	s, err := directory.New(m, limits).Apply(append(objects, all...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
