package extauthz_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
)

// TestLargeRequestsCostBoundedMemory: what exceeds a limit is denied before it is decoded.
func TestLargeRequestsCostBoundedMemory(t *testing.T) {
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, settings(), compile(t, "package envoy.authz\nallow := count(input.parsed_body) >= 0")))
	headers := make(gate.Headers, 10_000)
	for i := range headers {
		headers[i] = gate.Header{Name: fmt.Sprintf("x-%d", i), Value: "v"}
	}
	for name, tt := range map[string]struct {
		request gate.Request
		status  int
	}{
		"a body of 10 MB": {gate.Request{Method: "POST", Path: "/", Body: strings.Repeat("[", 10<<20), Bytes: 10 << 20,
			Headers: gate.Headers{{Name: "content-type", Value: "application/json"}}}, 413},
		"10,000 headers": {gate.Request{Method: "GET", Path: "/", Headers: headers}, 431},
		"a body nested a million times": {gate.Request{Method: "POST", Path: "/", Body: strings.Repeat("[", 1<<20),
			Headers: gate.Headers{{Name: "content-type", Value: "application/json"}}}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			answer := g.Check(t.Context(), &tt.request)
			runtime.ReadMemStats(&after)
			if answer.Allow || answer.Status != tt.status || answer.Reason != gate.BadRequest {
				t.Errorf("allow %v, status %d, reason %s", answer.Allow, answer.Status, answer.Reason)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
				t.Errorf("it cost %d bytes", used)
			}
		})
	}
}
