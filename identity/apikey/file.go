package apikey

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gatehouse/identity/credential"
	"gatehouse/identity/strictjson"
	"gatehouse/input"
	"gatehouse/yamltext"

	"go.yaml.in/yaml/v3"
)

const newKeyHint = "make a new key with gatehouse identity new-key"

// What people write where a hash belongs, by the reason why it is refused.
var (
	plainKeys = []string{"key", "value", "token", "secret", "password", "plain", "api_key", "apikey"}
	otherSums = []string{"hash", "md5", "sha1", "sha384", "sha512", "bcrypt", "scrypt", "argon2", "argon2id", "pbkdf2"}
	entryKeys = []string{"id", "prefix", "sha256", "subject", "roles", "groups", "scopes", "not_before", "expires", "claims"}
)

// keyID is the claim that says which entry a caller's key belongs to.
const keyID = "key_id"

// Parse reads a file of API keys, strictly. An error names the line and never shows a value: what stands in the wrong place
// may be a key. A list that is empty on purpose revokes every key; a file without any content is taken for a broken one.
func Parse(path string, raw []byte) (*Set, error) {
	list, err := keyList(path, raw)
	if err != nil {
		return nil, err
	}
	f := keyFile{path: path, set: &Set{byHead: make(map[string]*entry, len(list.Content))}, ids: make(map[string]int)}
	for _, node := range list.Content {
		if err := f.entry(node); err != nil {
			return nil, err
		}
	}
	return f.set, nil
}

// keyList finds the list below the only key of the file.
func keyList(path string, raw []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	var root, more yaml.Node
	if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is empty: without any keys it must say keys: []", path)
	} else if err != nil {
		line, _ := yamltext.Problem(err) // the rest may show a key
		return nil, fmt.Errorf("%s:%d: is not valid YAML", path, max(line, 1))
	}
	if !errors.Is(decoder.Decode(&more), io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one YAML document", path)
	}
	if len(root.Content) == 0 {
		return nil, fmt.Errorf("%s: is empty: without any keys it must say keys: []", path)
	}
	top := root.Content[0]
	if top.Kind != yaml.MappingNode || len(top.Content) != 2 || top.Content[0].Value != "keys" {
		return nil, fmt.Errorf(`%s:%d: must hold "keys", a list, and nothing beside it: %s`, path, top.Line, newKeyHint)
	}
	list := top.Content[1]
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf(`%s:%d: "keys" is not a list: %s`, path, list.Line, newKeyHint)
	}
	return list, nil
}

// keyFile is a file of keys while it is read.
type keyFile struct {
	path string
	set  *Set
	ids  map[string]int // id -> line
}

func (f *keyFile) fail(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", f.path, n.Line, fmt.Errorf(format, args...))
}

func (f *keyFile) entry(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return f.fail(n, "is not an entry with prefix, sha256 and subject: keys in plain text are refused; %s", newKeyHint)
	}
	members, err := f.members(n)
	if err != nil {
		return err
	}
	k := &entry{identity: input.Identity{Authenticated: true}}
	head, err := f.head(n, members["prefix"])
	if err != nil {
		return err
	}
	if k.sum, err = f.sum(n, members["sha256"]); err != nil {
		return err
	}
	if k.identity.Subject, err = f.text(n, "subject", members["subject"]); err != nil {
		return err
	}
	k.identity.Identity = k.identity.Subject
	for name, list := range map[string]*[]string{"roles": &k.identity.Roles, "groups": &k.identity.Groups, "scopes": &k.identity.Scopes} {
		if *list, err = f.list(name, members[name]); err != nil {
			return err
		}
	}
	for name, when := range map[string]*time.Time{"not_before": &k.notBefore, "expires": &k.expires} {
		if *when, err = f.moment(name, members[name]); err != nil {
			return err
		}
	}
	k.identity.Expires = k.expires
	if k.identity.Claims, err = f.claims(members["claims"]); err != nil {
		return err
	}
	id := head[len(Mark):]
	if node := members["id"]; node != nil {
		if id, err = f.text(n, "id", node); err != nil {
			return err
		}
		if strings.Contains(id, Mark) {
			return f.fail(node, "id must not hold a key or its beginning: it shows in logs")
		}
	}
	k.identity.Claims[keyID] = id
	return f.add(n, id, head, k)
}

