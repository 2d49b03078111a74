package identity

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"gatehouse/identity/apikey"
	"gatehouse/identity/credential"
	"gatehouse/identity/keyset"
	"gatehouse/identity/peer"
	"gatehouse/identity/refusal"
)

// others are the credentials beside tokens that are verified with an issuer's keys. They never change after New.
type others struct {
	apiKeys       *apiKeys // nil = none are accepted
	introspectors []*introspector
	byIssuer      map[string]*introspector // those that take JSON Web Tokens too
	metadata      string                   // empty = none is trusted
	paths         ClaimPaths               // the usual names
	files         []*otherFile
	peers         *peer.Reader
}

// addOthers checks the rest of the configuration, after the issuers.
func (v *Verifier) addOthers(c Config) []error {
	v.others.metadata = c.Metadata
	v.others.paths = ClaimPaths{}.WithDefaults(func(string, error) {}) // which are never wrong
	v.others.byIssuer = make(map[string]*introspector)
	var problems []error
	for i, config := range c.Introspection {
		for _, err := range v.addIntrospection(i, config, c) {
			problems = append(problems, prefixPath(fmt.Sprintf("Introspection[%d]", i), "", err))
		}
	}
	if err := v.addAPIKeys(c.APIKeys); err != nil {
		problems = append(problems, prefixPath("APIKeys", "", err))
	}
	var errs []error
	v.others.peers, errs = peer.New(c.Peer)
	for _, err := range errs {
		problems = append(problems, fieldErrorf("Peer", "%w", err))
	}
	return problems
}

// configured reports whether any credential is accepted that is no issuer's token.
func (o *others) configured() bool {
	return o.apiKeys != nil || len(o.introspectors) > 0 || o.metadata != ""
}

// newPlaces puts places into the common list and returns them as bits of it. None of them may be taken already.
func (v *Verifier) newPlaces(from []TokenSource, taken uint64) (uint64, []error) {
	places, problems := v.addSources(from)
	for i, s := range v.sources {
		if places&taken&(1<<i) != 0 {
			problems = append(problems, fieldErrorf("From", "%s is the place of another credential: give this one a header or scheme of its own", s.Describe()))
		}
	}
	return places, problems
}

// otherFile is a watched file that is not an issuer's key set.
type otherFile struct {
	field string // of the Config
	key   string // for people: in the configuration, such as api_keys.file
	path  string
	parse func(path string, raw []byte) (*otherPart, error)
}

// otherPart is what one such file holds; one of apiKeys and client is set. It never changes.
type otherPart struct {
	sum     [sha256.Size]byte // of the file
	apiKeys *apikey.Set
	client  *clientAuth
	keys    int
	notices []string
}

func (f *otherFile) read() (*otherPart, error) {
	raw, err := keyset.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	part, err := f.parse(f.path, raw)
	if err != nil {
		return nil, err
	}
	part.sum = sha256.Sum256(raw)
	return part, nil
}

// otherLoader holds the latest good content of the other files while one Load or Run lasts, as loader does for key sets.
type otherLoader struct {
	v      *Verifier
	parts  []*otherPart // by the index in others.files; nil = never loaded
	status []KeyStatus
	errs   []error // of the latest reading, nil where it succeeded
}

func (v *Verifier) newOtherLoader() *otherLoader {
	n := len(v.others.files)
	l := &otherLoader{v: v, parts: make([]*otherPart, n), status: make([]KeyStatus, n), errs: make([]error, n)}
	for i, f := range v.others.files {
		l.status[i] = KeyStatus{Issuer: f.key, Source: f.path}
	}
	return l
}

// read reads every file and reports whether there is something to publish, and whether any content is another. A file that
// cannot be used never takes away what was good.
func (l *otherLoader) read() (changed, renewed bool) {
	for i, f := range l.v.others.files {
		part, err := f.read()
		l.errs[i] = err
		status := &l.status[i]
		log := l.v.log.With(zap.String("key", "identity."+f.key), zap.String("file", f.path))
		switch {
		case err != nil && status.Error == err.Error():
		case err != nil:
			status.Error, changed = err.Error(), true
			log.Warn("file not loaded", zap.Error(err), zap.Bool("keeping_older_content", status.Loaded))
		case l.parts[i] != nil && l.parts[i].sum == part.sum:
			changed = changed || status.Error != ""
			status.Error = ""
		default:
			l.parts[i], changed, renewed = part, true, true
			status.Error, status.Loaded, status.Keys, status.Notices = "", true, part.keys, part.notices
			status.FetchedAt = l.v.clock()
			log.Info("file loaded", zap.Int("keys", part.keys))
		}
	}
	return changed, renewed
}

