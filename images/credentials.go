package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// A Password is a secret: it prints as three dots.
type Password string

// String implements fmt.Stringer.
func (Password) String() string { return "..." }

// GoString implements fmt.GoStringer.
func (Password) GoString() string { return "..." }

// MarshalText implements encoding.TextMarshaler.
func (Password) MarshalText() ([]byte, error) { return []byte("..."), nil }

// credential is what the auth client asks for once a registry wants it. The file is read anew each time: a credential that
// was rotated is used from then on.
func (c *Client) credential(ctx context.Context, host string) (auth.Credential, error) {
	if c.cfg.Credentials != nil {
		username, password, err := c.cfg.Credentials(ctx, host)
		if err != nil {
			return auth.Credential{}, fmt.Errorf("the credential for %s: %w", host, err)
		}
		return auth.Credential{Username: username, Password: string(password)}, nil
	}
	store, err := c.credentialStore()
	if err != nil {
		return auth.Credential{}, err
	}
	found, err := credentials.Credential(store)(ctx, host)
	if err != nil {
		return auth.Credential{}, fmt.Errorf("the credential for %s in %s: %w", host, store.ConfigPath(), err)
	}
	return found, nil
}

// credentialStore opens the Docker credential file. One that does not exist holds no credentials.
func (c *Client) credentialStore() (*credentials.DynamicStore, error) {
	file, err := c.credentialFile()
	if err != nil {
		return nil, err
	}
	store, err := credentials.NewStore(file, credentials.StoreOptions{AllowPlaintextPut: true, DetectDefaultNativeStore: true})
	if err != nil {
		return nil, fmt.Errorf("reading credentials: %w", err)
	}
	return store, nil
}

func (c *Client) credentialFile() (string, error) {
	if c.cfg.CredentialFile != "" {
		return c.cfg.CredentialFile, nil
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the credential file: %w", err)
	}
	return filepath.Join(home, ".docker", "config.json"), nil
}

// Login proves a user name and password to a registry and keeps them where docker login would: in the credential helper
// that the credential file names, else in the file itself, where they are readable by whoever may read the file. It
// returns the file's path.
func (c *Client) Login(ctx context.Context, host, username string, password Password) (string, error) {
	if username == "" || password == "" {
		return "", errors.New("logging in: a user name and a password are needed")
	}
	if !registryName.MatchString(host) {
		return "", fmt.Errorf("logging in: %q is not a registry, which is a host or host:port", host)
	}
	store, err := c.credentialStore()
	if err != nil {
		return "", fmt.Errorf("logging in: %w", err)
	}
	plain, err := c.speaksPlain(ctx, host)
	if err != nil {
		return "", fmt.Errorf("logging in: reaching registry %s: %w", host, err)
	}
	r := &remote.Registry{RepositoryOptions: remote.RepositoryOptions{Client: c.auth, PlainHTTP: plain, Reference: registry.Reference{Registry: host}}}
	if err := credentials.Login(ctx, store, r, auth.Credential{Username: username, Password: string(password)}); err != nil {
		return "", fmt.Errorf("logging in: %w", err)
	}
	return store.ConfigPath(), nil
}

// Logout forgets the credential for a registry.
func (c *Client) Logout(ctx context.Context, host string) error {
	store, err := c.credentialStore()
	if err != nil {
		return fmt.Errorf("logging out: %w", err)
	}
	if err := credentials.Logout(ctx, store, host); err != nil {
		return fmt.Errorf("logging out: %w", err)
	}
	return nil
}
