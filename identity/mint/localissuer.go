package mint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"gatehouse/upstream"
)

const (
	// LocalIssuerName is the default name of a LocalIssuer.
	LocalIssuerName = "http://localhost/issuer"

	localKeyFile     = "key.pem"
	localSetFile     = "jwks.json"
	maxLocalLifetime = 30 * 24 * time.Hour
)

// LocalIssuer signs tokens with any claims, for demos, examples and development on one machine. Its name is on loopback, so that no configuration made for real users takes its tokens by mistake.
type LocalIssuer struct {
	name, dir string
	key       *signingKey
	made      bool
}

// OpenLocalIssuer opens the issuer whose key pair is in a folder: key.pem, for its owner alone, and jwks.json, which is what a
// configuration's keys.file names. It creates both if they are missing. A jwks.json without our key is an error, and not overwritten.
func OpenLocalIssuer(dir, name string) (*LocalIssuer, error) {
	if !IsLoopback(name) {
		return nil, fmt.Errorf("issuer %q is not on loopback: tokens are made for http://localhost, http://127.0.0.1 and http://[::1] only, "+
			"a real issuer makes its own", name)
	}
	l := &LocalIssuer{name: name, dir: dir}
	path := filepath.Join(dir, localKeyFile)
	var err error
	l.key, _, err = readSigningKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(l.Set()); err == nil {
			return nil, fmt.Errorf("%s is there and %s is not: these are somebody else's keys, choose another folder", l.Set(), path)
		}
		l.made = true
		if l.key, err = newSigningKey("ES256"); err == nil {
			l.key, err = l.key.saveTo(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key of the local issuer: %w", err)
	}
	return l, l.publish()
}

// publish writes the key set where it is not there yet.
func (l *LocalIssuer) publish() error {
	set := jwkSet(l.key.public)
	have, err := os.ReadFile(l.Set())
	switch {
	case err == nil && bytes.Equal(have, set):
		return nil
	case err == nil:
		return fmt.Errorf("%s does not hold the key in %s alone: remove it, or choose another folder", l.Set(), filepath.Join(l.dir, localKeyFile))
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("key set of the local issuer: %w", err)
	}
	if err := os.WriteFile(l.Set(), set, 0o644); err != nil {
		return fmt.Errorf("key set of the local issuer: %w", err)
	}
	return nil
}

// Set is the path of the JWK set.
func (l *LocalIssuer) Set() string { return LocalSet(l.dir) }

// LocalSet is the path of the JWK set of the local issuer whose key pair is in a folder.
func LocalSet(dir string) string { return filepath.Join(dir, localSetFile) }

// Made reports whether the key pair is new.
func (l *LocalIssuer) Made() bool { return l.made }

// Mint signs a token: iss, iat, nbf and exp, and then the claims, which may replace all of these but iss. typ is the header's; empty
// = JWT. lifetime is at most 30 days.
func (l *LocalIssuer) Mint(typ string, claims map[string]any, now time.Time, lifetime time.Duration) (string, error) {
	if lifetime <= 0 || lifetime > maxLocalLifetime {
		return "", fmt.Errorf("lifetime %s is not above zero and at most %s", lifetime, maxLocalLifetime)
	}
	if _, ok := claims["iss"]; ok {
		return "", errors.New("claim iss: is the local issuer's own")
	}
	all := map[string]any{"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(lifetime).Unix()}
	maps.Copy(all, claims)
	all["iss"] = l.name
	return l.key.sign(typ, all)
}

// IsLoopback reports whether an issuer's name can only be meant for this machine.
func IsLoopback(name string) bool {
	u, err := url.Parse(name)
	if err != nil || u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return false
	}
	return upstream.IsLoopback(u.Hostname())
}