func (f *keyFile) add(n *yaml.Node, id, head string, k *entry) error {
	if line, twice := f.ids[id]; twice {
		return f.fail(n, "%w", &takenIDError{id, line})
	}
	if f.set.byHead[head] != nil {
		return f.fail(n, "another entry has the same prefix: each key has one entry")
	}
	if !k.expires.IsZero() && !k.notBefore.Before(k.expires) {
		return f.fail(n, "expires is not after not_before")
	}
	f.ids[id], f.set.byHead[head] = n.Line, k
	return nil
}

// takenIDError says that an entry before this one has the id.
type takenIDError struct {
	id   string
	line int
}

func (e *takenIDError) Error() string {
	return fmt.Sprintf("the id %q is already on line %d", e.id, e.line)
}

// members are an entry's by their names.
func (f *keyFile) members(n *yaml.Node) (map[string]*yaml.Node, error) {
	members := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := strings.ToLower(key.Value)
		switch {
		case slices.Contains(entryKeys, key.Value):
		case slices.Contains(plainKeys, name):
			return nil, f.fail(key, "%s would hold a key in plain text; only a SHA-256 is kept here: %s", name, newKeyHint)
		case slices.Contains(otherSums, name):
			return nil, f.fail(key, "%s: keys that are hashed in another way cannot be used: %s", name, newKeyHint)
		default:
			return nil, f.fail(key, "unknown key in an entry: known are %s", strings.Join(entryKeys, ", "))
		}
		if members[key.Value] != nil {
			return nil, f.fail(key, "%s is there twice", name)
		}
		members[key.Value] = value
	}
	return members, nil
}

func (f *keyFile) head(entry, n *yaml.Node) (string, error) {
	text, err := f.text(entry, "prefix", n)
	switch {
	case err != nil:
		return "", err
	case len(text) > lookupLength && strings.HasPrefix(text, Mark):
		return "", f.fail(n, "prefix holds more than the first %d characters of a key: if it is a whole key, it is known now to everybody who reads this file; %s",
			lookupLength, newKeyHint)
	case !headPattern.MatchString(text):
		return "", f.fail(n, "prefix is not %s and eight letters or digits: keys of other forms are refused; %s", Mark, newKeyHint)
	}
	return text, nil
}

func (f *keyFile) sum(entry, n *yaml.Node) (sum [sha256.Size]byte, err error) {
	text, err := f.text(entry, "sha256", n)
	if err != nil {
		return sum, err
	}
	sum, ok := hexSum(text)
	switch {
	case ok:
		return sum, nil
	case strings.HasPrefix(text, Mark):
		return sum, f.fail(n, "sha256 holds a key in plain text, which everybody who reads this file knows now: %s", newKeyHint)
	case strings.HasPrefix(text, "$"), strings.Contains(text, ":"):
		return sum, f.fail(n, "sha256 holds a hash of another kind: %s", newKeyHint)
	}
	return sum, f.fail(n, "sha256 is not 64 hexadecimal digits: %s", newKeyHint)
}

func (f *keyFile) text(entry *yaml.Node, name string, n *yaml.Node) (string, error) {
	switch {
	case n == nil:
		return "", f.fail(entry, "the entry has no %s: %s", name, newKeyHint)
	case n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.Value == "" || strings.ContainsFunc(n.Value, credential.IsControl):
		return "", f.fail(n, "%s is not a non-empty text on one line", name)
	case name == "subject" && n.ShortTag() != "!!str":
		return "", f.fail(n, "%s reads as a number, date or truth value: put it in quotes", name)
	}
	return n.Value, nil
}

func (f *keyFile) list(name string, n *yaml.Node) ([]string, error) {
	if n == nil {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, f.fail(n, "%s is not a list", name)
	}
	list := make([]string, len(n.Content))
	for i, item := range n.Content {
		if item.Kind != yaml.ScalarNode || item.ShortTag() != "!!str" || item.Value == "" || strings.ContainsFunc(item.Value, credential.IsControl) {
			return nil, f.fail(item, "%s holds something that is not a non-empty text on one line: put it in quotes", name)
		}
		list[i] = item.Value
	}
	return list, nil
}

func (f *keyFile) moment(name string, n *yaml.Node) (time.Time, error) {
	if n == nil {
		return time.Time{}, nil
	}
	when, err := time.Parse(time.RFC3339, n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return time.Time{}, f.fail(n, "%s is not a date with time and zone, such as 2027-01-31T00:00:00Z", name)
	}
	return when.UTC(), nil
}

