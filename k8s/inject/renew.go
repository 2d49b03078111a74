package inject

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"gatehouse/upstream"
)

// maxTries is how often a round begins anew because another replica was faster.
const maxTries = 5

// renew keeps certificates and webhook configuration as they should be, until ctx ends.
func (i *Injector) renew(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	backoff := upstream.Backoff{First: time.Second, Most: i.start.Certificates.Poll}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := i.round(ctx)
		if ctx.Err() != nil {
			return
		}
		i.told(err)
		if err != nil {
			timer.Reset(min(backoff.Failed(), i.start.Certificates.Poll))
			continue
		}
		backoff.Reset()
		timer.Reset(upstream.Jitter(i.start.Certificates.Poll))
	}
}

// told keeps the state of the last round, and writes what is new about it.
func (i *Injector) told(err error) {
	text := ""
	if err != nil {
		text = err.Error()
		i.metrics.failures.Inc()
	}
	was := i.problem.Swap(&text)
	switch {
	case err != nil && (was == nil || *was != text):
		i.log.Error("certificates and webhook configuration cannot be kept up to date; what is there stays in use", zap.Error(err))
	case err == nil && (was == nil || *was != ""):
		i.log.Info("certificates and webhook configuration are up to date")
	}
}

// round looks at everything once, and mends it.
func (i *Injector) round(ctx context.Context) error {
	if err := i.findKind(ctx); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := i.once(ctx)
		status, ok := errors.AsType[*statusError](err)
		if err == nil || !ok || status.code != http.StatusConflict || try == maxTries {
			return err
		}
	}
}

// findKind asks for the server's version where that decides what sidecars are.
func (i *Injector) findKind(ctx context.Context) error {
	s := i.settings.Load()
	has := s.Sidecar == native
	if s.Sidecar == auto {
		var version string
		var err error
		if has, version, err = i.start.API.serverHasNative(ctx); err != nil {
			return err
		}
		if !i.kindKnown.Load() || has != s.native {
			i.log.Info("sidecars follow the API server's version", zap.String("version", version), zap.Bool("native", has))
		}
	}
	i.choose(has)
	return nil
}

// once reads the webhook configuration and then the Secret, in this order: whoever wrote the configuration had written the Secret before. So a
// configuration that is still the one that we read cannot know a later Secret than ours, and we never put an older bundle over a newer one.
func (i *Injector) once(ctx context.Context) error {
	var hook, secret object
	if err := i.start.API.call(ctx, "GET", i.webhookPath(), nil, &hook); err != nil {
		return fmt.Errorf("reading the MutatingWebhookConfiguration %s (the chart makes it): %w", i.start.Webhook, err)
	}
	if err := i.start.API.call(ctx, "GET", i.secretPath(), nil, &secret); err != nil {
		return fmt.Errorf("reading the Secret %s in namespace %s (the chart makes it): %w", i.start.Secret, i.start.Namespace, err)
	}
	if len(each(hook, "webhooks")) == 0 {
		return fmt.Errorf("the MutatingWebhookConfiguration %s has no webhooks: install the chart again", i.start.Webhook)
	}
	now := i.now()
	have, err := readSecret(secret)
	usable := err == nil
	if err != nil && !errors.Is(err, errEmpty) {
		i.log.Error("the Secret cannot be used and is written anew", zap.String("secret", i.start.Secret), zap.Error(err))
	}
	if last := i.certificates.Load(); have == nil && last != nil {
		have = last // the API server trusts it
	}
	want, changed, err := have.advance(now, i.start.Certificates, i.start.Names, have != nil && publishes(hook, have.authorities()))
	if err != nil {
		return err
	}
	if changed || !usable {
		if err := i.writeSecret(ctx, secret, want); err != nil {
			return err
		}
	}
	i.use(want)
	if bundle := want.bundle(); setBundle(hook, bundle) {
		if err := i.start.API.call(ctx, "PUT", i.webhookPath(), hook, &hook); err != nil {
			return fmt.Errorf("writing our authorities into the MutatingWebhookConfiguration %s: %w", i.start.Webhook, err)
		}
		i.log.Info("the webhook configuration has our authorities", zap.Int("authorities", len(want.authorities())))
	}
	i.published.Store(true)
	return nil
}

// use serves with certificates from now on.
func (i *Injector) use(c *certificates) {
	was := i.certificates.Swap(c)
	i.metrics.expires.WithLabelValues("serving").Set(float64(c.serving.Leaf.NotAfter.Unix()))
	i.metrics.expires.WithLabelValues("authority").Set(float64(c.trusted[0].NotAfter.Unix()))
	if was == nil || !was.serving.Leaf.Equal(c.serving.Leaf) {
		i.metrics.changes.Inc()
		i.log.Info("serving with a certificate", zap.Time("until", c.serving.Leaf.NotAfter), zap.Strings("names", c.serving.Leaf.DNSNames), zap.String("authority", c.trusted[0].Subject.CommonName))
	}
}

func (i *Injector) writeSecret(ctx context.Context, secret object, c *certificates) error {
	data, err := c.secret()
	if err != nil {
		return err
	}
	out := object{}
	for key, value := range data {
		out[key] = base64.StdEncoding.EncodeToString(value)
	}
	secret["data"] = out
	var answer object
	if err := i.start.API.call(ctx, "PUT", i.secretPath(), secret, &answer); err != nil {
		return fmt.Errorf("writing the Secret %s: %w", i.start.Secret, err)
	}
	return nil
}

// readSecret reads a Secret as the API server has it.
func readSecret(secret object) (*certificates, error) {
	data, _ := secret["data"].(object)
	out := map[string][]byte{}
	for key, value := range data {
		text, _ := value.(string)
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out[key] = raw
	}
	return readCertificates(out)
}

// bundles are the authorities that each webhook of a configuration has.
func bundles(hook object) (out [][]byte) {
	for _, w := range each(hook, "webhooks") {
		config, _ := w["clientConfig"].(object)
		raw, _ := base64.StdEncoding.DecodeString(text(config, "caBundle")) // what is none is not what it should be
		out = append(out, raw)
	}
	return out
}

// publishes says whether every webhook trusts these.
func publishes(hook object, authorities []*x509.Certificate) bool {
	all := bundles(hook)
	for _, raw := range all {
		for _, a := range authorities {
			if !bytes.Contains(raw, pemOf(a)) {
				return false
			}
		}
	}
	return len(all) > 0
}

// setBundle puts authorities into every webhook, and says whether that is something else.
func setBundle(hook object, bundle []byte) (changed bool) {
	for k, w := range each(hook, "webhooks") {
		if config, ok := w["clientConfig"].(object); ok && !bytes.Equal(bundles(hook)[k], bundle) {
			config["caBundle"], changed = base64.StdEncoding.EncodeToString(bundle), true
		}
	}
	return changed
}
