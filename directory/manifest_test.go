package directory_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gatehouse/directory"
)

// topaz is a manifest with all that the model knows.
const topaz = `# yaml-language-server: $schema=https://www.topaz.sh/schema/manifest.json
---
model:
  version: 3
types:
  identity:
  user:
    relations:
      identifier: identity
      manager: user
  ### display_name: Group ###
  group:
    relations:
      member: user | group#member
    permissions: {}
  folder:
    relations:
      owner: user
      parent: folder
      viewer: |
        user | user:*
        | group#member
    permissions:
      is_owner: owner | parent->is_owner
      can_read: viewer | owner | parent->can_read
  doc:
    relations:
      owner: user
      parent: folder
      viewer: user | user:* | group#member
      auditor: user#manager
    permissions:
      can_write: owner | parent->is_owner
      can_read: viewer|can_write|parent->can_read
      can_share: can_write & parent->can_read
      can_invite: parent->can_read - viewer
      can_edit: (can_write & viewer) | (owner - (viewer | auditor))
`

func TestManifest(t *testing.T) {
	m, err := directory.ParseManifest("manifest.yaml", []byte(topaz))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.Types(), " "); got != "identity user group folder doc" {
		t.Error(got)
	}
	if got := strings.Join(m.Relations("doc"), " ") + "; " + strings.Join(m.Permissions("doc"), " "); got !=
		"owner parent viewer auditor; can_write can_read can_share can_invite can_edit" {
		t.Error(got)
	}
	if string(m.Text()) != topaz {
		t.Error("Text is another text")
	}
	d := directory.DefaultManifest()
	if !slices.Equal(d.Types(), []string{"user", "identity", "group", "role", "resource"}) {
		t.Error(d.Types())
	}
}

