package keyset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"gatehouse/upstream"
)

// Client fetches key sets. The zero value has no HTTP client and does not work.
type Client struct{ HTTP *http.Client }

// Fetch reads a JWK set from a URL. Errors name the URL without its query.
func (c Client) Fetch(ctx context.Context, where string) (*Set, error) {
	raw, _, err := c.get(ctx, where, "application/jwk-set+json, application/json")
	if err != nil {
		return nil, err
	}
	return Parse(WithoutQuery(where), raw, false)
}

// get reads a document of at most 1 MiB. status is that of the answer, 0 where there was none; any but 200 is an error.
func (c Client) get(ctx context.Context, where, accept string) (raw []byte, status int, err error) {
	name := WithoutQuery(where)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetching %s: the url is not valid", name)
	}
	req.Header.Set("Accept", accept)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		var quoting *url.Error // its text has the whole URL
		if errors.As(err, &quoting) {
			err = quoting.Err
		}
		return nil, 0, fmt.Errorf("fetching %s: %w", name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode, fmt.Errorf("fetching %s: status %d", name, resp.StatusCode)
	}
	if raw, err = readBounded(resp.Body); err != nil {
		return nil, resp.StatusCode, fmt.Errorf("fetching %s: %w", name, err)
	}
	return raw, resp.StatusCode, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err == nil && len(raw) > maxBytes {
		err = fmt.Errorf("more than %d bytes", maxBytes)
	}
	return raw, err
}

// WithoutQuery is a URL without the parts that may be secret.
func WithoutQuery(where string) string {
	u, err := url.Parse(where)
	if err != nil {
		return "url"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}

// CheckURL reports why keys are not to be fetched from a URL. The error never quotes a URL that may carry a password.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is not a valid url")
	}
	if u.User != nil {
		return errors.New("must not hold a user or password")
	}
	if u.Host == "" || u.Hostname() == "" || u.Fragment != "" {
		return fmt.Errorf("%q must have a host and no fragment", text)
	}
	if !SecureURL(u) {
		return fmt.Errorf("%q must be https; http is accepted on loopback only", text)
	}
	return nil
}

// SecureURL reports whether a URL is https, or http on loopback.
func SecureURL(u *url.URL) bool {
	return u.Scheme == "https" || u.Scheme == "http" && upstream.IsLoopback(u.Hostname())
}

// ReadFile reads a file of at most 1 MiB. Opening a named pipe would wait for its writer, so it is looked at first.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return raw, nil
}
