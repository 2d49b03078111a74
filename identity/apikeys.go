package identity

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"regexp"
	"strings"
	"time"

	"gatehouse/identity/credential"
	"gatehouse/identity/refusal"
)

// An API key is apiKeyMark, eight characters that find its entry, an underscore, 43 characters that hold 256 random bits in base
// 62, and a checksum of six characters:
//
//	gatehouse_Zk3v9QwA_0bUq...
//
// Secret scanners find it by the mark, and tell a real one by the checksum without asking anybody. 256 random bits cannot be
// guessed, so a plain SHA-256 is enough to store them: a slow hash is for passwords.
const (
	apiKeyMark     = "gatehouse_"
	apiKeyLookup   = len(apiKeyMark) + 8
	apiKeyChecksum = apiKeyLookup + 1 + 43
	apiKeyLength   = apiKeyChecksum + 6
)

// apiKeyHead is what identifies an entry: the mark and the lookup characters.
var apiKeyHead = regexp.MustCompile(`^` + apiKeyMark + `[0-9A-Za-z]{8}$`)

var (
	errAPIKeyForm    = refusal.Bad("not an api key made by gatehouse identity new-key")
	errAPIKeyCut     = refusal.Bad("api key is mistyped or cut off")
	errAPIKeyPlace   = refusal.Bad("api key in a place for tokens")
	errAPIKeyUnknown = refusal.Bad("unknown api key")
	errAPIKeyExpired = refusal.Bad("api key expired")
	errAPIKeyEarly   = refusal.Bad("api key is not valid yet")

	errNoAPIKeys = refusal.Unavailable("api keys were never loaded")
)

// APIKeyEntry is what a key is good for: one entry of the file, but for the hash.
type APIKeyEntry struct {
	ID        string // for people, unique in the file; empty = the key's lookup characters
	Subject   string // required
	Roles     []string
	Groups    []string
	Scopes    []string
	NotBefore time.Time // zero = at once
	Expires   time.Time // zero = never
}

// APIKey is a new key. It refuses to print itself.
type APIKey struct {
	secret credential.Token
	entry  APIKeyEntry
}

// NewAPIKey makes a key of 256 random bits.
func NewAPIKey(e APIKeyEntry) (APIKey, error) {
	switch {
	case e.Subject == "" || strings.ContainsFunc(e.Subject, credential.IsControl):
		return APIKey{}, errors.New("subject: must be a non-empty text without control characters")
	case !e.Expires.IsZero() && !e.NotBefore.IsZero() && !e.NotBefore.Before(e.Expires):
		return APIKey{}, errors.New("expires: is not after not_before")
	}
	lookup := new(big.Int).Exp(big.NewInt(62), big.NewInt(8), nil)
	head, err := rand.Int(rand.Reader, lookup)
	if err != nil {
		return APIKey{}, err
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	text := apiKeyMark + base62(head, 8) + "_" + base62(new(big.Int).SetBytes(secret[:]), 43)
	text += checksum62(text)
	if e.ID == "" {
		e.ID = text[len(apiKeyMark):apiKeyLookup]
	}
	return APIKey{secret: credential.Token{Raw: text}, entry: e}, nil
}

// Reveal is the key itself, for its owner and nobody else.
func (k APIKey) Reveal() string { return k.secret.Raw }

// String, GoString, Format and MarshalJSON give a placeholder: fmt does not ask the methods of fields that are not exported.
func (k APIKey) String() string { return k.secret.String() }

// GoString implements fmt.GoStringer.
func (k APIKey) GoString() string { return k.secret.String() }

// Format implements fmt.Formatter.
func (k APIKey) Format(f fmt.State, r rune) { k.secret.Format(f, r) }

// MarshalJSON implements json.Marshaler.
func (k APIKey) MarshalJSON() ([]byte, error) { return k.secret.MarshalJSON() }

// ID is the entry's.
func (k APIKey) ID() string { return k.entry.ID }

func base62(n *big.Int, width int) string {
	text := n.Text(62)
	return strings.Repeat("0", width-len(text)) + text
}

// checksum62 is CRC-32 (IEEE) in six characters: it keeps typing errors away from the hash, and is no secret.
func checksum62(text string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(text)))), 6)
}

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

// apiKeySet is the content of a key file. It never changes.
type apiKeySet struct{ byHead map[string]*apiKey }

type apiKey struct {
	sum       [sha256.Size]byte // of the whole key
	identity  Identity
	notBefore time.Time
	expires   time.Time // zero = never
}

// apiKey gives the identity of a credential where it is an API key, or stands where only those belong. What has an API key's mark
// is never tried as anything else: it must not travel to an introspection server.
func (v *Verifier) apiKey(keys *Keys, tok credential.Token, found uint64, now time.Time) (id Identity, mine bool, err error) {
	where := v.others.apiKeys
	if where == nil {
		return Identity{}, false, nil
	}
	marked := strings.HasPrefix(tok.Raw, apiKeyMark)
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
	id, err = part.apiKeys.check(tok, now)
	return id, true, err
}

func (s *apiKeySet) check(tok credential.Token, now time.Time) (Identity, error) {
	if len(tok.Raw) != apiKeyLength || !wholeAPIKey(tok.Raw) {
		return Identity{}, errAPIKeyCut
	}
	key := s.byHead[tok.Raw[:apiKeyLookup]]
	if key == nil {
		return Identity{}, errAPIKeyUnknown
	}
	var text [apiKeyLength]byte
	copy(text[:], tok.Raw)
	sum := sha256.Sum256(text[:])
	if subtle.ConstantTimeCompare(sum[:], key.sum[:]) != 1 {
		return Identity{}, errAPIKeyUnknown
	}
	switch {
	case now.Before(key.notBefore):
		return Identity{}, errAPIKeyEarly
	case !key.expires.IsZero() && !now.Before(key.expires):
		return Identity{}, errAPIKeyExpired
	}
	return key.identity, nil
}

// wholeAPIKey checks the checksum of a text of the right length. It is written out because crc32.ChecksumIEEE would put the text on
// the heap.
func wholeAPIKey(text string) bool {
	crc := ^uint32(0)
	for i := range apiKeyChecksum {
		crc = crc32.IEEETable[byte(crc)^text[i]] ^ crc>>8
	}
	var want int64
	for i := apiKeyChecksum; i < apiKeyLength; i++ {
		digit := digit62(text[i])
		if digit < 0 {
			return false
		}
		want = want*62 + digit
	}
	return want == int64(^crc)
}

// digit62 is the value of a character in base 62 as math/big writes it, or -1.
func digit62(c byte) int64 {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0')
	case 'a' <= c && c <= 'z':
		return int64(c-'a') + 10
	case 'A' <= c && c <= 'Z':
		return int64(c-'A') + 36
	}
	return -1
}

func hexSum(text string) (sum [sha256.Size]byte, ok bool) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(sum) {
		return sum, false
	}
	return [sha256.Size]byte(raw), true
}