// claims are the entry's own, as the claims of a token would be: numbers are json.Number.
func (f *keyFile) claims(n *yaml.Node) (map[string]any, error) {
	if n == nil {
		return make(map[string]any, 1), nil
	}
	if n.Kind != yaml.MappingNode {
		return nil, f.fail(n, "claims is not a mapping")
	}
	value, err := f.value(n, 1)
	if err != nil {
		return nil, err
	}
	claims := value.(map[string]any)
	if _, taken := claims[keyID]; taken {
		return nil, f.fail(n, "claims: %s is set from id", keyID)
	}
	return claims, nil
}

func (f *keyFile) value(n *yaml.Node, depth int) (any, error) {
	if depth > strictjson.MaxDepth {
		return nil, f.fail(n, "claims are nested too deeply")
	}
	switch n.Kind {
	case yaml.MappingNode:
		object := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if _, twice := object[key.Value]; twice || key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
				return nil, f.fail(key, "claims hold a name that is there twice or is not a text")
			}
			var err error
			if object[key.Value], err = f.value(n.Content[i+1], depth+1); err != nil {
				return nil, err
			}
		}
		return object, nil
	case yaml.SequenceNode:
		array := make([]any, len(n.Content))
		for i, item := range n.Content {
			var err error
			if array[i], err = f.value(item, depth+1); err != nil {
				return nil, err
			}
		}
		return array, nil
	case yaml.ScalarNode:
		return f.scalar(n)
	}
	return nil, f.fail(n, "aliases are not supported: write the value out")
}

func (f *keyFile) scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!str":
		return n.Value, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		var truth bool
		err := n.Decode(&truth)
		return truth, err
	case "!!int", "!!float":
		// A number as JSON writes it; YAML knows others (0x1F, 1_000, .inf).
		object, _, err := strictjson.Object([]byte(`{"n":` + n.Value + `}`))
		if number, ok := object["n"].(json.Number); err == nil && ok {
			return number, nil
		}
		return nil, f.fail(n, "claims hold a number that JSON does not know")
	}
	return nil, f.fail(n, "claims hold a date or another thing that JSON does not know: put it in quotes")
}

// AppendTo gives a key file's content with the key's entry behind it; what was there stays byte for byte. file may be empty, and
// path is its name, for errors. The error is that the file is broken, has the id already or ends in a form that nothing can be
// put behind.
func (k Key) AppendTo(path string, file []byte) ([]byte, error) {
	if len(bytes.TrimSpace(file)) == 0 {
		return append(slices.Clone(file), k.YAML()...), nil
	}
	before, err := Parse(path, file)
	if err != nil {
		return nil, err
	}
	list, err := keyList(path, file)
	if err != nil {
		return nil, err
	}
	indent := 1
	if len(list.Content) > 0 && list.Style&yaml.FlowStyle == 0 {
		indent = list.Column
	}
	out := slices.Clone(file)
	if out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	out = append(out, k.item(indent-1)...)
	after, err := Parse(path, out)
	if err == nil && after.Len() == before.Len()+1 {
		return out, nil
	}
	if _, taken := errors.AsType[*takenIDError](err); taken {
		return nil, err
	}
	return nil, fmt.Errorf("%s: nothing can be put behind its end: write the list in block style (each entry begins with a dash on a line of its own)", path)
}

// YAML is a file with nothing but the key's entry.
func (k Key) YAML() []byte { return append([]byte("keys:\n"), k.item(2)...) }

func (k Key) item(indent int) []byte {
	sum := sha256.Sum256([]byte(k.secret.Raw))
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	e := k.entry
	err := encoder.Encode([]any{&struct {
		ID        string    `yaml:"id"`
		Prefix    string    `yaml:"prefix"`
		SHA256    string    `yaml:"sha256"`
		Subject   string    `yaml:"subject"`
		Roles     []string  `yaml:"roles,flow,omitempty"`
		Groups    []string  `yaml:"groups,flow,omitempty"`
		Scopes    []string  `yaml:"scopes,flow,omitempty"`
		NotBefore time.Time `yaml:"not_before,omitempty"`
		Expires   time.Time `yaml:"expires,omitempty"`
	}{e.ID, k.secret.Raw[:lookupLength], hex.EncodeToString(sum[:]), e.Subject, e.Roles, e.Groups, e.Scopes,
		e.NotBefore.UTC().Truncate(time.Second), e.Expires.UTC().Truncate(time.Second)}})
	if err != nil {
		return nil // a list of plain values always encodes
	}
	var item []byte
	for line := range bytes.Lines(out.Bytes()) {
		item = append(append(item, bytes.Repeat([]byte(" "), indent)...), line...)
	}
	return item
}
