package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/directory"
	"gatehouse/policy"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// Question evaluates one rule of the policy on behalf of an application that calls the authorization API, not for a
// proxied request.
type Question struct {
	// Request describes the API call: Path and Source, and in Headers the token of the caller in question. As names a
	// caller without a token; whether the client may do that is the transport's decision.
	Request Request
	Token   bool           // Headers hold a token, which must verify
	Rule    []string       // the path of the rule below data, the decision last: orders, GET, orders, __id, allowed
	Name    string         // input.policy.path
	About   map[string]any // input.resource, plain JSON
	// Spread adds the members of About to the input itself, beside identity and user, instead of input.resource.
	Spread bool
	// Subject is the caller in question, as the client named it. One of type user or identity is looked up in the
	// directory, by its id or as an identity, regardless of directory.users: that is input.user. The zero value: the
	// caller of Request.
	Subject directory.Ref
}

// maxAsked bounds the compiled rules that are kept. Beyond it the cache is cleared, and rules are compiled again on
// demand.
const maxAsked = 4096

// askedRules caches the compiled rules of questions for one policy. It is part of the View and dropped with it.
type askedRules struct {
	of    *policy.Snapshot
	mu    sync.Mutex // guards rules; nothing is compiled under it
	rules map[string]*rule
}

// find returns a rule by its path, nil where the policy defines none there: plain data is not a decision and cannot
// be asked for.
func (a *askedRules) find(path []string, name string) (*rule, error) {
	key := strings.Join(path, policy.PathSeparator) + policy.PathSeparator + name
	a.mu.Lock()
	known := a.rules[key]
	a.mu.Unlock()
	if known != nil {
		return known, nil
	}
	pkg, decision := path[:len(path)-1], path[len(path)-1]
	if !slices.ContainsFunc(a.of.Rules(pkg, decision), func(found []string) bool { return slices.Equal(found, pkg) }) {
		return nil, nil
	}
	entry, err := a.of.Entry(path)
	if err != nil || entry == nil {
		return nil, err
	}
	found := &rule{entry: entry, name: name, partsCache: &partsCache{}, decision: decisionOf(path, name)}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rules == nil || len(a.rules) >= maxAsked {
		a.rules = map[string]*rule{}
	}
	a.rules[key] = found
	return found, nil
}

// decisionOf is the decision's name, which a question's rule name leaves out where it is that of the package.
func decisionOf(path []string, name string) string {
	if last := len(path) - 1; last >= 0 && name == strings.Join(path[:last], ".") {
		return path[last]
	}
	return ""
}

// Ask decides about one question. Like Check it always answers, and writes exactly one decision-log entry before it
// returns; the question's resource is recorded there as parsed_body. Dry run does not apply: the client wants the
// actual decision.
func (g *Gate) Ask(ctx context.Context, q *Question) Answer {
	return g.answerWith(ctx, q.Request, func(c *call) error { return g.answerQuestion(ctx, c, q) })
}

// answerWith runs stages, makes the answer and records it.
func (g *Gate) answerWith(ctx context.Context, req Request, stages func(*call) error) (answer Answer) {
	c := g.begin(&req)
	err := g.guard(c, func() error { return stages(c) })
	if panicked := g.guard(c, func() error { answer, err = c.respondToQuestion(err); return nil }); panicked != nil {
		answer, err = Answer{Reason: Internal, Status: Internal.Status(), DecisionID: c.id}, panicked
	}
	answer.Diagnostics = c.diagnostics(err)
	g.record(ctx, c, &answer, err)
	g.done(c)
	return answer
}

func (c *call) respondToQuestion(err error) (Answer, error) {
	if err == nil {
		a, refused := c.allow(None)
		if refused == nil {
			return a, nil
		}
		err = refused
	}
	f := asFailure(err)
	a := Answer{Reason: f.reason, Status: f.reason.Status(), DecisionID: c.id}
	if f.reason == Denied {
		a.Body, a.Metadata = sanitize(c.decision.Reason), c.decision.Metadata
	}
	return a, err
}

