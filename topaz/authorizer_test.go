package topaz_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/topaz/pb/api"
	"gatehouse/topaz/pb/authorizer"
)

const ordersPolicy = `package app.GET.orders

default allowed := false

allowed if ds.check({"object_type": "doc", "object_id": input.resource.doc, "relation": "can_read", "subject_type": "user", "subject_id": input.user.id})

visible if input.identity.identity == "ann"

broken := 1 / (input.resource.zero - 0)

text := "yes"

blocked if ds.check({"object_type": "doc", "object_id": input.resource.doc, "relation": "blocked", "subject_type": "user", "subject_id": input.user.id})
`

// newAuthorizer is a service whose policy asks the directory.
func newAuthorizer(t *testing.T) *service {
	s := newService(t, "file: people, user: {by: id}", "")
	s.people(somePeople...)
	s.write("policy/orders.rego", ordersPolicy)
	s.write("policy/deeper.rego", "package app.POST.orders\n\nallowed := true\n")
	s.newKey("auditor", "read-policy")
	return s.start()
}

func who(kind api.IdentityType, name string) *api.IdentityContext {
	return &api.IdentityContext{Type: kind, Identity: name}
}

const (
	sub    = api.IdentityType_IDENTITY_TYPE_SUB
	jwt    = api.IdentityType_IDENTITY_TYPE_JWT
	manual = api.IdentityType_IDENTITY_TYPE_MANUAL
	none   = api.IdentityType_IDENTITY_TYPE_NONE
)