func TestManifestRefused(t *testing.T) {
	// types is a manifest with these lines under types, the first of which is line 4.
	types := func(lines ...string) string {
		return "model:\n  version: 3\ntypes:\n  " + strings.Join(lines, "\n  ") + "\n"
	}
	// doc is a manifest with one definition of doc, in line 7 of a relation and 8 of a permission.
	relation := func(line string) string {
		return types("user: {}", "group: {relations: {member: user, everybody: 'user:*'}, permissions: {can_join: member}}",
			"doc: {relations: {viewer: user, owner: user, parent: doc, public: 'user:*', team: group#everybody,", line, "}}")
	}
	permission := func(line string) string {
		return relation("}, permissions: {ok: viewer, " + line)
	}
	for name, c := range map[string][2]string{
		"empty":                   {"", "manifest.yaml: not a manifest: EOF"},
		"no YAML":                 {"types: [", "manifest.yaml: not a manifest: yaml: line 1: did not find expected node content"},
		"a list":                  {"- a", "manifest.yaml:1: not a manifest: it must be a mapping with the keys model and types"},
		"two documents":           {types("user: {}") + "---\nmodel: {}\n", "manifest.yaml:5: not a manifest: a second YAML document: one file holds one manifest"},
		"no version":              {"types: {}", "manifest.yaml:1: no model version: write model: {version: 3}"},
		"version":                 {"model:\n  version: 2\n", `manifest.yaml:2: model version "2" is not supported: write version: 3`},
		"key":                     {"model: {version: 3}\ntype: {}", `manifest.yaml:2: unknown key "type" in the manifest (did you mean "types"?)`},
		"key of a type":           {types("doc: {relation: {}}"), `manifest.yaml:4: unknown key "relation" in type doc (did you mean "relations"?)`},
		"types that are a list":   {"model: {version: 3}\ntypes: []", "manifest.yaml:2: types must be a mapping"},
		"twice":                   {types("user:", "doc:", "user:"), `manifest.yaml:6: "user" is already on line 4`},
		"relation twice":          {types("doc:", "  relations:", "    a: doc", "    a: doc"), `manifest.yaml:7: "a" is already on line 6`},
		"alias":                   {types("a: &x {}", "b: *x"), "manifest.yaml:4: type a: anchors and aliases are not supported: write the value out"},
		"alias of a text":         {types("a: {relations: {b: &x a, c: *x}}"), "manifest.yaml:4: a#b: anchors and aliases are not supported: write the value out"},
		"merge":                   {types("<<: {a: {}}"), `manifest.yaml:4: type "<<": a name begins with a letter`},
		"name":                    {types("_user: {}"), `manifest.yaml:4: type "_user": a name begins with a letter`},
		"name's end":              {relation("reader.: user"), `manifest.yaml:7: relation or permission "reader.": a name begins`},
		"name's length":           {types(strings.Repeat("a", 65) + ": {}"), `manifest.yaml:4: type "aaa`},
		"relation and permission": {permission("viewer: owner"), `manifest.yaml:7: "viewer" is both a relation and a permission of doc: a name can be one of them`},
		"no definition":           {relation("reader: ~"), "manifest.yaml:7: doc#reader has no definition"},
		"a list as a definition":  {relation("reader: [user]"), "manifest.yaml:7: doc#reader: a definition is a text, such as user | group#member"},
		"unknown type":            {relation("reader: usr"), `manifest.yaml:7: doc#reader: unknown type "usr" (did you mean "user"?)`},
		"unknown relation":        {relation("reader: group#membr"), `manifest.yaml:7: doc#reader: group has no relation "membr" (did you mean "member"?)`},
		"permission as subject":   {relation("reader: group#can_join"), `manifest.yaml:7: doc#reader: "can_join" is a permission: after # belongs a relation of group`},
		"symbols":                 {relation("reader: user$"), `manifest.yaml:7: doc#reader: "$" where | belongs`},
		"letter":                  {relation("reader: user | é"), `manifest.yaml:7: doc#reader: "é" where a type belongs`},
		"end":                     {relation("reader: user |"), "manifest.yaml:7: doc#reader: ends where a type belongs"},
		"gap":                     {relation("reader: user | | group"), `manifest.yaml:7: doc#reader: "|" where a type belongs`},
		"wildcard":                {relation("reader: 'user:all'"), "manifest.yaml:7: doc#reader: only * can follow user:"},
		"subject twice":           {relation("reader: user | user"), "manifest.yaml:7: doc#reader: user is named twice"},
		"block":                   {types("doc:", "  relations:", "    a: |", "      doc |", "      dok"), `manifest.yaml:6: doc#a: unknown type "dok" (did you mean "doc"?)`},
		"circular relation":       {relation("a: doc#b, b: doc#a"), "manifest.yaml:7: doc#a is circular: it leads to relations alone, and to no type"},
		"relation of itself":      {types("team: {relations: {member: team#member}}"), "manifest.yaml:4: team#member is circular"},
		"unknown name":            {permission("p: viewr"), `manifest.yaml:7: doc#p: doc has no relation or permission "viewr" (did you mean "viewer"?)`},
		"dash":                    {permission("p: viewer-owner"), `doc has no relation or permission "viewer-owner" (write viewer - owner to exclude)`},
		"unknown base":            {permission("p: parnt->ok"), `manifest.yaml:7: doc#p: doc has no relation "parnt" (did you mean "parent"?)`},
		"permission as base":      {permission("p: ok->viewer"), `manifest.yaml:7: doc#p: "ok" is a permission: before -> belongs a relation`},
		"unknown target":          {permission("p: parent->okk"), `manifest.yaml:7: doc#p: parent leads to doc, which has no relation or permission "okk" (did you mean "ok"?)`},
		"target of another type":  {permission("p: viewer->ok"), `manifest.yaml:7: doc#p: viewer leads to user, which has no relation or permission "ok"`},
		"-> of everybody":         {permission("p: public->ok"), `manifest.yaml:7: doc#p: "public" allows every object of a type (:*): -> cannot follow it`},
		"-> of everybody's group": {permission("p: team->ok"), `manifest.yaml:7: doc#p: "team" allows every object of a type (:*): -> cannot follow it`},
		"operators":               {permission("p: viewer | owner & ok"), `manifest.yaml:7: doc#p: & after another operator: put parentheses around what belongs together`},
		"operator":                {permission("p: viewer + owner"), `manifest.yaml:7: doc#p: "+" where an operator belongs (|, & or -)`},
		"parenthesis":             {permission("p: (viewer | owner"), `manifest.yaml:7: doc#p: a parenthesis is not closed`},
		"parentheses":             {permission("p: ()"), `manifest.yaml:7: doc#p: ")" where a relation or permission belongs`},
		"-> of parentheses":       {permission("p: (parent)->ok"), `manifest.yaml:7: doc#p: -> follows a relation, not parentheses`},
		"-> twice":                {permission("p: parent->parent->ok"), `manifest.yaml:7: doc#p: "->" where an operator belongs`},
		"needs itself":            {permission("p: p | viewer"), `manifest.yaml:7: doc#p is circular: p needs p`},
		"circle":                  {permission("p: q | viewer, q: owner - r, r: p"), `manifest.yaml:7: doc#p is circular: p needs q needs r needs p`},
		"circle through ->":       {permission("p: parent->p"), `manifest.yaml:7: doc#p is circular: it leads to permissions alone, and to no relation`},
		"large":                   {types("user: {}") + strings.Repeat("#", 1<<20), "manifest.yaml: manifest of 1048614 bytes; 1048576 are possible"},
		"nested":                  {permission("p: " + strings.Repeat("(", 100) + "viewer" + strings.Repeat(")", 100)), "manifest.yaml:7: doc#p: more than 32 parentheses in one another"},
		"many":                    {types(lines(3000, "t%d:")...), "manifest.yaml:2052: more than 2048 types, relations and permissions"},
		"many terms":              {permission("p: viewer" + strings.Repeat("|viewer", 9000)), "manifest.yaml:7: doc#p: more than 8192 terms in the manifest"},
		"several":                 {types("doc: {relations: {a: dok}}", "dir: {relations: {b: dirr}}"), "(did you mean \"doc\"?)\nmanifest.yaml:5: dir#b: unknown type"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := directory.ParseManifest("manifest.yaml", []byte(c[0]))
			if m != nil || err == nil || !strings.Contains(err.Error(), c[1]) {
				t.Fatalf("%v, want %s", err, c[1])
			}
			if _, ok := errors.AsType[*directory.ManifestError](err); !ok {
				t.Errorf("%T", err)
			}
		})
	}
}

func lines(n int, format string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(format, i)
	}
	return out
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(topaz))
	f.Add(directory.DefaultManifest().Text())
	f.Add([]byte("model: {version: 3}\ntypes: {a: {relations: {b: 'a:* | a#b'}, permissions: {c: (b - b) & b}}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := directory.ParseManifest("f", text)
		if err != nil {
			if _, ok := errors.AsType[*directory.ManifestError](err); !ok || m != nil {
				t.Fatalf("%v, %T", m, err)
			}
			return
		}
		directory.New(m, directory.Limits{}) // compiles it
		if again, err := directory.ParseManifest("f", m.Text()); err != nil || !slices.Equal(again.Types(), m.Types()) {
			t.Fatal(err)
		}
	})
}