// answerQuestion runs the stages of a question.
func (g *Gate) answerQuestion(ctx context.Context, c *call, q *Question) error {
	if err := g.prepareQuestion(ctx, c, q); err != nil {
		return err
	}
	return g.decideQuestion(ctx, c, q)
}

// prepareQuestion finds out who is in question.
func (g *Gate) prepareQuestion(ctx context.Context, c *call, q *Question) error {
	c.fields = g.fields
	if err := c.pin(&g.view); err != nil {
		return err
	}
	var err error
	if c.target, err = parseTarget(q.Request.Path, c.view.Settings.Paths); err != nil {
		return fail(BadRequest, err)
	}
	if err = c.identify(ctx); err != nil {
		return err
	}
	if q.Token && !c.identity.Authenticated {
		return fail(BadCredential, errors.New("the token is of no configured issuer whose tokens are taken from the header authorization"))
	}
	if _, err = c.findSubject(q.Subject); err != nil {
		return err
	}
	return c.admit()
}

func (g *Gate) decideQuestion(ctx context.Context, c *call, q *Question) error {
	s := c.view.Settings
	if n := g.deciding.Add(1); s.Limits.Concurrent > 0 && n > int64(s.Limits.Concurrent) {
		g.deciding.Add(-1)
		return fail(Overloaded, fmt.Errorf("limits.concurrent: %d evaluations are under way", s.Limits.Concurrent))
	}
	defer g.deciding.Add(-1)
	var err error
	if c.rule, err = c.view.asked.find(q.Rule, q.Name); err != nil {
		return fail(PolicyError, err)
	}
	if c.rule == nil {
		c.rule = &rule{name: q.Name, decision: decisionOf(q.Rule, q.Name)}
		return fail(NoDecision, fmt.Errorf("the policy has no rule %q", strings.Join(q.Rule, ".")))
	}
	if err = c.readUser(c.rule); err != nil {
		return err
	}
	about, err := membersOf(q.About)
	if err != nil {
		return fail(BadRequest, err)
	}
	c.body = rego.Object(about...)
	document, err := c.questionInput(q, about)
	if err != nil {
		return fail(BadRequest, err)
	}
	c.decision, err = c.evaluate(ctx, nil, document)
	v := VerdictOf(&c.decision, err)
	switch v.Reason {
	case None:
		return nil
	case Denied:
		err = errors.New("the policy denies")
	}
	return &failure{reason: v.Reason, cause: err}
}

// queryRule is recorded as the decision of a query.
const queryRule = "query"

// queryNames are the members of the input that a query's own input cannot take the place of.
var queryNames = []string{"identity", "user", "policy", "resource"}

// AdHocQuery is a query in Rego that an application wrote, for Query.
type AdHocQuery struct {
	Text  string
	Input map[string]any // members of the input, plain JSON, beside those that a question has
}

// Query evaluates a client's query with the policy, about the caller and the resource of q, whose Name is
// input.policy.path. Like Ask it always answers, and writes one decision-log entry: its text, its input and the resource
// as parsed_body, and how many results it found. They are returned where the answer allows; Diagnostics.Cause says why not.
func (g *Gate) Query(ctx context.Context, q *Question, query AdHocQuery) (Answer, []any) {
	var found policy.AdHocAnswer
	a := g.answerWith(ctx, q.Request, func(c *call) (err error) {
		found, err = g.answerQuery(ctx, c, q, query)
		return err
	})
	if !a.Allow {
		return a, nil
	}
	return a, found.Results
}