// TestIs: each decision is yes or no, or an error where it could not be made, and on record with its package and its name.
func TestIs(t *testing.T) {
	s := newAuthorizer(t)
	about, err := structpb.NewStruct(map[string]any{"doc": "1", "zero": 0})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for name, test := range map[string]struct {
		key       string
		who       *api.IdentityContext
		path      string
		decisions []string
		want      string // those that are allowed
		code      codes.Code
		saying    string
	}{
		"ann":                {"app", who(sub, "ann"), "app.GET.orders", []string{"allowed", "visible", "other"}, "allowed visible", 0, ""},
		"broken":             {"app", who(sub, "ann"), "app.GET.orders", []string{"broken"}, "", codes.FailedPrecondition, "policy_error"},
		"no boolean":         {"app", who(sub, "ann"), "app.GET.orders", []string{"visible", "text"}, "", codes.FailedPrecondition, "policy_error"},
		"a failed question":  {"app", who(sub, "ann"), "app.GET.orders", []string{"blocked"}, "", codes.FailedPrecondition, "policy_error"},
		"bob, with slashes":  {"app", who(sub, "bob"), "app/GET/orders", []string{"allowed", "visible"}, "allowed", 0, ""},
		"eve":                {"app", who(sub, "eve"), "app.GET.orders", []string{"allowed"}, "", 0, ""},
		"nobody":             {"app", who(none, ""), "app.GET.orders", []string{"allowed", "visible"}, "", 0, ""},
		"a name":             {"app", who(manual, "ann"), "app.GET.orders", []string{"allowed", "visible"}, "visible", 0, ""}, // no user
		"a token":            {"reader", who(jwt, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ."), "app.GET.orders", []string{"visible"}, "", codes.InvalidArgument, "bad_credential"},
		"anonymous, any key": {"reader", who(none, ""), "app.POST.orders", []string{"allowed"}, "allowed", 0, ""},
		"no such package":    {"app", who(sub, "ann"), "app.PUT", []string{"allowed"}, "", 0, ""},
		"above packages":     {"app", who(sub, "ann"), "app", []string{"GET"}, "", 0, ""},
		"may not name users": {"reader", who(sub, "ann"), "app.GET.orders", []string{"allowed"}, "", codes.PermissionDenied, "act-as"},
		"nor by hand":        {"writer", who(manual, "ann"), "app.GET.orders", []string{"allowed"}, "", codes.PermissionDenied, "act-as"},
		"no name":            {"app", who(sub, ""), "app.GET.orders", []string{"allowed"}, "", codes.InvalidArgument, "empty"},
		"no type":            {"app", who(0, "ann"), "app.GET.orders", []string{"allowed"}, "", codes.InvalidArgument, "identity_context.type"},
		"nobody said":        {"app", nil, "app.GET.orders", []string{"allowed"}, "", codes.InvalidArgument, "identity_context.type"},
		"no path":            {"app", who(sub, "ann"), "", []string{"allowed"}, "", codes.InvalidArgument, "path"},
		"only dots":          {"app", who(sub, "ann"), "./.", []string{"allowed"}, "", codes.InvalidArgument, "path"},
		"long path":          {"app", who(sub, "ann"), strings.Repeat("a.", 101), []string{"allowed"}, "", codes.InvalidArgument, "too long"},
		"no decision":        {"app", who(sub, "ann"), "app.GET.orders", nil, "", codes.InvalidArgument, "decisions"},
		"an empty decision":  {"app", who(sub, "ann"), "app.GET.orders", []string{"allowed", ""}, "", codes.InvalidArgument, "decisions"},
		"101 decisions":      {"app", who(sub, "ann"), "app.GET.orders", slices.Repeat([]string{"allowed"}, 101), "", codes.InvalidArgument, "more than 100"},
	} {
		got, err := s.authorizer().Is(s.as(test.key), &authorizer.IsRequest{PolicyContext: &api.PolicyContext{Path: test.path, Decisions: test.decisions},
			IdentityContext: test.who, ResourceContext: about})
		s.is(name, err, test.code, test.saying)
		if strings.Contains(test.saying, "_") && test.saying != "identity_context.type" { // a reason of the gate, and on record
			asked += len(test.decisions)
		}
		if err != nil {
			continue
		}
		asked += len(test.decisions)
		var allowed []string
		for i, d := range got.Decisions {
			if d.Decision != test.decisions[i] {
				t.Errorf("%s: decision %d is %q", name, i, d.Decision)
			}
			if d.Is {
				allowed = append(allowed, d.Decision)
			}
		}
		if len(got.Decisions) != len(test.decisions) || strings.Join(allowed, " ") != test.want {
			t.Errorf("%s: %v, want %q", name, got, test.want)
		}
	}
	_, err = s.authorizer().Is(s.as("app"), &authorizer.IsRequest{})
	s.is("nothing", err, codes.InvalidArgument, "path")
	lines := s.logged(asked)
	paths := map[string]int{}
	for _, line := range lines {
		if path, ok := line["path"].(string); ok {
			paths[path]++
		}
	}
	if len(lines) != asked || paths["app.GET.orders/allowed"] < 5 || paths["app.GET.orders/broken"] != 1 || paths["app.GET.orders/other"] != 1 || paths["app.PUT/allowed"] != 1 {
		t.Errorf("%d lines for %d decisions: %v", len(lines), asked, paths)
	}
}

// TestDecisionTree asks the packages at and below a path.
func TestDecisionTree(t *testing.T) {
	s := newAuthorizer(t)
	about, err := structpb.NewStruct(map[string]any{"doc": "1"})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string, slash bool, decisions ...string) (*authorizer.DecisionTreeResponse, error) {
		in := &authorizer.DecisionTreeRequest{PolicyContext: &api.PolicyContext{Path: path, Decisions: decisions}, IdentityContext: who(sub, "ann"), ResourceContext: about}
		if slash {
			in.Options = &authorizer.DecisionTreeOptions{PathSeparator: authorizer.PathSeparator_PATH_SEPARATOR_SLASH}
		}
		return s.authorizer().DecisionTree(s.as("app"), in)
	}
	got, err := ask("app", false, "allowed", "visible", "other")
	if err != nil || got.PathRoot != "app" {
		t.Fatal(got, err)
	}
	want, err := structpb.NewStruct(map[string]any{"app.GET.orders": map[string]any{"allowed": true, "visible": true}, "app.POST.orders": map[string]any{"allowed": true}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the tree", got.Path, want)
	if got, err = ask("app.GET", true, "allowed"); err != nil || len(got.Path.Fields) != 1 || got.Path.Fields["app/GET/orders"] == nil {
		t.Errorf("%v, %v", got, err)
	}
	if got, err = ask("nowhere", false, "allowed"); err != nil || len(got.Path.GetFields()) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	_, err = ask("app", false, "allowed", "blocked")
	s.is("a failed question", err, codes.FailedPrecondition, "policy_error")
	_, err = ask("app", false)
	s.is("no decisions", err, codes.InvalidArgument, "decisions")
	_, err = s.authorizer().DecisionTree(s.as("reader"), &authorizer.DecisionTreeRequest{PolicyContext: &api.PolicyContext{Path: "app", Decisions: []string{"allowed"}}, IdentityContext: who(sub, "ann")})
	s.is("may not name users", err, codes.PermissionDenied, "act-as")
}

// TestPolicies lists what the policy consists of, for keys that may see it.
func TestPolicies(t *testing.T) {
	s := newAuthorizer(t)
	a := s.authorizer()
	list, err := a.ListPolicies(s.as("auditor"), &authorizer.ListPoliciesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{}
	for _, m := range list.Result {
		packages[m.GetPackagePath()] = m.GetId()
		one, err := a.GetPolicy(s.as("auditor"), &authorizer.GetPolicyRequest{Id: m.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, m.GetId(), one.Result, m)
	}
	if len(packages) != 3 || packages["app.GET.orders"] != "policy/orders.rego" || packages["envoy.authz"] == "" {
		t.Errorf("modules: %v", packages)
	}
	_, err = a.GetPolicy(s.as("auditor"), &authorizer.GetPolicyRequest{Id: "other"})
	s.is("no such module", err, codes.NotFound, "other")
	_, err = a.GetPolicy(s.as("app"), &authorizer.GetPolicyRequest{Id: "policy/orders.rego"})
	s.is("another key", err, codes.PermissionDenied, "read-policy")
	_, err = a.ListPolicies(s.as("writer"), &authorizer.ListPoliciesRequest{})
	s.is("another key", err, codes.PermissionDenied, "read-policy")
	info, err := a.Info(s.as("reader"), &authorizer.InfoRequest{})
	if err != nil || info.Version != "v1.2.3" || info.Os == "" || info.Arch == "" {
		t.Errorf("%v, %v", info, err)
	}
	_, err = a.Query(s.as("auditor"), &authorizer.QueryRequest{Query: "x = data"})
	s.is("a query", err, codes.Unimplemented, "Is or DecisionTree")
}

// TestQuery: what a client's query finds, who may send one, and that each is on record.
func TestQuery(t *testing.T) {
	s := newService(t, "file: people, user: {by: id}", "")
	s.people(somePeople...)
	s.write("policy/orders.rego", ordersPolicy)
	s.newKey("analyst", "query", "act-as")
	s.newKey("timid", "query")
	file := filepath.Join(s.dir, "gatehouse.yaml")
	s.write("gatehouse.yaml", strings.Replace(string(mustRead(t, file)), "keys: keys.yaml", "keys: keys.yaml, queries: true", 1))
	s.start()
	about, err := structpb.NewStruct(map[string]any{"doc": "1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key    string
		in     *authorizer.QueryRequest
		want   string // bindings
		code   codes.Code
		saying string
	}{
		"a rule":           {"analyst", &authorizer.QueryRequest{Query: "x = data.app.GET.orders.allowed", ResourceContext: about}, `[{"x":true}]`, 0, ""},
		"whose":            {"analyst", &authorizer.QueryRequest{Query: "x = [input.user.id, input.identity.identity]"}, `[{"x":["ann","ann"]}]`, 0, ""},
		"its own input":    {"analyst", &authorizer.QueryRequest{Query: "x = input.n + 1; y = input.user.id", Input: `{"n": 41, "user": {"id": "eve"}}`}, `[{"x":42,"y":"ann"}]`, 0, ""},
		"the path":         {"analyst", &authorizer.QueryRequest{Query: "x = input.policy.path", PolicyContext: &api.PolicyContext{Path: "app.GET"}}, `[{"x":"app.GET"}]`, 0, ""},
		"the directory":    {"analyst", &authorizer.QueryRequest{Query: `x = ds.check({"object_type": "doc", "object_id": "1", "relation": "can_read", "subject_type": "user", "subject_id": "eve"})`}, `[{"x":false}]`, 0, ""},
		"nothing":          {"analyst", &authorizer.QueryRequest{Query: "x = input.nothing"}, `[]`, 0, ""},
		"a mistake":        {"analyst", &authorizer.QueryRequest{Query: "x = "}, "", codes.InvalidArgument, "query: 1:"},
		"not pure":         {"analyst", &authorizer.QueryRequest{Query: `x = rand.intn("a", 9)`}, "", codes.InvalidArgument, "rand.intn"},
		"off by default":   {"analyst", &authorizer.QueryRequest{Query: `http.send({"url": "http://localhost", "method": "GET"})`}, "", codes.InvalidArgument, "http.send"},
		"an error":         {"analyst", &authorizer.QueryRequest{Query: `x = ds.check({"object_type": "doc"})`}, "", codes.FailedPrecondition, "policy_error"},
		"traces":           {"analyst", &authorizer.QueryRequest{Query: "x = 1", Options: &authorizer.QueryOptions{TraceSummary: true}}, "", codes.InvalidArgument, "options"},
		"bad input":        {"analyst", &authorizer.QueryRequest{Query: "x = 1", Input: "[1]"}, "", codes.InvalidArgument, "JSON object"},
		"large input":      {"analyst", &authorizer.QueryRequest{Query: "x = 1", Input: strings.Repeat(" ", 256<<10+1)}, "", codes.InvalidArgument, "bytes"},
		"no query":         {"analyst", &authorizer.QueryRequest{}, "", codes.InvalidArgument, "empty"},
		"without scope":    {"app", &authorizer.QueryRequest{Query: "x = 1"}, "", codes.PermissionDenied, "scope query"},
		"may not name ann": {"timid", &authorizer.QueryRequest{Query: "x = 1"}, "", codes.PermissionDenied, "act-as"},
	} {
		test.in.IdentityContext = who(sub, "ann")
		got, err := s.authorizer().Query(s.as(test.key), test.in)
		s.is(name, err, test.code, test.saying)
		if err != nil {
			continue
		}
		bindings := []any{}
		for _, r := range got.Response.AsMap()["result"].([]any) {
			bindings = append(bindings, r.(map[string]any)["bindings"])
		}
		if text, err := json.Marshal(bindings); err != nil || string(text) != test.want {
			t.Errorf("%s: %s, %v, want %s", name, text, err, test.want)
		}
	}
	_, err = s.authorizer().Query(s.as("timid"), &authorizer.QueryRequest{Query: "x = 1", IdentityContext: who(jwt, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.")})
	s.is("a forged token", err, codes.InvalidArgument, "bad_credential")
	_, err = s.authorizer().Query(s.as("timid"), &authorizer.QueryRequest{Query: "x = 1"})
	s.is("nobody said", err, codes.InvalidArgument, "identity_context.type")
	const asked = 11 // those that reached the gate
	lines := s.logged(asked)
	outcomes, found := map[string]int{}, false
	for _, line := range lines {
		outcomes[fmt.Sprint(line["outcome"], " ", line["reason"])]++
		in, _ := line["input"].(map[string]any)
		body, _ := in["parsed_body"].(map[string]any)
		found = found || line["path"] == "query" && body["query"] == "x = data.app.GET.orders.allowed" && fmt.Sprint(line["result"]) == "map[results:1]"
	}
	if len(lines) != asked || !found {
		t.Errorf("%d lines, %v; the query's text: %v", len(lines), outcomes, found)
	}
}
