package routes

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
