package authzen_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"gatehouse/authzen"
	"gatehouse/directory"
)

// TestSearch: what a search finds is what evaluations allow.
func TestSearch(t *testing.T) {
	d := open(t, library(t), nil, authzen.Config{})
	type test struct{ what, subject, action, resource, want string }
	entity := func(text string) string {
		typ, id, whole := strings.Cut(text, ":")
		if !whole {
			return fmt.Sprintf(`{"type":%q}`, typ)
		}
		return fmt.Sprintf(`{"type":%q,"id":%q}`, typ, id)
	}
	for _, test := range []test{
		{"subject", "user", "can_read", "doc:1", "user:alice user:bob"},
		{"subject", "user:alice", "can_read", "doc:1", "user:alice user:bob"}, // the id is ignored
		{"subject", "user", "can_read", "doc:2", "user:alice user:bob user:carol others"},
		{"subject", "user", "owner", "doc:1", "user:alice"},
		{"subject", "group", "can_read", "doc:1", ""},
		{"subject", "user", "can_read", "doc:none", ""},
		{"subject", "user", "can_fly", "doc:1", "unknown relation or permission"},
		{"subject", "ghost", "can_read", "doc:1", "unknown type"},
		{"resource", "user:alice", "can_write", "doc", "doc:1 doc:x doc:y"},
		{"resource", "user:al", "can_write", "doc:1", "doc:1 doc:x doc:y"}, // an identity of hers
		{"resource", "user:bob", "can_read", "doc", "doc:1 doc:2 doc:3"},
		{"resource", "user:nobody", "can_read", "doc", "doc:2"},
		{"resource", "user:bob", "can_read", "planet", "unknown type"},
		{"action", "user:alice", "", "doc:1", "can_odd can_read can_write owner"},
		{"action", "user:bob", "", "doc:1", "can_read viewer"},
		{"action", "user:bob", "", "doc:none", ""},
		{"action", "ghost:bob", "", "doc:1", "unknown type"},
		{"action", "user:bob", "", "planet:1", "unknown type"},
	} {
		body := fmt.Sprintf(`{"subject":%s,"action":{"name":%q},"resource":%s,"context":{"ip":"::1"}}`, entity(test.subject), test.action, entity(test.resource))
		status, got := d.ask(t, "/access/v1/search/"+test.what, body)
		if list, next := listed(t, got); status != http.StatusOK || list != test.want || next != "" {
			t.Errorf("%s %s %s %s: %d %s, want %s", test.what, test.subject, test.action, test.resource, status, got, test.want)
		}
	}
	for body, want := range map[string]string{
		`{"subject":{"type":"user","id":"twin"},"action":{"name":"can_read"},"resource":{"type":"doc"}}`: directory.ErrAmbiguous.Error(),
		`{"subject":{"type":"user","id":"alice"},"action":{"name":"can_odd"},"resource":{"type":"doc"}}`: directory.ErrCircular.Error(),
	} {
		if status, got := d.ask(t, "/access/v1/search/resource", body); status != http.StatusInternalServerError || got != "the search has no answer: "+want {
			t.Errorf("%s: %d %s", body, status, got)
		}
	}
	if status, got := open(t, nil, nil, authzen.Config{}).ask(t, "/access/v1/search/action", question("user:a", "", "doc:1")); status != http.StatusServiceUnavailable {
		t.Errorf("without a directory: %d %s", status, got)
	}
	if lines := d.logged(t); len(lines) != 0 {
		t.Errorf("searches decide nothing, and %d entries are in the log", len(lines))
	}
}

