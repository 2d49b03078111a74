package identity

import "strings"

// Peer tells who is at the other end of the connection to Envoy, by the certificate that Envoy verified. source.principal is the
// URI SAN where there is one, else the DNS SAN, else the subject (Envoy's AttributeContext.Peer.principal).
// A nil Verifier knows of no other way.
func (v *Verifier) Peer(req Request) Peer {
	switch principal := req.Principal; {
	case principal == "":
		return Peer{}
	case strings.HasPrefix(principal, "spiffe://"):
		return Peer{SPIFFEID: principal, SANs: []string{principal}}
	case strings.Contains(principal, "="):
		return Peer{Subject: principal}
	default:
		return Peer{SANs: []string{principal}}
	}
}
