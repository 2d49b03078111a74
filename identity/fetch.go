package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"gatehouse/upstream"

	"go.uber.org/zap"
)

// fetch reads an issuer's key set from its URL, or from the one that its metadata names. Errors name URLs without their query.
func (v *Verifier) fetch(ctx context.Context, iss *issuer) (*keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	where := iss.Keys.URL
	if iss.Keys.Discovery {
		var err error
		if where, err = v.discover(ctx, iss.Issuer.Issuer); err != nil {
			return nil, err
		}
	}
	raw, _, err := v.get(ctx, where, "application/jwk-set+json, application/json")
	if err != nil {
		return nil, err
	}
	return parseKeySet(withoutQuery(where), raw, false)
}

// get reads a document of at most 1 MiB. status is that of the answer, 0 where there was none; any but 200 is an error.
func (v *Verifier) get(ctx context.Context, where, accept string) (raw []byte, status int, err error) {
	name := withoutQuery(where)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetching %s: the url is not valid", name)
	}
	req.Header.Set("Accept", accept)
	resp, err := v.client.Do(req)
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
	raw, err := io.ReadAll(io.LimitReader(r, maxKeySetBytes+1))
	if err == nil && len(raw) > maxKeySetBytes {
		err = fmt.Errorf("more than %d bytes", maxKeySetBytes)
	}
	return raw, err
}

// remote reports whether the keys come over the network.
func (iss *issuer) remote() bool { return iss.Keys.File == "" }

// source names where the keys come from, for people.
func (iss *issuer) source() string {
	switch {
	case iss.Keys.File != "":
		return iss.Keys.File
	case iss.Keys.Discovery:
		return metadataURL(iss.Issuer.Issuer)
	}
	return withoutQuery(iss.Keys.URL)
}

// withoutQuery is a URL without the parts that may be secret.
func withoutQuery(where string) string {
	u, err := url.Parse(where)
	if err != nil {
		return "url"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}

// loaded is one attempt to read an issuer's keys.
type loaded struct {
	issuer *issuer
	set    *keySet
	err    error
	at     time.Time // when set was read, by Config.Clock
	wanted *wanted   // that waits for it; nil = none does
}

// refresh fetches an issuer's URL again and again until ctx ends: on its interval, early when asked to, and after a failure
// in one second, doubling up to the interval. The first time is in wait; kept is the set that is not to be fetched before and
// was read at that time, nil for none.
func (v *Verifier) refresh(ctx context.Context, iss *issuer, kept loaded, wait time.Duration, results chan<- loaded) {
	backoff := minRefresh
	v.keepCopy(kept)
	for {
		asked, ok := iss.lookups.next(ctx, wait)
		if !ok {
			return
		}
		r := loaded{issuer: iss, wanted: asked}
		r.set, r.err = v.fetch(ctx, iss)
		r.at = v.clock()
		select {
		case results <- r:
		case <-ctx.Done():
			return
		}
		v.keepCopy(r)
		if r.err == nil {
			wait, backoff = upstream.Early(iss.Keys.Refresh), minRefresh
			continue
		}
		wait = upstream.Early(min(backoff, iss.Keys.Refresh))
		backoff = min(2*backoff, iss.Keys.Refresh)
	}
}

// keepCopy writes a set that was fetched to disk. Without a copy all goes on; only a restart would miss it.
func (v *Verifier) keepCopy(r loaded) {
	c := r.issuer.copy
	if r.set == nil || c == nil {
		return
	}
	err := c.write(r.issuer, r.set, r.at)
	if err == nil {
		c.failure = ""
		return
	}
	v.metrics.copyFailures.Inc()
	if text := err.Error(); text != c.failure {
		c.failure = text
		v.log.Warn("no copy of the keys is kept: a restart would need the provider", zap.String("issuer", r.issuer.Issuer.Issuer), zap.Error(err))
	}
}