// problems are those of the latest reading.
func (l *otherLoader) problems() []error {
	var problems []error
	for i, err := range l.errs {
		if err != nil {
			problems = append(problems, &FieldError{Path: l.v.others.files[i].field, Err: err})
		}
	}
	return problems
}

// other is the content of one of the other files, nil where it was never loaded.
func (k *Keys) other(v *Verifier, file int) *otherPart {
	if k == nil || k.owner != v {
		return nil
	}
	return k.others[file]
}

// oneLine takes the line end off a file that holds one secret.
func oneLine(path string, raw []byte) (string, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	switch {
	case text == "":
		return "", fmt.Errorf("%s: is empty", path)
	case strings.ContainsFunc(text, credential.IsControl):
		return "", fmt.Errorf("%s: must be one line of plain text: the secret and nothing else", path)
	}
	return text, nil
}

var errNoFile = fieldErrorf("File", "is required: gatehouse identity new-key makes one")

// Peer is the other end of the connection to Envoy, see peer.Reader. A nil Verifier knows the principal alone.
func (v *Verifier) Peer(req Request) Peer {
	var r *peer.Reader
	if v != nil {
		r = v.others.peers
	}
	return r.Peer(req.Principal, req.Certificate, req.Header)
}

var (
	errAPIKeyForm  = refusal.Bad("not an api key made by gatehouse identity new-key")
	errAPIKeyPlace = refusal.Bad("api key in a place for tokens")
	errNoAPIKeys   = refusal.Unavailable("api keys were never loaded")
)

// apiKeys is where keys come from.
type apiKeys struct {
	places uint64
	file   int // index in others.files
}

func (v *Verifier) addAPIKeys(c APIKeys) error {
	if c.File == "" {
		if c.Header != "" || c.Scheme != "" {
			return errNoFile
		}
		return nil
	}
	var taken uint64
	for _, iss := range v.issuers {
		taken |= iss.places
	}
	for _, in := range v.others.introspectors {
		taken |= in.places
	}
	header := cmp.Or(c.Header, "x-api-key")
	if strings.EqualFold(header, "authorization") && c.Scheme == "" {
		return fieldErrorf("Scheme", `the header "authorization" needs one, such as Key`)
	}
	places, problems := v.newPlaces([]TokenSource{{Header: header, Scheme: c.Scheme}}, taken)
	if len(problems) > 0 {
		return &FieldError{Path: "Header", Err: problems[0]}
	}
	v.others.apiKeys = &apiKeys{places: places, file: len(v.others.files)}
	v.others.files = append(v.others.files, &otherFile{field: "APIKeys.File", key: "api_keys.file", path: c.File, parse: parseAPIKeys})
	return nil
}

// apiKey gives the identity of a credential where it is an API key, or stands where only those belong. What has an API key's mark
// is never tried as anything else: it must not travel to an introspection server.
func (v *Verifier) apiKey(keys *Keys, tok credential.Token, found uint64, now time.Time) (id Identity, mine bool, err error) {
	where := v.others.apiKeys
	if where == nil {
		return Identity{}, false, nil
	}
	marked := strings.HasPrefix(tok.Raw, apikey.Mark)
	switch {
	case marked && found&where.places == 0:
		return Identity{}, true, errAPIKeyPlace
	case !marked && found&^where.places == 0:
		return Identity{}, true, errAPIKeyForm
	case !marked:
		return Identity{}, false, nil
	}
	part := keys.other(v, where.file)
	if part == nil {
		return Identity{}, true, errNoAPIKeys
	}
	if id, err = part.apiKeys.Check(tok, now); err != nil {
		return Identity{}, true, err
	}
	id.Type = TypeSub
	return id, true, nil
}

func parseAPIKeys(path string, raw []byte) (*otherPart, error) {
	set, err := apikey.Parse(path, raw)
	if err != nil {
		return nil, err
	}
	return &otherPart{apiKeys: set, keys: set.Len()}, nil
}
