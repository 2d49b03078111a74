// Package trust says whether a server is the control plane that is meant: by a file with the certificate of its authority,
// or by that certificate's pin.
//
// It imports nothing of ours but the foundations.
package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"gatehouse/watch"
)

// maxFile bounds the file of an authority, in bytes.
const maxFile = 1 << 20

// Control are the settings of a client of control at a host. One of ca, a file, and pin, the SHA-256 of a certificate in
// hexadecimal, says who control is.
func Control(ca, pin, host string, clock func() time.Time) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13, Time: clock, ServerName: host}
	switch {
	case ca != "":
		text, err := watch.ReadFile(ca, maxFile)
		if err != nil {
			return nil, fmt.Errorf("the authority of control: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		found := false
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("the authority of control: %s: %w", ca, err)
			}
			c.RootCAs.AddCert(cert)
			found = true
		}
		if !found {
			return nil, fmt.Errorf("the authority of control: %s holds no certificate in PEM", ca)
		}
	case pin != "":
		want := strings.ToLower(pin)
		c.InsecureSkipVerify = true // VerifyConnection verifies, with the authority that the pin names
		c.VerifyConnection = func(s tls.ConnectionState) error { return pinned(s, want, host, clock()) }
	default:
		return nil, errors.New("nothing says who control is: give its authority's file, or the pin")
	}
	return c, nil
}

// pinned verifies a server's certificate by the authority with this pin, which the server shows itself.
func pinned(s tls.ConnectionState, want, host string, now time.Time) error {
	for _, cert := range s.PeerCertificates {
		if sum := sha256.Sum256(cert.Raw); hex.EncodeToString(sum[:]) != want {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	return errors.New("the server does not show the authority that the pin names: is this control, and the pin its own?")
}

// Signer checks a certificate that bundles are signed with, which its authority's follows: that authority is the one of a
// file, or that of the pin. text is PEM.
func Signer(ca, pin string, text []byte, now time.Time) error {
	var list []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil && len(list) < 3; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("the certificate that bundles are signed with: %w", err)
		}
		list = append(list, cert)
	}
	if len(list) != 2 {
		return errors.New("the certificate that bundles are signed with: it and its authority's are expected, in PEM")
	}
	roots := x509.NewCertPool()
	if ca != "" {
		own, err := Control(ca, "", "", time.Now)
		if err != nil {
			return err
		}
		roots = own.RootCAs
	} else if sum := sha256.Sum256(list[1].Raw); hex.EncodeToString(sum[:]) == strings.ToLower(pin) {
		roots.AddCert(list[1])
	}
	if _, err := list[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		return fmt.Errorf("the certificate that bundles are signed with is not of control's authority: %w", err)
	}
	return nil
}