// answerQuery runs the stages of a query.
func (g *Gate) answerQuery(ctx context.Context, c *call, q *Question, query AdHocQuery) (policy.AdHocAnswer, error) {
	var none policy.AdHocAnswer
	if err := g.prepareQuestion(ctx, c, q); err != nil {
		return none, err
	}
	s := c.view.Settings
	if n := g.deciding.Add(1); s.Limits.Concurrent > 0 && n > int64(s.Limits.Concurrent) {
		g.deciding.Add(-1)
		return none, fail(Overloaded, fmt.Errorf("limits.concurrent: %d evaluations are under way", s.Limits.Concurrent))
	}
	defer g.deciding.Add(-1)
	recorded, given, about, err := queryMembers(q, query)
	if err != nil {
		return none, fail(BadRequest, err)
	}
	c.rule, c.body = &rule{name: q.Name, decision: queryRule}, recorded
	compiled, err := c.view.Policy.AdHoc(ctx, s.Timeout, query.Text, &g.queries)
	if err != nil {
		return none, queryFailure(err)
	}
	reads := compiled.Reads()
	if parts, wanted := userRead(reads); wanted && (s.Users != nil || c.req.User != nil) {
		if err := c.findUser(parts); err != nil {
			return none, err
		}
	}
	document, err := c.queryInput(reads, given, about)
	if err != nil {
		return none, fail(BadRequest, err)
	}
	found, err := compiled.Evaluate(ctx, s.Timeout, document, c.view.Facts, c.started)
	c.decision.Asked, c.decision.AskedTruncated = found.Asked, found.AskedTruncated
	if err != nil {
		return none, queryFailure(err)
	}
	c.decision.Allowed, c.decision.Result = true, rego.Object(rego.Member{Key: "results", Value: rego.Int(int64(len(found.Results)))})
	return found, nil
}

// queryFailure is why a query has no answer.
func queryFailure(err error) error {
	if errors.Is(err, policy.ErrQuery) {
		return fail(BadRequest, err)
	}
	v := VerdictOf(nil, err)
	return &failure{reason: v.Reason, cause: err}
}

// queryMembers are what is recorded of a query, the members of its own input, and its resource.
func queryMembers(q *Question, query AdHocQuery) (recorded rego.Value, given []rego.Member, about rego.Value, err error) {
	if given, err = membersOf(query.Input); err != nil {
		return nil, nil, nil, fmt.Errorf("input.%w", err)
	}
	resource, err := membersOf(q.About)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("resource_context.%w", err)
	}
	about = rego.Object(resource...)
	text := strings.ToValidUTF8(query.Text[:min(len(query.Text), policy.MaxQueryText)], "\uFFFD") // a longer one is refused
	recorded = rego.Object(rego.Member{Key: "query", Value: rego.String(text)}, rego.Member{Key: "input", Value: rego.Object(given...)}, rego.Member{Key: "resource", Value: about})
	return recorded, given, about, nil
}

// queryInput is the input as far as the query reads it: that of a question, in which members of the query's own input
// take the place of those of the same name, but for queryNames.
func (c *call) queryInput(reads reach.Reads, given []rego.Member, about rego.Value) (rego.Value, error) {
	given = slices.DeleteFunc(given, func(m rego.Member) bool { return slices.Contains(queryNames, m.Key) })
	own := slices.DeleteFunc(selectParts(c.fields, reads), func(p part) bool {
		return p.Name == "resource" || p.Name == "parsed_body" || slices.ContainsFunc(given, func(m rego.Member) bool { return m.Key == p.Name })
	})
	d := c.document(reads)
	defer d.done()
	if err := d.fill(own); err != nil {
		return nil, err
	}
	for _, m := range append(given, rego.Member{Key: "resource", Value: about}) {
		if d.isRead(m.Key) {
			d.add(m.Key, m.Value)
		}
	}
	return rego.Object(d.members...), nil
}

// membersOf converts the members of an object to policy values.
func membersOf(object map[string]any) ([]rego.Member, error) {
	members := make([]rego.Member, 0, len(object))
	for name, member := range object {
		value, err := rego.FromJSON(member)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		members = append(members, rego.Member{Key: name, Value: value})
	}
	return members, nil
}

// questionInput is the input as far as the rule reads it, with the question's resource.
func (c *call) questionInput(q *Question, about []rego.Member) (rego.Value, error) {
	parts, reads := c.partsRead(c.rule.entry)
	if c.view.Settings.Plain {
		parts, reads = c.fields, reach.Reads{}
	}
	d := c.document(reads)
	defer d.done()
	if err := d.fill(parts); err != nil {
		return nil, err
	}
	if !q.Spread {
		about = []rego.Member{{Key: "resource", Value: c.body}}
	}
	for _, m := range about {
		if d.isRead(m.Key) {
			d.add(m.Key, m.Value)
		}
	}
	return rego.Object(d.members...), nil
}

