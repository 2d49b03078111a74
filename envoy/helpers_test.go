package envoy_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
)

// plain says whether Gatehouse is to run on the reference path, without anything that only makes it faster.
func plain() bool { return os.Getenv("GATEHOUSE_PLAIN") == "1" }

// serving is the command that runs Gatehouse.
func serving(config string) []string {
	command := []string{gatehouseBinary, "serve", "--config", config, "--wait-for-policy"}
	if plain() {
		command = append(command, "--plain")
	}
	return command
}

func contains(text, part string) bool { return strings.Contains(text, part) }

// tail is the last 4 KiB of a log.
func tail(log string) string { return log[max(0, len(log)-4096):] }

// roles is a list of one role, or of none.
func roles(role string) []string {
	if role == "" {
		return nil
	}
	return []string{role}
}

// ask sends a call and ends the test if there is no answer.
func ask(t *testing.T, s *sandbox.Sandbox, c sandbox.Call) sandbox.Answer {
	t.Helper()
	answer, err := s.Do(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// seen asks and returns the headers that the echo application received.
func seen(t *testing.T, s *sandbox.Sandbox, c sandbox.Call) map[string]string {
	t.Helper()
	answer := ask(t, s, c)
	if answer.Status != 200 {
		t.Fatalf("%s %s: %d %s", c.Method, c.Path, answer.Status, answer.Body)
	}
	headers := map[string]string{}
	if err := json.Unmarshal([]byte(answer.Body), &headers); err != nil {
		t.Fatalf("echo answered %q: %v", answer.Body, err)
	}
	return headers
}
