package control_test

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
)

func zipped(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestDecisionsThatAreRefused: only an edge's certificate lets decisions in, whatever else is shown; what is no list of entries is refused
// with the status that has an edge send less. Who was refused is in the log, and no entry is.
func TestDecisionsThatAreRefused(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	key, der := signingRequest(t)
	stranger := &http.Client{Transport: transport(t, s.AuthorityFile(), nil, nil)}
	got, err := api.NewEdgeServiceClient(stranger, s.url()).Enroll(t.Context(), connect.NewRequest(&api.EnrollRequest{Token: s.enrollment(prod, "web"), Request: der, Name: "web", Version: "v"}))
	if err != nil {
		t.Fatal(err)
	}
	edge := &http.Client{Transport: transport(t, s.AuthorityFile(), &tls.Certificate{Certificate: [][]byte{got.Msg.GetCertificate()}, PrivateKey: key}, nil)}
	send := func(c *http.Client, encoding, token, body string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url()+control.DecisionsPath, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Encoding", encoding)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	const entry = `[{"decision_id":"1","timestamp":"2026-03-01T10:00:00Z","outcome":"deny","labels":{"edge":"another"},"identity":{"subject":"very-secret"}}]`
	for name, test := range map[string]struct {
		client          *http.Client
		encoding, token string
		body            string
		want            int
	}{
		"a stranger":            {stranger, "gzip", "", zipped(t, entry), http.StatusForbidden},
		"a stranger's token":    {stranger, "gzip", s.admin, zipped(t, entry), http.StatusForbidden},
		"not gzip":              {edge, "identity", "", entry, http.StatusUnsupportedMediaType},
		"no list":               {edge, "gzip", "", zipped(t, `{"very-secret":1}`), http.StatusBadRequest},
		"no gzip, though named": {edge, "gzip", "", entry, http.StatusBadRequest},
		"too much":              {edge, "gzip", "", zipped(t, "["+strings.Repeat(" ", 5<<20)+"]"), http.StatusRequestEntityTooLarge},
		"too many bytes":        {edge, "gzip", "", strings.Repeat("x", 1<<20+1), http.StatusRequestEntityTooLarge},
	} {
		if is := send(test.client, test.encoding, test.token, test.body); is != test.want {
			t.Errorf("%s: %d, want %d", name, is, test.want)
		}
	}
	if is := send(edge, "gzip", "", zipped(t, entry)); is != http.StatusNoContent {
		t.Errorf("the edge's own: %d", is)
	}
	h := &http.Client{Transport: transport(t, s.AuthorityFile(), nil, nil)}
	trail := api.NewDecisionServiceClient(h, s.url(), connect.WithInterceptors(cli.Bearer(s.admin)))
	list := ask(t, trail.SearchDecisions, &api.SearchDecisionsRequest{Environment: prod}).GetDecisions()
	if len(list) != 1 || list[0].GetEdge() != got.Msg.GetEdge() || list[0].GetUser() != "very-secret" {
		t.Errorf("found %v", list)
	}
	ask(t, s.with(s.admin).RevokeEdge, &api.RevokeEdgeRequest{Id: got.Msg.GetEdge()})
	if is := send(edge, "gzip", "", zipped(t, strings.ReplaceAll(entry, `"1"`, `"2"`))); is != http.StatusForbidden {
		t.Errorf("revoked: %d", is)
	}
	s.said("an edge was refused")
	for _, line := range s.log.All() {
		for name, value := range line.ContextMap() {
			if text, ok := value.(string); ok && strings.Contains(text, "very-secret") {
				t.Errorf("%s: %s is %s", line.Message, name, text)
			}
		}
	}
}
