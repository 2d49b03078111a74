package scim

import (
	"encoding/json"
	"testing"
)

const full = `{"userName":"ann","title":"T","name":{"givenName":"Ann","familyName":"Lee"},"emails":[{"value":"w","type":"work","primary":true},{"value":"h","type":"home"}],
	"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"department":"sales","manager":{"value":"m1"}}}`

func patched(t testing.TB, doc, operations string) (map[string]any, error) {
	t.Helper()
	in, err := decode([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	out, err := users.document(in)
	if err != nil {
		t.Fatal(err)
	}
	list, err := users.parsePatch([]byte(`{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[` + operations + `]}`))
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := list[i].apply(out); err != nil {
			return nil, err
		}
	}
	return out, users.complete(out)
}

// TestPatch has what providers send, and the rules of RFC 7644, section 3.5.2. want is a JSON object, or a scimType.
func TestPatch(t *testing.T) {
	const e = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	for name, test := range map[string]struct{ doc, operations, want string }{
		"add to a simple one":           {`{"userName":"a"}`, `{"op":"add","path":"title","value":"x"}`, `{"userName":"a","title":"x"}`},
		"add an empty list":             {`{"userName":"a"}`, `{"op":"add","path":"emails","value":[]}`, `{"userName":"a"}`},
		"add twice":                     {`{"userName":"a"}`, `{"op":"add","path":"emails","value":[{"value":"x"},{"value":"y"}]},{"op":"Add","path":"emails","value":{"value":"x"}}`, `{"userName":"a","emails":[{"value":"x"},{"value":"y"}]}`},
		"a new primary":                 {`{"userName":"a","emails":[{"value":"x","primary":true}]}`, `{"op":"add","path":"emails","value":[{"value":"y","primary":true}]}`, `{"userName":"a","emails":[{"value":"x","primary":false},{"value":"y","primary":true}]}`},
		"add to a part":                 {`{"userName":"a"}`, `{"op":"add","path":"name.givenName","value":"x"}`, `{"userName":"a","name":{"givenName":"x"}}`},
		"add an object":                 {`{"userName":"a","name":{"givenName":"x"}}`, `{"op":"add","path":"name","value":{"familyName":"y"}}`, `{"userName":"a","name":{"givenName":"x","familyName":"y"}}`},
		"add to what is not there":      {`{"userName":"a"}`, `{"op":"add","path":"emails[type eq \"work\" and primary eq true].value","value":"x"}`, `{"userName":"a","emails":[{"type":"work","primary":true,"value":"x"}]}`},
		"replace one":                   {`{"userName":"a","emails":[{"value":"x","type":"work"},{"value":"y"}]}`, `{"op":"replace","path":"emails[type eq \"WORK\"]","value":{"value":"z"}}`, `{"userName":"a","emails":[{"value":"z"},{"value":"y"}]}`},
		"replace a part of one":         {`{"userName":"a","emails":[{"value":"x","type":"work"}]}`, `{"op":"replace","path":"emails[type eq \"work\"].value","value":"z"}`, `{"userName":"a","emails":[{"value":"z","type":"work"}]}`},
		"replace what is not there":     {`{"userName":"a"}`, `{"op":"replace","path":"emails[type eq \"work\"].value","value":"z"}`, "noTarget"},
		"replace all":                   {`{"userName":"a","emails":[{"value":"x"}]}`, `{"op":"replace","path":"emails","value":[{"value":"y"}]}`, `{"userName":"a","emails":[{"value":"y"}]}`},
		"replace by nothing":            {`{"userName":"a","title":"x"}`, `{"op":"replace","path":"title","value":null}`, `{"userName":"a"}`},
		"remove one":                    {`{"userName":"a","emails":[{"value":"x"},{"value":"y"}]}`, `{"op":"remove","path":"emails[value eq \"x\"]"}`, `{"userName":"a","emails":[{"value":"y"}]}`},
		"remove the last":               {`{"userName":"a","emails":[{"value":"x"}]}`, `{"op":"remove","path":"emails[value eq \"x\"]"}`, `{"userName":"a"}`},
		"remove by value":               {`{"userName":"a","emails":[{"value":"x","type":"work"},{"value":"y"}]}`, `{"op":"Remove","path":"emails","value":[{"value":"x"}]}`, `{"userName":"a","emails":[{"value":"y"}]}`},
		"remove what is not there":      {`{"userName":"a"}`, `{"op":"remove","path":"title"}`, `{"userName":"a"}`},
		"remove what is required":       {`{"userName":"a"}`, `{"op":"remove","path":"userName"}`, "mutability"},
		"unset what is required":        {`{"userName":"a"}`, `{"op":"replace","path":"userName","value":""}`, "invalidValue"},
		"a string for a boolean":        {`{"userName":"a"}`, `{"op":"Replace","path":"active","value":"False"}`, `{"userName":"a","active":false}`},
		"other letters":                 {`{"userName":"a"}`, `{"OP":"Add","PATH":"DISPLAYNAME","Value":"x"}`, `{"userName":"a","displayName":"x"}`},
		"no path":                       {`{"userName":"a"}`, `{"op":"replace","value":{"active":false,"id":"x","name.givenName":"g","unheard":1,"` + e + `:department":"d","emails[type eq \"work\"].value":"w"}}`, "noTarget"},
		"no path, as Entra adds":        {`{"userName":"a"}`, `{"op":"add","value":{"active":false,"name.givenName":"g","` + e + `:department":"d","emails[type eq \"work\"].value":"w"}}`, `{"userName":"a","active":false,"name":{"givenName":"g"},"emails":[{"type":"work","value":"w"}],"` + e + `":{"department":"d"}}`},
		"an extension":                  {`{"userName":"a"}`, `{"op":"add","value":{"` + e + `":{"department":"d"}}}`, `{"userName":"a","` + e + `":{"department":"d"}}`},
		"an extension by path":          {`{"userName":"a","` + e + `":{"division":"x"}}`, `{"op":"replace","path":"` + e + `","value":{"department":"d"}}`, `{"userName":"a","` + e + `":{"department":"d"}}`},
		"a manager as Entra sends him":  {`{"userName":"a"}`, `{"op":"Add","path":"` + e + `:manager","value":"m"}`, `{"userName":"a","` + e + `":{"manager":{"value":"m"}}}`},
		"the last of an extension":      {`{"userName":"a","` + e + `":{"division":"x"}}`, `{"op":"remove","path":"` + e + `:division"}`, `{"userName":"a"}`},
		"a part without a filter":       {`{"userName":"a","emails":[{"value":"x"},{"value":"y"}]}`, `{"op":"replace","path":"emails.type","value":"work"}`, `{"userName":"a","emails":[{"value":"x","type":"work"},{"value":"y","type":"work"}]}`},
		"a filter with escapes":         {`{"userName":"a","emails":[{"value":"x\"\\y"}]}`, `{"op":"remove","path":"emails[value eq \"x\\\"\\\\y\"]"}`, `{"userName":"a"}`},
		"no attribute":                  {`{"userName":"a"}`, `{"op":"add","path":"nothing","value":1}`, "invalidPath"},
		"no sub-attribute":              {`{"userName":"a"}`, `{"op":"add","path":"emails[value eq \"x\"].nothing","value":1}`, "invalidPath"},
		"a filter on what has no parts": {`{"userName":"a"}`, `{"op":"add","path":"title[value eq \"x\"]","value":1}`, "invalidPath"},
		"no filter":                     {`{"userName":"a"}`, `{"op":"remove","path":"emails[]"}`, "invalidFilter"},
		"no end of the filter":          {`{"userName":"a"}`, `{"op":"remove","path":"emails[value eq \"x\""}`, "invalidPath"},
		"of another type":               {`{"userName":"a"}`, `{"op":"add","path":"title","value":{"x":1}}`, "invalidValue"},
		"what is read-only":             {`{"userName":"a"}`, `{"op":"add","path":"meta.version","value":"x"}`, "mutability"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := patched(t, test.doc, test.operations)
			if err != nil {
				if f, known := asFailure(err); !known || f.typ != test.want {
					t.Errorf("%s: %v, not %s", f.typ, err, test.want)
				}
				return
			}
			want, err := decode([]byte(test.want))
			if err != nil {
				t.Fatalf("no error, not %s", test.want)
			}
			if !equal(got, want) {
				text, _ := json.Marshal(got)
				t.Errorf("it is %s, not %s", text, test.want)
			}
		})
	}
}

// FuzzPatch holds that no PATCH makes of a user what could not have been created.
func FuzzPatch(f *testing.F) {
	f.Add(`{"op":"replace","path":"emails[type eq \"work\"].value","value":"x"}`)
	f.Add(`{"op":"add","value":{"active":"False","name.givenName":"x"}},{"op":"remove","path":"name"}`)
	f.Add(`{"op":"remove","path":"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value"}`)
	f.Fuzz(func(t *testing.T, operations string) {
		got, err := patched(t, full, operations)
		if err != nil {
			return
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		in, err := decode(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		again, err := users.document(in)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if len(again) != len(got) {
			t.Errorf("%s becomes %v", text, again)
		}
		users.derive(got)
	})
}

// FuzzFilter holds that a filter is read or refused, and answered.
func FuzzFilter(f *testing.F) {
	f.Add(`userName eq "a\"b"`)
	f.Add(`emails[type eq "work" and not (value co "x")] or title pr`)
	f.Add(`urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value ge "x" and active eq true and meta.created lt "2001-01-01T00:00:00Z"`)
	in, err := decode([]byte(full))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		if n, err := users.parseFilter(text, nil); err == nil {
			n.matches(in)
			n.exact(map[string]string{})
			n.reads("groups")
		}
	})
}
