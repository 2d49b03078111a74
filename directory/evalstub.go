package directory

// Stand-ins until the manifest's parser is there.

// Manifest is the model: types with their relations and permissions.
type Manifest struct {
	text  []byte
	order []string
	types map[string]map[string][]allowedSubject
}

// DefaultManifest is the model where none is given.
func DefaultManifest() *Manifest {
	user, member := allowedSubject{typ: "user"}, allowedSubject{typ: "group", relation: "member"}
	return &Manifest{text: []byte("model: {version: 3}\n"), order: []string{"user", "group", "role", "identity", "resource"},
		types: map[string]map[string][]allowedSubject{
			"user":     {"identifier": {{typ: "identity"}}, "manager": {user}},
			"group":    {"member": {user, member}},
			"role":     {"member": {user, member}},
			"identity": {"identifier": {user}},
			"resource": {"owner": {user}, "viewer": {user, member, {typ: "user", any: true}}, "parent": {{typ: "resource"}}},
		}}
}

// Text is the manifest as it was given.
func (m *Manifest) Text() []byte { return m.text }

// Types are the names of its types.
func (m *Manifest) Types() []string { return m.order }

// Relations are the names of a type's relations.
func (m *Manifest) Relations(typ string) []string {
	var out []string
	for name := range m.types[typ] {
		out = append(out, name)
	}
	return out
}

type allowedSubject struct {
	typ, relation string
	any           bool
}

func (m *Manifest) subjects(typ, relation string) []allowedSubject { return m.types[typ][relation] }

type plan struct{}

func compile(*Manifest, *symbols, Limits) *plan { return &plan{} }