// listed is what a search found, in one line, and the token of the next page.
func listed(t *testing.T, answer string) (list, next string) {
	t.Helper()
	var got struct {
		Page struct {
			NextToken *string `json:"next_token"`
			Count     int
		}
		Context struct {
			Others bool
			Reason string
		}
		Results []struct{ Type, ID, Name string }
	}
	if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Results == nil || got.Page.NextToken == nil || got.Page.Count != len(got.Results) {
		t.Errorf("%s: no answer to a search: %v", answer, err)
		return "", ""
	}
	var names []string
	for _, r := range got.Results {
		names = append(names, strings.TrimPrefix(r.Type+":"+r.ID+r.Name, ":"))
	}
	if got.Context.Others {
		names = append(names, "others")
	}
	if got.Context.Reason != "" {
		names = append(names, got.Context.Reason)
	}
	return strings.Join(names, " "), *got.Page.NextToken
}

// TestPages: pages together are the whole, a token is good for its own search alone, and limits hold.
func TestPages(t *testing.T) {
	relations := []string{"doc:1#owner@user:alice", "doc:1#viewer@user:*"}
	var want []string
	for i := range 25 {
		relations = append(relations, fmt.Sprintf("doc:1#viewer@user:u%02d", i))
		want = append(want, fmt.Sprintf("user:u%02d", i))
	}
	want = append([]string{"user:alice"}, want...)
	d := open(t, snapshot(t, docs, directory.Limits{}, relations...), nil, authzen.Config{})
	const head = `{"subject":{"type":"user"},"action":{"name":"can_read"},"resource":{"type":"doc","id":"1"}`
	for _, limit := range []int{1, 7, 26, 1000} {
		var all []string
		page := fmt.Sprintf(`{"limit":%d}`, limit)
		for i := 0; ; i++ {
			_, got := d.ask(t, "/access/v1/search/subject", head+`,"page":`+page+`}`)
			list, next := listed(t, got)
			list = strings.TrimSuffix(strings.TrimSuffix(list, "others"), " ")
			all = append(all, strings.Fields(list)...)
			if next == "" {
				break
			}
			if page = `{"token":"` + next + `"}`; i%2 == 0 {
				page = fmt.Sprintf(`{"token":%q,"limit":%d}`, next, limit)
			}
		}
		if !slices.Equal(all, want) {
			t.Errorf("by %d: %v", limit, all)
		}
	}
	var all []string
	for page := `{"limit":1}`; ; {
		_, got := d.ask(t, "/access/v1/search/action", strings.TrimSuffix(question("user:alice", "", "doc:1"), "}")+`,"page":`+page+`}`)
		list, next := listed(t, got)
		all = append(all, list)
		if next == "" {
			break
		}
		page = `{"token":"` + next + `"}`
	}
	if got := strings.Join(all, " "); got != "can_odd can_read can_write owner viewer" {
		t.Errorf("actions one by one: %s", got)
	}
	_, first := d.ask(t, "/access/v1/search/subject", head+`,"page":{"limit":5}}`)
	_, token := listed(t, first)
	other := strings.Replace(head, `"can_read"`, `"viewer"`, 1)
	for want, body := range map[string]string{
		"page: must be an object":                             head + `,"page":[]}`,
		"page.limit: must be an integer, not negative":        head + `,"page":{"limit":-1}}`,
		"page.token: must be a string":                        head + `,"page":{"token":1}}`,
		"page.token: is too long":                             head + `,"page":{"token":"` + strings.Repeat("a", 5000) + `"}}`,
		"page.token: is none of ours":                         head + `,"page":{"token":"!"}}`,
		"page.token: is of another search: begin without one": other + `,"page":{"token":"` + token + `"}}`,
		"page.limit: is another than that of the page before": head + `,"page":{"token":"` + token + `","limit":6}}`,
	} {
		if status, got := d.ask(t, "/access/v1/search/subject", body); status != http.StatusBadRequest || got != want {
			t.Errorf("%.200s: %d %s, want %s", body, status, got, want)
		}
	}
	for _, limit := range []string{"0", "99999999999999999999999"} {
		status, got := d.ask(t, "/access/v1/search/subject", head+`,"page":{"token":"","limit":`+limit+`}}`)
		if list, next := listed(t, got); status != http.StatusOK || next != "" || len(strings.Fields(list)) != len(want)+1 {
			t.Errorf("limit %s: %d %s", limit, status, got)
		}
	}
}
