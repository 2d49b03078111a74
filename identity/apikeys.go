package identity

import (
	"cmp"
	"strings"
	"time"

	"gatehouse/identity/apikey"
	"gatehouse/identity/credential"
	"gatehouse/identity/refusal"
)

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
		return wrong("Scheme", `the header "authorization" needs one, such as Key`)
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
