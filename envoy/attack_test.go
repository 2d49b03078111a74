package envoy_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
	"gatehouse/identity/attack"
)

// causes are what the decision log says about denials, by decision id.
func causes(t *testing.T, log string) map[string]string {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var entry struct {
			ID    string `json:"decision_id"`
			Error struct{ Message string }
		}
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			t.Fatalf("%s: %v", log, err)
		}
		found[entry.ID] = entry.Error.Message
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return found
}

// changedByEnvoy are the cases of which other bytes arrive at Gatehouse than were sent, and what they are then.
var changedByEnvoy = map[string]string{
	"header twice":                              joined,
	"header twice, once of another scheme":      joined,
	"header twice where the value is the token": joined,
	"cookie twice over lines":                   joined,
	"header twice, once empty":                  attack.OK,                                       // the empty line is left out
	"cookie over two lines":                     "credential cookie can be read in several ways", // with a comma between them
	"line break at the end":                     attack.OK,                                       // ends the line
	"carriage return within":                    attack.OK,                                       // is left out
}

const joined = "several credentials in one header"

// Every case of the attack suite, byte for byte, through a real Envoy to Flask: the application sees a caller where the table says
// so and nowhere else, and the decision log says what was wrong.
func TestAttacksThroughEnvoy(t *testing.T) {
	t.Parallel()
	suite := attack.New(time.Now())
	s := underAttack(t, suite)
	port := portOf(t, s.URL)

	wanted, count := map[string]attack.Case{}, map[string]int{} // denials by decision id; requests by what came of them
	for _, c := range suite.Cases {
		if c.Edge {
			count["not asked, true at one moment only"]++
			continue
		}
		if want, ok := changedByEnvoy[c.Name]; ok {
			c.Want = want
		}
		got := send(t, port, requestOf(c))
		subject := ""
		if got.Who == "app" {
			var headers map[string]string
			if err := json.Unmarshal([]byte(got.Body), &headers); err != nil {
				t.Fatalf("%s: the app answers %d %q", c.Name, got.Status, got.Body)
			}
			subject = headers["X-Auth-Subject"]
		}
		want := "gatehouse 401"
		if c.Want == attack.OK || c.Want == attack.Anonymous {
			want = "app 200"
		} else if got.Who == "envoy" && (got.Status == 400 && !c.Sendable() || got.Status == 431) {
			want = got.String()
		} else {
			wanted[got.Header.Get("X-Decision-Id")] = c
		}
		count[want]++
		if got.String() != want || (subject != "") != (want == "app 200" && c.Want == attack.OK) {
			t.Errorf("%s: %s, subject %q, want %s: %q", c.Name, got, subject, want, c.Want)
		}
	}
	if _, err := s.StopGatehouse(); err != nil { // which writes its log to the end
		t.Fatal(err)
	}
	logged := causes(t, s.DecisionLog())
	for id, c := range wanted {
		if want := "bad_credential: bad credential: " + c.Want; logged[id] != want {
			t.Errorf("%s: the decision log says %q, want %q", c.Name, logged[id], want)
		}
	}
	t.Logf("%d cases: %v", len(suite.Cases), count)
	if len(wanted) < 300 {
		t.Errorf("only %d cases came as far as Gatehouse", len(wanted))
	}
}

// requestOf is a case as bytes on the wire.
func requestOf(c attack.Case) string {
	target := "/"
	if c.Query != "" {
		target += "?" + c.Query
	}
	lines := ""
	for _, line := range c.Headers {
		lines += line[0] + ": " + line[1] + "\r\n"
		handedOut.add(line[1])
	}
	return "GET " + target + " HTTP/1.1\r\nHost: orders.example.com\r\nConnection: close\r\n" + lines + "\r\n"
}

// underAttack runs the application that shows who it was told calls, with the issuers of the suite.
func underAttack(t *testing.T, suite *attack.Suite) *sandbox.Sandbox {
	t.Helper()
	keys, dir := t.TempDir(), workDir(t)
	if err := suite.WriteKeys(keys); err != nil {
		t.Fatal(err)
	}
	overlay(t, dir, echoApp(t))
	replaceIdentity(t, filepath.Join(dir, "gatehouse.yaml"), suite.YAML(keys))
	return start(t, sandbox.Config{App: dir})
}