// QuestionProtocol is recorded as the protocol of a question. No proxied request has it.
const QuestionProtocol = "question"

// QuestionRequest is the Request recorded for a question that came over a transport.
func QuestionRequest(path string, client Endpoint) Request {
	return Request{Method: http.MethodPost, Path: path, Protocol: QuestionProtocol, Source: client}
}

// directoryRule is recorded as the decision path where the directory decided without a rule.
const directoryRule = "directory"

// AskDirectory lets the directory decide one question, without the policy: whether q.Subject has the relation, or
// permission, on the object. A subject of type user that is no object is looked up as an identity. Like Ask it always
// answers and records it, with the check among the facts.
func (g *Gate) AskDirectory(ctx context.Context, q *Question, object directory.Ref, relation string) Answer {
	return g.answerWith(ctx, q.Request, func(c *call) error { return g.checkDirectory(c, q, object, relation) })
}

func (g *Gate) checkDirectory(c *call, q *Question, object directory.Ref, relation string) error {
	c.fields, c.rule, c.view = g.fields, &rule{name: directoryRule}, g.view.Load()
	if c.view.Settings == nil || c.view.Directory == nil {
		return fail(NotReady, errNoDirectory)
	}
	var err error
	if c.target, err = parseTarget(q.Request.Path, c.view.Settings.Paths); err != nil {
		return fail(BadRequest, err)
	}
	about, err := membersOf(q.About)
	if err != nil {
		return fail(BadRequest, err)
	}
	c.body = rego.Object(about...)
	subject, err := c.findSubject(q.Subject)
	if err != nil {
		return err
	}
	if u := c.view.Settings.Users; c.userDisabled && u != nil && !u.AllowDisabled {
		return fail(DisabledUser, fmt.Errorf("%s is disabled in the directory", subject))
	}
	yes, err := c.view.Directory.Check(directory.Question{Object: object, Relation: relation, Subject: subject}, c.started)
	c.view.failed.Note(err)
	switch {
	case errors.Is(err, directory.ErrUnknownType), errors.Is(err, directory.ErrUnknownRelation):
		return fail(NoDecision, err)
	case err != nil:
		return fail(Unavailable, err)
	}
	c.decision.Allowed, c.decision.Result = yes, rego.Bool(yes)
	c.decision.Asked = []policy.Question{{Builtin: "gatehouse.check", Answer: rego.Bool(yes),
		Args: []rego.Value{rego.String(object.String()), rego.String(relation), rego.String(subject.String())}}}
	if !yes {
		return fail(Denied, errors.New("the directory denies"))
	}
	return nil
}

// findSubject looks up the subject of a question in the directory and returns its object. One that is not found is no
// user. A question without a subject is about its caller.
func (c *call) findSubject(named directory.Ref) (subject directory.Ref, err error) {
	d := c.view.Directory
	if d == nil || named == (directory.Ref{}) {
		return named, nil
	}
	if subject, err = SubjectOf(d, named, c.started); err == nil {
		switch subject.Type {
		case "user":
			c.user, c.userDisabled, err = lookUp(d, true, subject.ID, 0, c.started)
		case "identity":
			c.user, c.userDisabled, err = lookUp(d, false, subject.ID, 0, c.started)
		}
	}
	if err != nil {
		c.view.failed.Note(err)
		return named, fail(Unavailable, fmt.Errorf("finding the subject in the directory: %w", err))
	}
	if c.req.User = c.user; c.user == nil {
		c.userFound, c.userParts = true, ^userParts(0)
	}
	return subject, nil
}

// SubjectOf resolves a subject to its directory object: a subject of type user that is no object but an identity
// becomes the user with that identity. Any other is returned as it is. An identity of two users is an error.
func SubjectOf(d *directory.Snapshot, named directory.Ref, now time.Time) (directory.Ref, error) {
	if named.Type != "user" {
		return named, nil
	}
	if _, known := d.Object(named); known {
		return named, nil
	}
	user, known, err := d.User(named.ID, now)
	if err != nil || !known {
		return named, err
	}
	return user.Ref, nil
}
