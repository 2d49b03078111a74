package replay_test

import (
	"strings"
	"testing"

	"gatehouse/decisionlog/read"
	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/replay"
)

// TestUserThatIsNotOnRecord replays decisions that lack the user, or parts of him, with a rule that reads them: the
// directory of now says who it is, and without one the decision is not compared.
func TestUserThatIsNotOnRecord(t *testing.T) {
	ref := func(typ, id string) directory.Ref { return directory.Ref{Type: typ, ID: id} }
	object := func(r directory.Ref) directory.Change {
		return directory.Change{SetObject: &directory.Object{Ref: r}}
	}
	people, err := directory.New(directory.DefaultManifest(), directory.Limits{}).Apply([]directory.Change{
		object(ref("user", "ann")), object(ref("role", "editor")),
		{SetRelation: &directory.Relation{Object: ref("role", "editor"), Relation: "member", Subject: ref("user", "ann")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	line := func(more, identity, input string) string {
		return `{"decision_id":"d","timestamp":"2026-01-01T00:00:00Z","format":1,"path":"envoy/authz/allow","identity":{"authenticated":true},"outcome":"deny","reason":"denied","status":403` + more +
			`,"input":{"attributes":{"request":{"http":{"method":"GET","path":"/"}}},"identity":{"authenticated":true,` + identity + `}` + input + `}}` + "\n"
	}
	const editors, directoryThen = `allow if "editor" in input.user.roles`, `,"directory":{"revision":1,"digest":"x"}`
	ann := `"subject":"ann"`
	for name, test := range map[string]struct {
		users    *gate.Users // nil: no directory
		rego     string
		line     string
		to       string // what it would become; "": the same
		current  int64
		unsure   string
		loadless bool // the directory is not loaded
	}{
		"taken from now":          {&gate.Users{ByID: true}, editors, line(directoryThen, ann, ""), "allow", 1, "", false},
		"a directory that is new": {&gate.Users{ByID: true}, editors, line("", ann, ""), "allow", 1, "", false},
		"roles alone":             {&gate.Users{ByID: true}, editors, line(directoryThen, ann, `,"user":{"id":"ann"}`), "allow", 1, "", false},
		"on record":               {&gate.Users{ByID: true}, editors, line(directoryThen, ann, `,"user":{"id":"ann","roles":[]}`), "", 0, "", false},
		"not in it":               {&gate.Users{ByID: true}, editors, line(directoryThen, `"subject":"bob"`, ""), "", 1, "", false},
		"unknown_user":            {&gate.Users{ByID: true, DenyUnknown: true}, editors, line(directoryThen, `"subject":"bob"`, ""), "deny 403 unknown_user", 1, "", false},
		"gone since":              {&gate.Users{ByID: true}, editors, line(directoryThen, ann, `,"user":{"id":"bob"}`), "", 0, "not in the directory any more", false},
		"another issuer":          {&gate.Users{ByID: true, Issuers: []string{"i"}}, editors, line(directoryThen, ann, ""), "", 1, "", false},
		"by e-mail":               {&gate.Users{Email: true}, editors, line(directoryThen, ann, ""), "", 0, "by which directory.user finds", false},
		"by a claim":              {&gate.Users{Claim: "login", ByID: true}, editors, line(directoryThen, ann, ""), "", 0, "by which directory.user finds", false},
		"by a claim in the log": {&gate.Users{Claim: "login", ByID: true}, editors,
			strings.Replace(line(directoryThen, ann, ""), `"identity":{`, `"identity":{"claims":{"login":"ann"},`, 1), "allow", 1, "", false},
		"a masked name":   {&gate.Users{ByID: true}, editors, line(directoryThen+`,"masked":["/input/identity/subject"]`, `"subject":"***"`, ""), "", 0, "by which directory.user finds", false},
		"no directory":    {nil, editors, line(directoryThen, ann, ""), "", 0, "there is no directory", false},
		"it is not there": {&gate.Users{ByID: true}, editors, line(directoryThen, ann, ""), "", 0, "there is no directory", true},
		"not read":        {nil, `allow if input.identity.subject == "bob"`, line(directoryThen, ann, ""), "", 0, "", false},
		"nobody":          {&gate.Users{ByID: true}, editors, strings.ReplaceAll(line(directoryThen, ann, ""), `"authenticated":true`, `"authenticated":false`), "", 0, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			v := &gate.View{Policy: gatetest.Policy(t, "package envoy.authz\n\ndefault allow := false\n\n"+test.rego)}
			v.Settings = &gate.Settings{Users: test.users, Apps: []gate.App{{Decision: []string{"envoy", "authz", "allow"}}}}
			if test.users != nil && !test.loadless {
				v.Directory = people
			}
			log, err := read.OpenReader("-", strings.NewReader(test.line))
			if err != nil {
				t.Fatal(err)
			}
			report, err := replay.New(replay.Config{Candidate: replay.NewCandidate(v)}).Run(t.Context(), log)
			if err != nil {
				t.Fatal(err)
			}
			if test.unsure != "" {
				if report.Replayed != 0 || len(report.Skipped) != 1 || !strings.Contains(report.Skipped[0].Reason, test.unsure) || !strings.HasPrefix(report.Skipped[0].Reason, "unsure: ") {
					t.Fatalf("replayed %d, skipped %+v", report.Replayed, report.Skipped)
				}
				return
			}
			to := ""
			if len(report.Groups) > 0 {
				to = report.Groups[0].To
			}
			if report.Replayed != 1 || to != test.to || report.FactsCurrent != test.current || report.UsersCurrent != test.current {
				t.Errorf("replayed %d, to %q, current %d and %d", report.Replayed, to, report.FactsCurrent, report.UsersCurrent)
				for _, s := range report.Skipped {
					t.Error(s.Reason)
				}
			}
		})
	}
}
