package authzen

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"gatehouse/directory"
	"gatehouse/gate"
)

// Results of one page of a search.
const (
	defaultPage = 100
	maxPage     = 1000
	maxToken    = 4096 // bytes
)

// found is the answer to a search.
type found struct {
	Page    foundPage      `json:"page"`
	Context map[string]any `json:"context,omitempty"`
	Results []result       `json:"results"`
}

type foundPage struct {
	Next  string `json:"next_token"`
	Count int    `json:"count"`
}

// result is a subject, a resource, or an action.
type result struct {
	Type string `json:"type,omitempty"`
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// searchSubject lists the subjects that may.
func (h *Handler) searchSubject(r *request) (any, error) {
	return h.search(r, parts{resourceID: true, action: true}, func(s *search) ([]result, string, error) {
		q := &s.question
		refs, next, err := s.in.Who(q.resource, q.action, q.subject.Type, s.page.After, s.page.Limit, s.in.now)
		if i := slices.IndexFunc(refs, func(r directory.Ref) bool { return r.ID == "*" }); i >= 0 {
			refs, s.others = slices.Delete(refs, i, i+1), true
		}
		return results(refs), next, err
	})
}

// searchResource lists the resources that the subject may.
func (h *Handler) searchResource(r *request) (any, error) {
	return h.search(r, parts{subjectID: true, action: true}, func(s *search) ([]result, string, error) {
		q := &s.question
		refs, next, err := s.in.What(q.subject, q.action, q.resource.Type, s.page.After, s.page.Limit, s.in.now)
		return results(refs), next, err
	})
}

func results(refs []directory.Ref) []result {
	out := make([]result, len(refs))
	for i, ref := range refs {
		out[i] = result{Type: ref.Type, ID: ref.ID}
	}
	return out
}

// searchAction lists the relations and permissions that the subject has to the resource, in the order of their names.
func (h *Handler) searchAction(r *request) (any, error) {
	return h.search(r, parts{subjectID: true, resourceID: true}, func(s *search) ([]result, string, error) {
		q, m := &s.question, s.in.Manifest()
		names := slices.Concat(m.Relations(q.resource.Type), m.Permissions(q.resource.Type))
		if len(names) == 0 && !slices.Contains(m.Types(), q.resource.Type) {
			return nil, "", directory.ErrUnknownType
		}
		slices.Sort(names)
		out, last := []result{}, ""
		for _, name := range slices.Compact(names) {
			if name <= s.page.After {
				continue
			}
			if r.ctx.Err() != nil {
				return nil, "", tooLong(r.ctx)
			}
			yes, err := s.in.Check(directory.Question{Object: q.resource, Relation: name, Subject: q.subject}, s.in.now)
			if err != nil {
				return nil, "", err
			}
			if !yes {
				continue
			}
			if len(out) == s.page.Limit {
				return out, last, nil
			}
			out, last = append(out, result{Name: name}), name
		}
		return out, "", nil
	})
}

// search is one page of a search, of one snapshot.
type search struct {
	question
	page   page
	in     snapshot
	others bool // subjects that the directory does not know may, too
}

type snapshot struct {
	*directory.Snapshot
	now time.Time
}

// search reads what is looked for, has look find a page of it, and answers.
func (h *Handler) search(r *request, need parts, look func(*search) ([]result, string, error)) (any, error) {
	if h.rule != nil {
		return nil, &problem{http.StatusNotImplemented, "the policy decides here, and cannot be searched"}
	}
	q, err := questionOf(r.body, nil, need)
	if err != nil {
		return nil, err
	}
	s := &search{question: q, in: snapshot{h.with.Gate.View().Directory, h.with.Clock()}}
	of := s.sum(r.path)
	if s.page, err = pageOf(r.body, of); err != nil {
		return nil, err
	}
	if s.in.Snapshot == nil {
		return nil, &problem{http.StatusServiceUnavailable, "the directory is not loaded"}
	}
	if need.subjectID {
		if s.subject, err = gate.SubjectOf(s.in.Snapshot, s.subject, s.in.now); err != nil {
			return nil, searchProblem(err)
		}
	}
	list, next, err := look(s)
	if errors.Is(err, directory.ErrUnknownType) || errors.Is(err, directory.ErrUnknownRelation) {
		return &found{Context: map[string]any{"reason": explain(err, gate.NoDecision)}, Results: []result{}}, nil
	}
	if err != nil {
		return nil, searchProblem(err)
	}
	out := &found{Page: foundPage{Count: len(list)}, Results: list}
	if next != "" {
		out.Page.Next = page{After: next, Limit: s.page.Limit, Of: of}.token()
	}
	if s.others {
		out.Context = map[string]any{"others": true}
	}
	return out, nil
}

// searchProblem is why a search has no answer: a part of one would be none.
func searchProblem(err error) error {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	return &problem{http.StatusInternalServerError, "the search has no answer: " + explain(err, gate.Internal)}
}

// page is where a search goes on, and how far. As a token it says as well which search it is of.
type page struct {
	After string `json:"a"`
	Limit int    `json:"l"`
	Of    string `json:"o"`
}

func (p page) token() string {
	text, _ := json.Marshal(p) // two strings and a number
	return base64.RawURLEncoding.EncodeToString(text)
}

// sum tells searches apart.
func (q *question) sum(path string) string {
	text, _ := json.Marshal(map[string]any{path: q.whole}) // came as JSON; the order of its names does not matter
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// pageOf reads which page of a search is wanted.
func pageOf(body map[string]any, of string) (page, error) {
	first := page{Limit: defaultPage}
	value, there := body["page"]
	if !there {
		return first, nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return first, bad("page: must be an object")
	}
	limit, limited, err := limitOf(object)
	if err != nil {
		return first, err
	}
	value, there = object["token"]
	text, ok := value.(string)
	switch {
	case there && !ok:
		return first, bad("page.token: must be a string")
	case text == "":
		if limited {
			first.Limit = limit
		}
		return first, nil
	case len(text) > maxToken:
		return first, bad("page.token: is too long")
	}
	var p page
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	switch {
	case err != nil || p.Limit < 1 || p.Limit > maxPage:
		return first, bad("page.token: is none of ours")
	case p.Of != of:
		return first, bad("page.token: is of another search: begin without one")
	case limited && limit != p.Limit:
		return first, bad("page.limit: is another than that of the page before")
	}
	return p, nil
}

// limitOf is page.limit within our bounds. 0 leaves it to us.
func limitOf(object map[string]any) (limit int, limited bool, err error) {
	value, there := object["limit"]
	if !there {
		return 0, false, nil
	}
	number, _ := value.(json.Number)
	n, err := strconv.ParseUint(string(number), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		n, err = math.MaxUint64, nil
	}
	switch {
	case err != nil:
		return 0, false, bad("page.limit: must be an integer, not negative")
	case n == 0:
		return defaultPage, true, nil
	}
	return int(min(n, maxPage)), true, nil
}
