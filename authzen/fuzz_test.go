package authzen

import (
	"encoding/json"
	"errors"
	"testing"
)

// FuzzRequest: any body is read within bounds, or refused with the status of a client's mistake; a token that was given is read back.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{``, `{}`, `[]`, `{"subject":{"type":"user","id":"a","properties":{}},"action":{"name":"r"},"resource":{"type":"doc","id":"1"},"context":{"x":[1,{"y":null}]}}`,
		`{"subject":1,"evaluations":[{}]}`, `{"evaluations":[{"subject":{"type":"u"}},{"resource":{}}],"options":{"evaluations_semantic":"execute_all"}}`,
		`{"page":{"token":"eyJhIjoiYSIsImwiOjEsIm8iOiIifQ","limit":7},"subject":{"type":"user"},"action":{"name":"r"},"resource":{"type":"doc","id":"\u00e9"}}`,
		`{"options":{"evaluations_semantic":{}},"page":{"limit":1e9}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		check := func(err error) {
			if p, ok := errors.AsType[*problem](err); err != nil && (!ok || p.status != 400 || p.text == "") {
				t.Fatalf("%q: %v", raw, err)
			}
		}
		body, err := decode(raw)
		if check(err); err != nil {
			return
		}
		until, err := semanticOf(body)
		if check(err); err == nil && until == "" {
			t.Fatal("no semantic")
		}
		batch, err := batchOf(body)
		check(err)
		for _, item := range batch {
			check(item.wrong)
			if q := item.question; item.wrong == nil && (q.subject.Type == "" || q.subject.ID == "" || q.resource.Type == "" || q.resource.ID == "" || q.action == "") {
				t.Fatalf("%q: %+v", raw, q)
			}
		}
		for _, need := range []parts{all(), {resourceID: true, action: true}, {subjectID: true, resourceID: true}} {
			q, err := questionOf(body, nil, need)
			if check(err); err != nil {
				continue
			}
			of := q.sum("/x")
			if _, err := json.Marshal(q.whole); err != nil || len(of) != 22 {
				t.Fatalf("%q: %v", raw, err)
			}
			p, err := pageOf(body, of)
			if check(err); err == nil && (p.Limit < 1 || p.Limit > maxPage) {
				t.Fatalf("%q: %+v", raw, p)
			}
			again, err := pageOf(map[string]any{"page": map[string]any{"token": page{After: q.resource.Type, Limit: 7, Of: of}.token()}}, of)
			if err != nil || again.After != q.resource.Type || again.Limit != 7 {
				t.Fatalf("%q: %+v, %v", raw, again, err)
			}
		}
	})
}
