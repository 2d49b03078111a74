package identity

import (
	"context"
	"time"

	"gatehouse/identity/keyset"
	"gatehouse/upstream"

	"go.uber.org/zap"
)

// fetch reads an issuer's key set from its URL, or from the one that its metadata names. Errors name URLs without their query.
func (v *Verifier) fetch(ctx context.Context, iss *issuer) (*keyset.Set, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	client, where := keyset.Client{HTTP: v.client}, iss.Keys.URL
	if iss.Keys.Discovery {
		var err error
		if where, err = client.Discover(ctx, iss.Issuer.Issuer); err != nil {
			return nil, err
		}
	}
	return client.Fetch(ctx, where)
}

// remote reports whether the keys come over the network.
func (iss *issuer) remote() bool { return iss.Keys.File == "" }

// source names where the keys come from, for people.
func (iss *issuer) source() string {
	switch {
	case iss.Keys.File != "":
		return iss.Keys.File
	case iss.Keys.Discovery:
		return keyset.MetadataURL(iss.Issuer.Issuer)
	}
	return keyset.WithoutQuery(iss.Keys.URL)
}

// loaded is one attempt to read an issuer's keys.
type loaded struct {
	issuer *issuer
	set    *keyset.Set
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
	err := c.Write(r.set, r.at)
	if err == nil {
		r.issuer.failure = ""
		return
	}
	v.metrics.copyFailures.Inc()
	if text := err.Error(); text != r.issuer.failure {
		r.issuer.failure = text
		v.log.Warn("no copy of the keys is kept: a restart would need the provider", zap.String("issuer", r.issuer.Issuer.Issuer), zap.Error(err))
	}
}

// newCopy is nil where none is kept.
func newCopy(dir string, iss *issuer) *keyset.Copy {
	if dir == "" || !iss.remote() {
		return nil
	}
	where := iss.Keys.URL
	if iss.Keys.Discovery {
		where = keyset.MetadataURL(iss.Issuer.Issuer)
	}
	return keyset.NewCopy(dir, iss.Issuer.Issuer, where, iss.source())
}
