package envoy_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"gatehouse/envoy/sandbox"
)

// SIGTERM drains and ends with 0, also under load; from then on Envoy denies everything by itself, with a status that says why.
func TestTerminationAndOutage(t *testing.T) {
	s := start(t, sandbox.Config{})
	token := s.Token("vera", "viewer")
	if got := ask(t, s, sandbox.Call{Path: "/orders", Token: token}); got.Status != 200 {
		t.Fatalf("before: %d %s", got.Status, got.Body)
	}
	code, err := s.StopGatehouse()
	if err != nil || code != 0 {
		t.Errorf("after SIGTERM gatehouse exits with %d (%v), want 0", code, err)
	}
	for _, path := range []string{"/orders", "/healthz"} {
		if got := ask(t, s, sandbox.Call{Path: path, Token: token}); got.Status != 503 {
			t.Errorf("without gatehouse, GET %s: %d, want 503", path, got.Status)
		}
	}
	entries, err := os.ReadFile(s.DecisionLog())
	if err != nil || !contains(string(entries), `"/orders"`) {
		t.Errorf("the decision log was not written out: %q, %v", entries, err)
	}
}

// While it drains, no request is answered by anything but a decision or Envoy's denial: no reset, no other 5xx, no allow by
// mistake, and those under way get their answer.
func TestTerminationUnderLoad(t *testing.T) {
	s := start(t, sandbox.Config{})
	token := s.Token("mallory") // denied by the policy: a 200 would be an allow by mistake
	const clients = 4
	done, stop, busy := make(chan error, clients), make(chan struct{}), make(chan struct{}, clients)
	for range clients {
		go func() { done <- deniedUntil(s, token, busy, stop) }()
	}
	for range clients {
		<-busy
	}
	code, err := s.StopGatehouse()
	close(stop)
	for range clients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err != nil || code != 0 {
		t.Errorf("after SIGTERM under load gatehouse exits with %d (%v), want 0", code, err)
	}
}

// deniedUntil asks until stop is closed, and says so on busy after the first answer or failure. Every answer must be the
// 403 of the policy, or 503 of Envoy once Gatehouse is gone.
func deniedUntil(s *sandbox.Sandbox, token string, busy chan<- struct{}, stop <-chan struct{}) error {
	for first := true; ; first = false {
		answer, err := s.Do(context.Background(), sandbox.Call{Path: "/orders", Token: token})
		if first {
			busy <- struct{}{}
		}
		if err != nil {
			return err
		}
		if answer.Status != 403 && (answer.Status != 503 || answer.Body != "") {
			return fmt.Errorf("%d %s, want the policy's 403 or Envoy's bare 503", answer.Status, answer.Body)
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
}
