package bundles_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"gatehouse/bundles"
)

// handed is a fetcher that delivers what a test passes in, and returns each outcome.
type handed struct {
	in       chan bundles.Delivery
	tried    chan error
	outcomes chan error
}

func newHanded() *handed {
	return &handed{in: make(chan bundles.Delivery), tried: make(chan error), outcomes: make(chan error, 100)}
}

func (h *handed) fetch(ctx context.Context, deliver bundles.Deliver) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-h.in:
			err := deliver(ctx, d)
			select {
			case h.tried <- err:
			case <-ctx.Done():
			}
		}
	}
}

// deliver delivers files and returns the outcome.
func (h *handed) deliver(files map[string]string) error {
	h.in <- bundles.Delivered(files, func(err error) { h.outcomes <- err })
	return <-h.tried
}

func TestDeliveries(t *testing.T) {
	code, _, sources := twoSources(t)
	h := newHanded()
	r := run(t, sources, fetching("data", h.fetch))
	r.says(never) // the code waits for the bundle with its data
	files := func(n string) map[string]string {
		return map[string]string{".manifest": `{"roots": ["numbers"]}`, "numbers/data.json": `{"n": "` + n + `"}`}
	}
	h.in <- bundles.Failed(errors.New("the service does not answer"))
	if err := <-h.tried; err == nil || !strings.Contains(r.manager.Status()[1].Error, "does not answer") {
		t.Errorf("error %v, status %+v", err, r.manager.Status()[1])
	}
	must(t, h.deliver(files("5")))
	r.until("5")
	must(t, h.deliver(files("5"))) // unchanged
	r.none()
	if err := h.deliver(map[string]string{"data.json": "{"}); err == nil {
		t.Error("broken data was taken")
	}
	if err := h.deliver(map[string]string{"patch.json": `{"data": []}`}); err == nil || !strings.Contains(err.Error(), "a delta bundle") {
		t.Errorf("a delta: %v", err)
	}
	write(t, code, map[string]string{".manifest": `{"roots": ["authz"], "revision": "next"}`})
	r.until("5")
	must(t, h.deliver(files("6")))
	r.until("6")
	for i, want := range []bool{true, true, false, false, true} {
		if got := <-h.outcomes; (got == nil) != want {
			t.Errorf("outcome %d: %v", i, got)
		}
	}
}

// A delivery that waits for another bundle gets its outcome when that one has arrived.
func TestDeliveryThatWaits(t *testing.T) {
	_, data, sources := twoSources(t)
	write(t, data, map[string]string{"numbers/data.json": `{`})
	h := newHanded()
	r := run(t, sources, fetching("code", h.fetch))
	r.says(never)
	err := h.deliver(map[string]string{".manifest": `{"roots": ["authz"]}`,
		"authz.rego": "package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x\": data.numbers.n}}\n"})
	if err == nil || <-h.outcomes == nil {
		t.Errorf("error %v", err)
	}
	write(t, data, map[string]string{"numbers/data.json": `{"n": "3"}`})
	r.until("3")
	if err := <-h.outcomes; err != nil {
		t.Error(err)
	}
}

func TestFetcherThatGivesUpEndsRun(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	r := newRunning(t, one(dir), fetching("app", func(context.Context, bundles.Deliver) error { return errors.New("no such plugin") }))
	if err := r.manager.Run(context.Background()); err == nil || err.Error() != `fetching bundle "app": no such plugin` {
		t.Errorf("error %v", err)
	}
}

func TestLoadTakesTheFirstDelivery(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": broken})
	r := newRunning(t, one(dir), fetching("app", func(ctx context.Context, deliver bundles.Deliver) error {
		for i := 1; deliver(ctx, bundles.Delivered(map[string]string{"authz.rego": answering(i)}, nil)) == nil; i++ {
		}
		return nil
	}))
	s, err := r.manager.Load(context.Background())
	must(t, err)
	if got := response(t, s); got != "1" {
		t.Errorf("answer %s", got)
	}
}
