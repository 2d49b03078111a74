package routes

// Imported is what an importer found out about an application.
type Imported struct {
	Framework string
	Source    string // how it was made, for people
	RootPath  string // before every template; begins with a slash and does not end with one
	Routes    []ImportedRoute
}

// ImportedRoute is one route of an Imported.
type ImportedRoute struct {
	Methods     []string // empty = any
	Template    string
	Name        string
	Tags        []string
	Unsupported string // why it cannot be expressed; empty = it can
	Guess       bool   // nobody has confirmed it
}

// Import makes a table. What cannot be expressed is an entry that says why, and not an error. name is for messages.
func Import(name string, from Imported) (*Table, []Notice, error) {
	spec := newTableSpec(from.Framework)
	spec.source, spec.rootPath = from.Source, from.RootPath
	for _, r := range from.Routes {
		spec.routes = append(spec.routes, routeSpec{key: "route", methods: r.Methods, template: r.Template, name: r.Name, tags: r.Tags,
			unsupported: r.Unsupported, guess: r.Guess})
	}
	return compileLeniently(name, spec)
}

// ImportYAML is Import of a table in the form of a routes.yaml (JSON is YAML), and of what else was learned about the application.
func ImportYAML(name string, data []byte, facts Facts) (*Table, []Notice, error) {
	spec, err := readSpec(name, data)
	if err != nil {
		return nil, nil, err
	}
	forget(spec.routes)
	table, notices, err := compileLeniently(name, spec)
	if err != nil {
		return nil, nil, err
	}
	table.facts = facts
	return table, notices, nil
}

// forget drops the lines of a text that no one will see.
func forget(specs []routeSpec) {
	for i := range specs {
		specs[i].line = 0
		forget(specs[i].routes)
	}
}

// Facts are what an importer learned about an application beside its routes: what it serves that has no route, and what answers in
// front of its views.
type Facts struct {
	// Static are the templates of routes that serve nothing but static files, as the framework's own code does.
	Static []string
	// StaticPrefixes are where static files are served that have no route: by WhiteNoise, or below Django's STATIC_URL. Each
	// begins and ends with a slash.
	StaticPrefixes []string
	// StaticFiles are the paths of single files that are served so.
	StaticFiles []string
	// StaticBy says what serves them: "WhiteNoise".
	StaticBy string
	// CORS names what answers CORS preflights: "flask-cors", "CORSMiddleware", "django-cors-headers"; "" for nothing.
	CORS string
	// CORSPartly says why it does not answer all of them, "" where it does.
	CORSPartly string
	// Fallbacks are what may serve a page where no route does: then a redirect is not certain.
	Fallbacks []string
}

// Facts returns what an importer learned; it is empty for a table that was read from a file.
func (t *Table) Facts() Facts { return t.facts }
