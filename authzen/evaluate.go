package authzen

import (
	"context"
	"errors"
	"net/http"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/input"
)

// decision is the answer to one evaluation. The zero value denies.
type decision struct {
	Decision bool           `json:"decision"`
	Context  map[string]any `json:"context,omitempty"`
}

// failed is the decision about an evaluation that could not be made.
func failed(status int, message string) decision {
	return decision{Context: map[string]any{"error": map[string]any{"status": status, "message": message}}}
}

// evaluation answers one access evaluation.
func (h *Handler) evaluation(r *request) (any, error) {
	q, err := questionOf(r.body, nil, all())
	if err != nil {
		return nil, err
	}
	if err := h.mayAsk(r); err != nil {
		return nil, err
	}
	return h.decide(r, &q), nil
}

// evaluations answers a batch, in its order. An evaluation that cannot be made is a no of its own.
func (h *Handler) evaluations(r *request) (any, error) {
	until, err := semanticOf(r.body)
	if err != nil {
		return nil, err
	}
	batch, err := batchOf(r.body)
	if err != nil {
		return nil, err
	}
	if batch == nil {
		return h.evaluation(r)
	}
	if err := h.mayAsk(r); err != nil {
		return nil, err
	}
	decisions := make([]decision, 0, len(batch))
	for i := range batch {
		if r.ctx.Err() != nil {
			return nil, tooLong(r.ctx)
		}
		var d decision
		if p, ok := errors.AsType[*problem](batch[i].wrong); ok {
			d = failed(p.status, p.text)
		} else {
			d = h.decide(r, &batch[i].question)
		}
		decisions = append(decisions, d)
		if until.ends(d.Decision) {
			break
		}
	}
	return map[string]any{"evaluations": decisions}, nil
}

func tooLong(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &problem{http.StatusServiceUnavailable, "the request took longer than " + maxTime.String() + ": ask for less"}
	}
	return &problem{http.StatusServiceUnavailable, "the request was given up"}
}

// mayAsk refuses clients that may not name the users that a policy decides about.
func (h *Handler) mayAsk(r *request) error {
	if h.rule != nil && !r.client.ActAs {
		return &problem{http.StatusForbidden, "the policy decides here, and this key may not name users: its scope act-as lets it"}
	}
	return nil
}

// decide has the gate decide.
func (h *Handler) decide(r *request, q *question) decision {
	asked := &gate.Question{Request: gate.QuestionRequest(r.path, gate.Endpoint{Principal: "key/" + r.client.ID, Address: gate.Address{Host: r.from}}),
		About: q.whole, Spread: true, Subject: q.subject}
	asked.Request.ID, asked.Request.Bytes = r.id, q.size
	if h.rule == nil {
		a := h.with.Gate.AskDirectory(r.ctx, asked, q.resource, q.action)
		return decisionOf(&a)
	}
	asked.Rule, asked.Name, asked.Request.As = h.rule, h.with.Decision, caller(q.subject)
	a := h.with.Gate.Ask(r.ctx, asked)
	return decisionOf(&a)
}

// caller is the identity of a subject: a user is who a token with this subject would be, anything else is nobody.
func caller(subject directory.Ref) *input.Identity {
	id := identity.Anonymous()
	if subject.Type == "user" || subject.Type == "identity" {
		id = input.Identity{Type: identity.TypeSub, Identity: subject.ID, Subject: subject.ID, Authenticated: true}
	}
	return &id
}

// decisionOf is what the client reads of an answer.
func decisionOf(a *gate.Answer) decision {
	switch {
	case a.Allow:
		return decision{Decision: true, Context: a.Metadata}
	case a.Reason == gate.Denied:
		d := decision{Context: a.Metadata}
		if _, taken := d.Context["reason"]; a.Body != "" && !taken {
			d.Context = with(d.Context, "reason", a.Body)
		}
		return d
	case a.Reason == gate.NoDecision, a.Reason == gate.UnknownUser, a.Reason == gate.DisabledUser:
		return decision{Context: map[string]any{"reason": explain(a.Diagnostics.Cause, a.Reason)}}
	}
	return failed(a.Status, explain(a.Diagnostics.Cause, a.Reason))
}

// explain says why there is no decision: what the directory says of the question, or the gate's reason.
func explain(cause error, reason gate.Reason) string {
	for _, known := range []error{directory.ErrUnknownType, directory.ErrUnknownRelation, directory.ErrLimit, directory.ErrCircular, directory.ErrAmbiguous} {
		if errors.Is(cause, known) {
			return known.Error()
		}
	}
	return reason.String()
}

// with is a copy of an object with one more member.
func with(object map[string]any, name string, value any) map[string]any {
	out := map[string]any{name: value}
	for k, v := range object {
		out[k] = v
	}
	return out
}
