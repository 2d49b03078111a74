// Package upstream is how Gatehouse speaks to servers: those that bundles come from, that decisions and reports go to, and that
// give out keys or answer for tokens.
//
// It owns the trust in a server (TLS), what is shown to it (client certificates, tokens of all kinds), proxies, limits on time and size, and
// the rules of redirects: no credential, no header of a service and no client certificate ever goes to another host than the one that it
// is for, and nothing goes from https to http. Secrets are named by file and read when they are used, so that they can be rotated.
//
// It is a foundation: it imports nothing of ours, and all may import it.
package upstream

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Service says what an HTTP server must show and what it wants to see. The zero value is good for one without
// credentials whose certificate the system trusts. Secrets are named by file and read when they are used.
type Service struct {
	CA        string            // PEM file of the authorities that are trusted; empty: the system's
	Cert, Key string            // PEM files of a client certificate (mTLS); read anew for each connection
	Headers   map[string]string // sent with each request; not for secrets
	PlainHTTP bool              // lets requests and credentials go unencrypted to hosts other than this one

	// At most one of these:
	BearerFile string // a file with a token for the Authorization header, read anew for each request
	OAuth2     *OAuth2
	AWS        *AWS
	GCP        *GCP
	Azure      *Azure
}

// OAuth2 is the client credentials grant (RFC 6749 section 4.4).
type OAuth2 struct {
	TokenURL   string // https
	ClientID   string
	SecretFile string
	Scopes     []string
}

// AWS signs requests (Signature Version 4).
type AWS struct {
	From    string // environment, metadata, web_identity or profile
	Region  string // environment has it from AWS_REGION
	Service string // default: s3
	Profile string // of From profile
}

// GCP uses tokens of the metadata server: an identity token for Audience, or an access token for Scopes.
type GCP struct {
	Audience string
	Scopes   []string
	Endpoint string // default: the metadata server
}

// Azure uses tokens of a managed identity.
type Azure struct {
	Resource string
	ClientID string // of a user-assigned identity
	Endpoint string // default: the metadata server
}

// ShowCertificate sets the client certificate, which is read for each connection so that it can be rotated.
func (s Service) ShowCertificate(config *tls.Config) error {
	if s.Cert == "" && s.Key == "" {
		return nil
	}
	if s.Cert == "" || s.Key == "" {
		return errors.New("a client certificate is cert and key: one of them is missing")
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return nil
}

// rest is the service in the form of OPA's configuration, with the secrets in it.
func (s Service) rest(target *url.URL) ([]byte, error) {
	credentials := map[string]any{}
	if s.BearerFile != "" {
		if _, err := readSecret(s.BearerFile); err != nil {
			return nil, fmt.Errorf("bearer token: %w", err)
		}
		credentials["bearer"] = map[string]any{"token_path": s.BearerFile}
	}
	if o := s.OAuth2; o != nil {
		secret, err := readSecret(o.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("oauth2 client secret: %w", err)
		}
		credentials["oauth2"] = map[string]any{"token_url": o.TokenURL, "client_id": o.ClientID, "client_secret": secret, "scopes": o.Scopes}
	}
	if s.AWS != nil {
		signing, err := s.AWS.rest()
		if err != nil {
			return nil, err
		}
		credentials["s3_signing"] = signing
	}
	if g := s.GCP; g != nil {
		credentials["gcp_metadata"] = map[string]any{"audience": g.Audience, "scopes": g.Scopes, "endpoint": g.Endpoint}
	}
	if a := s.Azure; a != nil {
		credentials["azure_managed_identity"] = map[string]any{"resource": a.Resource, "client_id": a.ClientID, "endpoint": a.Endpoint}
	}
	if len(credentials) > 1 {
		return nil, errors.New("at most one of bearer_file, oauth2, aws, gcp and azure can be used")
	}
	config := map[string]any{"url": target.Scheme + "://" + target.Host, "credentials": credentials}
	if s.CA != "" {
		config["tls"] = map[string]any{"ca_cert": s.CA}
	}
	return json.Marshal(config)
}

func (a *AWS) rest() (map[string]any, error) {
	signing := map[string]any{"service": a.Service}
	switch a.From {
	case "environment":
		signing["environment_credentials"] = map[string]any{}
	case "metadata":
		signing["metadata_credentials"] = map[string]any{"aws_region": a.Region}
	case "web_identity":
		signing["web_identity_credentials"] = map[string]any{"aws_region": a.Region}
	case "profile":
		signing["profile_credentials"] = map[string]any{"aws_region": a.Region, "profile": a.Profile}
	default:
		return nil, fmt.Errorf("aws.from: %q is none of environment, metadata, web_identity and profile", a.From)
	}
	return signing, nil
}

// readSecret returns a file's text without the white space around it.
func readSecret(file string) (string, error) {
	const limit = 64 << 10
	if file == "" {
		return "", errors.New("no file is named")
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return "", fmt.Errorf("%s: not a file of at most %d bytes", file, limit)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s: empty", file)
	}
	return secret, nil
}

// Resolve makes the service's files absolute, so that a later change of the working directory moves nothing.
func (s *Service) Resolve() error {
	files := []*string{&s.CA, &s.Cert, &s.Key, &s.BearerFile}
	if s.OAuth2 != nil {
		o := *s.OAuth2
		s.OAuth2 = &o
		files = append(files, &o.SecretFile)
	}
	for _, file := range files {
		if *file == "" {
			continue
		}
		abs, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		*file = abs
	}
	return nil
}
