package routes

// Imported is an importer's result for an application.
type Imported struct {
	Framework string
	Source    string // how it was made, for display
	RootPath  string // prefix of every template; begins with a slash and does not end with one
	Routes    []ImportedRoute
}

// ImportedRoute is one route of an Imported.
type ImportedRoute struct {
	Methods     []string // empty = any
	Template    string
	Name        string
	Tags        []string
	Unsupported string // why it is not supported; empty = supported
	Guess       bool   // unconfirmed
}

// Import makes a table. An unsupported route becomes an entry with the reason, not an error. name is for messages.
func Import(name string, from Imported) (*Table, []Notice, error) {
	spec := newTableSpec(from.Framework)
	spec.source, spec.rootPath = from.Source, from.RootPath
	for _, r := range from.Routes {
		spec.routes = append(spec.routes, routeSpec{key: "route", methods: r.Methods, template: r.Template, name: r.Name, tags: r.Tags,
			unsupported: r.Unsupported, guess: r.Guess})
	}
	return compileLeniently(name, spec)
}

// ImportYAML is Import for a table in routes.yaml format (JSON is YAML), with additional facts about the application.
func ImportYAML(name string, data []byte, facts Facts) (*Table, []Notice, error) {
	spec, err := readSpec(name, data)
	if err != nil {
		return nil, nil, err
	}
	clearLines(spec.routes)
	table, notices, err := compileLeniently(name, spec)
	if err != nil {
		return nil, nil, err
	}
	table.facts = facts
	return table, notices, nil
}

// clearLines clears line numbers, which refer to a text that is not kept.
func clearLines(specs []routeSpec) {
	for i := range specs {
		specs[i].line = 0
		clearLines(specs[i].routes)
	}
}

// Facts are what an importer learned about an application besides its routes: content served without a route, and
// handlers in front of its views.
type Facts struct {
	// Static are the templates of routes that serve only static files, by the framework's own code.
	Static []string
	// StaticPrefixes are prefixes of static files served without a route: by WhiteNoise, or below Django's STATIC_URL.
	// Each begins and ends with a slash.
	StaticPrefixes []string
	// StaticFiles are the paths of single files served without a route.
	StaticFiles []string
	// StaticBy names what serves them: "WhiteNoise".
	StaticBy string
	// CORS names what answers CORS preflights: "flask-cors", "CORSMiddleware", "django-cors-headers"; "" for nothing.
	CORS string
	// CORSPartly says why it does not answer all preflights, "" where it does.
	CORSPartly string
	// Fallbacks may serve a page where no route matches: then a redirect is not certain.
	Fallbacks []string
}

// Facts returns the importer's facts; empty for a table read from a file.
func (t *Table) Facts() Facts { return t.facts }
