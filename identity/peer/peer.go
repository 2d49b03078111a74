// Package peer tells who is at the other end of the connection to Envoy, by the certificate that Envoy verified: its SPIFFE id, subject and
// names. It owns the reading of x-forwarded-client-cert and the rules for SPIFFE ids, and is a part of package identity.
package peer

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"gatehouse/identity/credential"
	"gatehouse/input"
)

// Reader tells who the peer is. A nil Reader knows the principal alone. It may be used by many at the same time.
type Reader struct {
	tls, xfcc    bool
	certificates seenCertificates
}

// New makes a Reader that takes the peer from these: "tls" (source.principal) and "xfcc" (x-forwarded-client-cert). None is tls.
func New(from []string) (*Reader, []error) {
	r := &Reader{tls: len(from) == 0}
	r.certificates.seed = maphash.MakeSeed()
	var problems []error
	for i, name := range from {
		switch {
		case slices.Contains(from[:i], name):
			problems = append(problems, fmt.Errorf("%q is listed twice", name))
		case name == "tls":
			r.tls = true
		case name == "xfcc":
			r.xfcc = true
		default:
			problems = append(problems, fmt.Errorf("%q is neither tls nor xfcc", name))
		}
	}
	return r, problems
}

// Peer tells who is at the other end of the connection to Envoy, by the certificate that Envoy verified. principal is the certificate's URI
// SAN where there is one, else the DNS SAN, else the subject (Envoy's AttributeContext.Peer.principal).
//
// With xfcc, the last element of x-forwarded-client-cert adds the certificate's subject and its other names. Envoy appends that element for
// the connection that the principal is of (forward_client_cert_details APPEND_FORWARD or SANITIZE_SET); the ones before it come from the
// client and are never looked at. The element counts only if it fits the principal: the principal must be one of its URIs, or where it names
// none one of its DNS names, or where it names none of these its subject. Without a principal, with the header on several lines, malformed,
// or contradicting the principal, nothing of it is used; the peer is then the principal with tls, and empty without. With FORWARD_ONLY or
// ALWAYS_FORWARD_ONLY Envoy passes on what the client wrote, so xfcc must not be listed there.
//
// A SPIFFE id is one only where it is well-formed and, as far as the element or the certificate (URL-encoded PEM, may be empty) tells, the
// certificate's only URI (X509-SVID section 2); any other URI is just one of the names.
func (r *Reader) Peer(principal, certificate string, header func(name string) []string) input.Peer {
	peer := peerOf(principal)
	if peer.SPIFFEID != "" && certificate != "" && !r.oneURI(certificate) {
		peer.SPIFFEID = ""
	}
	if r == nil || !r.xfcc || principal == "" {
		if r != nil && !r.tls {
			return input.Peer{}
		}
		return peer
	}
	var lines []string
	if header != nil {
		lines = header("x-forwarded-client-cert")
	}
	if len(lines) == 1 {
		if last, ok := lastForwarded(lines[0]); ok && last.fits(principal) {
			return last.peer(peer)
		}
	}
	if !r.tls {
		return input.Peer{}
	}
	return peer
}

func peerOf(principal string) input.Peer {
	switch {
	case principal == "":
		return input.Peer{}
	case isSPIFFE(principal):
		return input.Peer{SPIFFEID: principal, SANs: []string{principal}}
	case strings.Contains(principal, "=") && !strings.Contains(principal, "://"):
		return input.Peer{Subject: principal}
	default:
		return input.Peer{SANs: []string{principal}}
	}
}

// forwarded is one element of x-forwarded-client-cert, as far as it matters here.
type forwarded struct {
	subject   string // RFC 2253, as Envoy writes it
	uris, dns []string
}

func (f *forwarded) fits(principal string) bool {
	switch {
	case len(f.uris) > 0:
		return slices.Contains(f.uris, principal)
	case len(f.dns) > 0:
		return slices.Contains(f.dns, principal)
	}
	return f.subject == principal
}

// peer adds the element to what the principal tells.
func (f *forwarded) peer(peer input.Peer) input.Peer {
	peer.Subject = f.subject
	if len(f.uris) > 1 {
		peer.SPIFFEID = "" // an X.509-SVID has one URI
	}
	for _, name := range slices.Concat(f.uris, f.dns) {
		if !slices.Contains(peer.SANs, name) {
			peer.SANs = append(peer.SANs, name)
		}
	}
	return peer
}

// lastForwarded parses a whole header, because only so is it known where its last element begins, and gives that one. The form is
// Envoy's (HTTP header manipulation, x-forwarded-client-cert): elements are separated by commas; each is key=value pairs
// separated by semicolons; a value with a comma, a semicolon or an equals sign is in double quotes. Keys are
// case-insensitive. ok is false for everything else: a quote within an unquoted value or text behind a closing quote (a client's
// element that swallows Envoy's begins like this), a key twice that can be there once, control characters, an empty element.
func lastForwarded(header string) (last forwarded, ok bool) {
	rest := header
	for {
		var element forwarded
		seen := make(map[string]bool, 4)
		for more := true; more; {
			var key, value string
			if key, value, rest, ok = forwardedPair(rest); !ok || !element.set(key, value, seen) {
				return forwarded{}, false
			}
			if more = strings.HasPrefix(rest, ";"); more {
				rest = rest[1:]
			}
		}
		if rest == "" {
			return element, true
		}
		rest = strings.TrimLeft(rest[1:], " \t") // the comma; a proxy that joins lines puts a space behind it
	}
}

// forwardedPair takes one key=value off the text. What is left is empty or begins with a comma or a semicolon.
func forwardedPair(text string) (key, value, rest string, ok bool) {
	key, rest, ok = strings.Cut(text, "=")
	if !ok || key == "" || strings.ContainsFunc(key, func(r rune) bool { return !('a' <= r|0x20 && r|0x20 <= 'z') }) {
		return "", "", "", false
	}
	if !strings.HasPrefix(rest, `"`) {
		end := strings.IndexAny(rest, ",;")
		if end < 0 {
			end = len(rest)
		}
		value, rest = rest[:end], rest[end:]
		return strings.ToLower(key), value, rest, !strings.ContainsAny(value, `"\`) && !strings.ContainsFunc(value, credential.IsControl)
	}
	end := credential.ClosingQuote(rest)
	if end < 0 {
		return "", "", "", false
	}
	value, rest = rest[1:end], rest[end+1:]
	separated := rest == "" || rest[0] == ',' || rest[0] == ';'
	return strings.ToLower(key), value, rest, separated && !strings.ContainsFunc(value, credential.IsControl)
}

// set notes one pair and reports whether it may be there. Empty values are Envoy's way to say that the certificate has none.
// Unknown keys are those of a later Envoy and say nothing.
func (f *forwarded) set(key, value string, seen map[string]bool) bool {
	switch key {
	case "uri", "dns":
		if value == "" {
			return true
		}
		names := &f.uris
		if key == "dns" {
			names = &f.dns
		}
		*names = append(*names, unescape(value))
		return true
	case "by":
		return true // our own certificate may have several names
	}
	if seen[key] {
		return false
	}
	seen[key] = true
	if key == "subject" {
		f.subject = value // its backslashes are RFC 2253's: Envoy puts quotes around it and escapes nothing
	}
	return true
}

// unescape takes the backslash off quotes and backslashes.
func unescape(value string) string {
	if !strings.Contains(value, `\`) {
		return value
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(value)
}
