package gate

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"

	"gatehouse/decisionlog"
	"gatehouse/input"
	"gatehouse/policy"
	"gatehouse/policy/rego"
	"gatehouse/routes"
)

// outcome classifies a Check as one of the five outcomes.
func (c *call) outcome(a *Answer) int {
	switch {
	case a.Direct:
		return outcomePermissions
	case !a.Allow:
		return outcomeDeny
	case a.DryRun:
		return outcomeDryRun
	case c.bypassed:
		return outcomeBypass
	}
	return outcomeAllow
}

// record writes the decision-log entry, the basis of audit, explain and replay, before the answer is sent. The answer
// does not depend on the write, unless the log is set to deny.
func (g *Gate) record(ctx context.Context, c *call, a *Answer, err error) {
	entry := c.entry(a, err)
	entry.Duration = g.clock().Sub(c.started)
	if lost := c.view.settings().Log.Append(ctx, entry); errors.Is(lost, decisionlog.ErrDeny) && (a.Allow || a.Direct) {
		*a = c.deny(Unavailable, 0)
		err = lost
	}
	outcome := c.outcome(a)
	g.metrics.observe(outcome, a.Reason, entry.Duration)
	if a.Reason == None {
		return
	}
	if event := g.logger.Check(outcomes[a.Reason].level, "denied"); event != nil {
		shown := c.shown()
		problem := zap.Skip()
		if err != nil {
			problem = zap.String("error", shown.Text(err.Error()))
		}
		event.Write(zap.String("decision_id", c.id), zap.String("outcome", outcomeLabels[outcome]), zap.Stringer("reason", a.Reason),
			zap.Int("status", a.Status), zap.String("method", shown.Path(c.req.Method)), zap.String("path", shown.Path(c.target.raw)), problem)
	}
}

// shown sanitizes texts of the request for operators.
func (c *call) shown() decisionlog.Shown {
	return c.view.settings().Log.Shown(c.req.Path, c.req.Headers)
}

func (c *call) entry(a *Answer, err error) *decisionlog.Entry {
	req, e := c.req, &c.logged
	e.DecisionID, e.Time, e.Memo = c.id, c.started, c.remembered
	e.Outcome, e.Reason, e.Status, e.DryRun = "deny", a.Reason.String(), a.Status, a.DryRun
	e.Peer, e.RequestedBy = req.Source.Principal, req.Source.Address.Host
	if c.app != nil {
		e.App = c.app.Name
	}
	if r := c.match.Route; r != nil {
		e.Route = cmp.Or(r.Name, r.Template)
	}
	if c.bypassed {
		e.Reason = "bypass"
	}
	if a.Allow && !a.DryRun {
		e.Outcome = "allow"
	}
	if a.Direct {
		e.Outcome, e.Reason = "allow", "permissions"
	}
	if e.TraceID, e.SpanID = traceparent(req.Headers.Get("traceparent")); c.span.IsValid() {
		e.TraceID, e.SpanID = c.span.TraceID().String(), c.span.SpanID().String()
	}
	if v := c.view; v != nil && v.Policy != nil {
		e.Revision, e.Bundles, e.Digests = v.revision, v.bundles, v.digests
		if v.Directory != nil {
			e.DirectoryRevision = v.Directory.Revision()
		}
	}
	c.recordInput(e)
	if c.rule != nil && c.rule.decision != "" { // the policy's input names the package only
		e.Input.DecisionPath = strings.TrimPrefix(e.Input.DecisionPath+"/"+c.rule.decision, "/")
	}
	if c.decision.Result != nil {
		e.Result, e.ResultKept = (*resultDocument)(c), c.decision.Kept
	}
	if d := &c.decision; len(d.Asked) > 0 || d.AskedTruncated {
		e.Facts, e.FactsTruncated, e.FactsKept = (*factsDocument)(c), d.AskedTruncated, d.AskedKept
	}
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

// recordInput records the policy's input or, where the policy was not evaluated, the minimum that every entry has.
func (c *call) recordInput(e *decisionlog.Entry) {
	e.InputSize = c.req.Bytes
	if e.Asked = c.body != nil; !e.Asked {
		// Headers, because their secrets may be repeated elsewhere.
		e.Input = input.Input{Request: Request{Method: c.req.Method, Host: c.req.Host, Path: c.req.Path, Headers: c.req.Headers},
			Identity: c.identity, DecisionPath: c.asked()}
		c.addParams(e)
		return
	}
	if !c.described {
		c.describe()
	}
	e.Body = "" // never recorded
	if c.body != rego.Null() {
		e.ParsedBody = (*bodyDocument)(c)
	}
}

// describe fills the source of the input. It is stored in the call's log entry.
func (c *call) describe() *input.Input {
	in := &c.logged.Input
	*in = input.Input{Request: *c.req, Identity: c.identity, Peer: c.peer, User: c.user, DecisionPath: c.asked(), HasBody: c.req.Body != "", Truncated: c.truncated}
	if len(c.view.apps) > 1 && c.app != nil { // a question belongs to no application
		in.App = c.app.Name
	}
	if c.match.Outcome == routes.Matched {
		in.Redirect = c.redirect
		in.Matched, in.RouteName, in.RouteTemplate = true, c.match.Route.Name, c.match.Route.Template
		in.WebSocket = c.method == routes.WebSocket
	}
	c.addParams(&c.logged)
	c.described = true
	return in
}

func (c *call) addParams(e *decisionlog.Entry) {
	for _, p := range c.match.Params {
		e.AddParam(p.Name, p.Value)
	}
}

// bodyDocument, resultDocument and factsDocument present a call as the documents of its entry. (A pointer in an
// interface does not allocate.)
type (
	bodyDocument   call
	resultDocument call
	factsDocument  call
)

// JSON implements decisionlog.Document.
func (d *bodyDocument) JSON() (any, error) { return rego.JSON(d.body) }

// JSON implements decisionlog.Document.
func (d *resultDocument) JSON() (any, error) { return rego.JSON(d.decision.Result) }

// JSON implements decisionlog.Document.
func (d *factsDocument) JSON() (any, error) { return policy.QuestionsJSON(d.decision.Asked) }

// traceparent parses trace and span ids of a W3C Trace Context header, "00-<32 hex>-<16 hex>-<2 hex>".
func traceparent(h string) (trace, span string) {
	if len(h) < 55 || h[2] != '-' || h[35] != '-' || h[52] != '-' {
		return "", ""
	}
	for i := 3; i < 52; i++ {
		if c := h[i]; i != 35 && !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return "", ""
		}
	}
	return h[3:35], h[36:52]
}

// decisionIDs makes unique, unpredictable ids: an encrypted counter. AES is a permutation, so one process never
// repeats an id, and ids of two processes collide as rarely as random 128-bit numbers. Reading the kernel's
// randomness costs several times as much.
type decisionIDs struct {
	block   cipher.Block
	counter atomic.Uint64
}

// id is the buffer of an id, kept in heap memory that exists already: arguments through an interface escape.
type id struct{ block [aes.BlockSize]byte }

var idText = base32.StdEncoding.WithPadding(base32.NoPadding)

func (d *decisionIDs) init() error {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails (crypto/rand)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return fmt.Errorf("decision ids: %w", err)
	}
	d.block = block
	return nil
}

// next returns a new id: 26 letters and digits.
func (d *decisionIDs) next(i *id) string {
	i.block = [aes.BlockSize]byte{}
	binary.BigEndian.PutUint64(i.block[:], d.counter.Add(1))
	d.block.Encrypt(i.block[:], i.block[:])
	var text [26]byte
	return string(idText.AppendEncode(text[:0], i.block[:]))
}
