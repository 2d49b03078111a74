package peer

import (
	"crypto/x509"
	"encoding/pem"
	"hash/maphash"
	"net/url"
	"strings"
	"sync/atomic"

	"gatehouse/identity/credential"
)

const (
	spiffeScheme     = "spiffe://"
	maxSPIFFE        = 2048 // bytes of an id
	maxTrustDomain   = 255
	maxCertificate   = 64 << 10 // bytes of a certificate in URL-encoded PEM
	certificateSlots = 64
)

// isSPIFFE reports whether a URI is a SPIFFE id (SPIFFE-ID sections 2 and 2.3): the scheme and a trust domain in lower case, and a path
// without empty or relative segments. There is no room in it for a user, a port, a query, a fragment or an escape.
func isSPIFFE(uri string) bool {
	rest, ok := strings.CutPrefix(uri, spiffeScheme)
	if !ok || len(uri) > maxSPIFFE {
		return false
	}
	domain, path, hasPath := strings.Cut(rest, "/")
	if domain == "" || len(domain) > maxTrustDomain {
		return false
	}
	for i := 0; i < len(domain); i++ {
		if c := domain[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	for hasPath {
		var segment string
		segment, path, hasPath = strings.Cut(path, "/")
		if segment == "" || segment == "." || segment == ".." || !credential.IsUnreserved(segment) || strings.IndexByte(segment, '~') >= 0 {
			return false
		}
	}
	return true
}

// seenCertificates remembers what was found in the peers' certificates: there are few, and each request brings one. A slot
// holds the last that fell to it; what is in it follows from the text alone.
type seenCertificates struct {
	seed  maphash.Seed
	slots [certificateSlots]atomic.Pointer[seenCertificate]
}

type seenCertificate struct {
	text   string
	oneURI bool
}

// oneURI reports whether a certificate, in URL-encoded PEM, has exactly one URI among its names. One that cannot be read has none.
func (r *Reader) oneURI(text string) bool {
	if len(text) > maxCertificate {
		return false
	}
	if r == nil {
		return hasOneURI(text)
	}
	slot := &r.certificates.slots[maphash.String(r.certificates.seed, text)%certificateSlots]
	if seen := slot.Load(); seen != nil && seen.text == text {
		return seen.oneURI
	}
	seen := &seenCertificate{strings.Clone(text), hasOneURI(text)}
	slot.Store(seen)
	return seen.oneURI
}

func hasOneURI(text string) bool {
	raw, err := url.PathUnescape(text)
	if err != nil {
		return false
	}
	block, _ := pem.Decode([]byte(raw))
	if block == nil || block.Type != "CERTIFICATE" {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err == nil && len(c.URIs) == 1
}
