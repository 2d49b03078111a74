package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// Call is a request to the application through Envoy. The zero value is an anonymous GET.
type Call struct {
	Method string      // default: GET
	Path   string      // sent as it stands: nothing is cleaned or decoded
	Token  string      // sent as a bearer token if not empty
	Body   string      // sent as JSON if not empty
	Header http.Header // further headers; spelled on the wire as the keys are
}

// Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Reason is a denial's reason in a few words, else the start of the body.
func (a Answer) Reason() string {
	var problem struct{ Detail, Reason, Title string }
	if strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") &&
		json.Unmarshal([]byte(a.Body), &problem) == nil {
		for _, words := range []string{problem.Detail, problem.Reason, problem.Title} {
			if words != "" {
				return words
			}
		}
	}
	return lastLine(strings.ReplaceAll(a.Body, "\n", " "))
}

// Do sends a call through Envoy. A denial is an Answer; an error means that there was none.
func (s *Sandbox) Do(ctx context.Context, c Call) (Answer, error) {
	method := c.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL, strings.NewReader(c.Body))
	if err != nil {
		return Answer{}, fmt.Errorf("building request: %w", err)
	}
	if strings.HasPrefix(c.Path, "//") {
		req.URL.Path = c.Path // as Opaque it would be taken for a host
	} else {
		req.URL.Opaque = c.Path // also what net/url would refuse or clean up
	}
	for name, values := range c.Header {
		req.Header[name] = values
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.Body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("asking envoy: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer to %s %s: %w", method, c.Path, err)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, nil
}
