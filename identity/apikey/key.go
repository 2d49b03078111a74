// Package apikey makes API keys and recognises them. It owns their form, the file of their hashes, and what an entry says about the caller.
// It is a part of package identity.
package apikey

import (
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
	"gatehouse/input"
)

// An API key is the Mark, eight characters that find its entry, an underscore, 43 characters that hold 256 random bits in base
// 62, and a checksum of six characters:
//
//	gatehouse_Zk3v9QwA_0bUq...
//
// Secret scanners find it by the mark, and tell a real one by the checksum without asking anybody. 256 random bits cannot be
// guessed, so a plain SHA-256 is enough to store them: a slow hash is for passwords.
const (
	// Mark is what every key begins with.
	Mark          = "gatehouse_"
	lookupLength  = len(Mark) + 8
	checksumStart = lookupLength + 1 + 43
	length        = checksumStart + 6
)

// headPattern is what identifies an entry: the mark and the lookup characters.
var headPattern = regexp.MustCompile(`^` + Mark + `[0-9A-Za-z]{8}$`)

var (
	errCutOff  = refusal.Bad("api key is mistyped or cut off")
	errUnknown = refusal.Bad("unknown api key")
	errExpired = refusal.Bad("api key expired")
	errEarly   = refusal.Bad("api key is not valid yet")
)

// Entry is the identity and validity of a key: one entry of the file without the hash.
type Entry struct {
	ID        string // for people, unique in the file; empty = the key's lookup characters
	Subject   string // required
	Roles     []string
	Groups    []string
	Scopes    []string
	NotBefore time.Time // zero = at once
	Expires   time.Time // zero = never
}

// Key is a new key. It refuses to print itself.
type Key struct {
	secret credential.Token
	entry  Entry
}

// New makes a key of 256 random bits.
func New(e Entry) (Key, error) {
	switch {
	case e.Subject == "" || strings.ContainsFunc(e.Subject, credential.IsControl):
		return Key{}, errors.New("subject: must be a non-empty text without control characters")
	case !e.Expires.IsZero() && !e.NotBefore.IsZero() && !e.NotBefore.Before(e.Expires):
		return Key{}, errors.New("expires: is not after not_before")
	}
	lookup := new(big.Int).Exp(big.NewInt(62), big.NewInt(8), nil)
	head, err := rand.Int(rand.Reader, lookup)
	if err != nil {
		return Key{}, err
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	text := Mark + base62(head, 8) + "_" + base62(new(big.Int).SetBytes(secret[:]), 43)
	text += checksum62(text)
	if e.ID == "" {
		e.ID = text[len(Mark):lookupLength]
	}
	return Key{secret: credential.Token{Raw: text}, entry: e}, nil
}

// Reveal is the key itself, to be shown to its owner only.
func (k Key) Reveal() string { return k.secret.Raw }

// String, GoString, Format and MarshalJSON give a placeholder: fmt does not ask the methods of fields that are not exported.
func (k Key) String() string { return k.secret.String() }

// GoString implements fmt.GoStringer.
func (k Key) GoString() string { return k.secret.String() }

// Format implements fmt.Formatter.
func (k Key) Format(f fmt.State, r rune) { k.secret.Format(f, r) }

// MarshalJSON implements json.Marshaler.
func (k Key) MarshalJSON() ([]byte, error) { return k.secret.MarshalJSON() }

// ID is the entry's.
func (k Key) ID() string { return k.entry.ID }

func base62(n *big.Int, width int) string {
	text := n.Text(62)
	return strings.Repeat("0", width-len(text)) + text
}

// checksum62 is CRC-32 (IEEE) in six characters: it keeps typing errors away from the hash, and is no secret.
func checksum62(text string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(text)))), 6)
}

// Set is the keys of a file. It never changes.
type Set struct{ byHead map[string]*entry }

type entry struct {
	sum       [sha256.Size]byte // of the whole key
	identity  input.Identity
	notBefore time.Time
	expires   time.Time // zero = never
}

// Len is the number of keys.
func (s *Set) Len() int { return len(s.byHead) }

// Check gives the identity of a key; Type is for the caller to set. The token has the Mark.
func (s *Set) Check(tok credential.Token, now time.Time) (input.Identity, error) {
	if len(tok.Raw) != length || !checksumFits(tok.Raw) {
		return input.Identity{}, errCutOff
	}
	key := s.byHead[tok.Raw[:lookupLength]]
	if key == nil {
		return input.Identity{}, errUnknown
	}
	var text [length]byte
	copy(text[:], tok.Raw)
	sum := sha256.Sum256(text[:])
	if subtle.ConstantTimeCompare(sum[:], key.sum[:]) != 1 {
		return input.Identity{}, errUnknown
	}
	switch {
	case now.Before(key.notBefore):
		return input.Identity{}, errEarly
	case !key.expires.IsZero() && !now.Before(key.expires):
		return input.Identity{}, errExpired
	}
	return key.identity, nil
}

// checksumFits checks the checksum of a text of the right length. It is written out because crc32.ChecksumIEEE would put the text on
// the heap.
func checksumFits(text string) bool {
	crc := ^uint32(0)
	for i := range checksumStart {
		crc = crc32.IEEETable[byte(crc)^text[i]] ^ crc>>8
	}
	var want int64
	for i := checksumStart; i < length; i++ {
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
