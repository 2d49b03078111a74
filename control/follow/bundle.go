package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"gatehouse/control/trust"
	"gatehouse/control/wire"
	"gatehouse/durable"
	"gatehouse/watch"
)

// Bundles fetches the bundle that control has promoted for this edge, with the edge's certificate, by OPA's bundle protocol.
// One goroutine uses it. It uses the Follower's connection while there is one.
type Bundles struct {
	follower *Follower
	limit    int64 // bytes of a tarball

	own     *http.Transport // while the follower has no connection
	shown   *identity       // with whose certificate own was made
	nothing bool            // the last answer was that nothing is promoted yet
	signer  bool            // the signer's certificate is on disk
}

// Answer is an answer of control.
type Answer struct {
	Raw []byte // the tarball; nil: not modified
	Tag string // its ETag
}

// What control signs bundles with.
const (
	KeyID     = "control"
	Algorithm = "ES256"
)

// SignerFile is the file with the certificate of the key that control signs bundles with.
func SignerFile(dir string) string { return filepath.Join(dir, signerFile) }

const (
	signerFile  = "bundles.pem"
	maxSigner   = 64 << 10
	answerTime  = 30 * time.Second // until the answer's header, on top of what control was asked to wait
	downloading = 5 * time.Minute
)

// Bundles makes what fetches bundles of at most limit bytes.
func (f *Follower) Bundles(limit int64) *Bundles { return &Bundles{follower: f, limit: limit} }

var errNotEnrolled = errors.New("this edge is not enrolled at control yet")

// Get asks for a bundle other than the one with this ETag. wait is how long control may hold the question. Where nothing
// is promoted yet that is an error once, and from then on waited for.
func (b *Bundles) Get(ctx context.Context, tag string, wait time.Duration) (Answer, error) {
	if !b.signer {
		if err := b.fetchSigner(ctx); err != nil {
			return Answer{}, err
		}
	}
	if b.nothing && wait == 0 {
		wait = answerTime
	}
	for {
		out, err := b.get(ctx, tag, wait)
		if again := errors.Is(err, errNothing) && b.nothing; !again || ctx.Err() != nil {
			b.nothing = errors.Is(err, errNothing)
			return out, err
		}
	}
}

// errNothing: control says so after the time that it was asked to wait.
var errNothing = errors.New("nothing is promoted in this edge's environment yet: gatehouse control promote does")

func (b *Bundles) get(ctx context.Context, tag string, wait time.Duration) (Answer, error) {
	ctx, stop := context.WithTimeout(ctx, wait+downloading)
	defer stop()
	header := http.Header{"Prefer": {"modes=snapshot"}}
	if wait > 0 {
		header.Set("Prefer", fmt.Sprintf("modes=snapshot;wait=%d", int(wait.Seconds())))
	}
	if tag != "" {
		header.Set("If-None-Match", tag)
	}
	response, err := b.ask(ctx, wire.BundlePath, header, wait)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotModified && tag != "":
		return Answer{Tag: tag}, nil
	case response.StatusCode == http.StatusNotFound && response.Header.Get("Content-Type") == wire.BundleType:
		return Answer{}, errNothing
	case response.StatusCode != http.StatusOK:
		return Answer{}, refusal(response)
	}
	raw, err := readAll(response.Body, b.limit)
	return Answer{Raw: raw, Tag: response.Header.Get("ETag")}, err
}

// fetchSigner puts the certificate of the key that bundles are signed with on disk, once control's authority has been
// seen to have signed it.
func (b *Bundles) fetchSigner(ctx context.Context) error {
	f := b.follower
	check := Signer(f.with)
	path := SignerFile(f.with.Dir)
	if text, err := watch.ReadFile(path, maxSigner); err == nil && check(text) == nil {
		b.signer = true
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, answerTime)
	defer stop()
	response, err := b.ask(ctx, wire.SignerPath, http.Header{}, 0)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusal(response)
	}
	text, err := readAll(response.Body, maxSigner)
	if err == nil {
		err = check(text)
	}
	if err == nil {
		err = durable.WriteFile(path, text, 0o644)
	}
	b.signer = err == nil
	return err
}

// Signer checks that a certificate, with what is behind it, is one that the control of a configuration signs bundles with.
func Signer(with Config) func([]byte) error {
	return func(text []byte) error { return trust.Signer(with.CA, with.Pin, text, time.Now()) }
}

// ask makes a request with the edge's certificate.
func (b *Bundles) ask(ctx context.Context, path string, header http.Header, wait time.Duration) (*http.Response, error) {
	t, err := b.transport()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	late := time.AfterFunc(wait+answerTime, stop) // goroutine: it only cancels
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(b.follower.with.URL, "/")+path, nil)
	if err != nil {
		stop()
		return nil, err
	}
	request.Header = header
	response, err := t.RoundTrip(request)
	if !late.Stop() && err != nil {
		err = fmt.Errorf("control did not answer within %s: %w", wait+answerTime, err)
	}
	if err != nil {
		stop()
		b.closeOwn() // what is behind the address may be another
		return nil, err
	}
	response.Body = &ending{response.Body, stop}
	return response, nil
}

// ending is a body with what is to be called when it is closed.
type ending struct {
	io.ReadCloser
	stop func()
}

func (e *ending) Close() error {
	defer e.stop()
	return e.ReadCloser.Close()
}

// transport is the follower's, or one of our own with the certificate that is on disk.
func (b *Bundles) transport() (*http.Transport, error) {
	f := b.follower
	if shared := f.shared.Load(); shared != nil {
		b.closeOwn()
		return shared, nil
	}
	if b.own != nil && f.with.Clock().Before(b.shown.expires()) {
		return b.own, nil
	}
	id, err := readIdentity(f.with.Dir)
	switch {
	case err != nil:
		return nil, err
	case id == nil:
		return nil, errNotEnrolled
	}
	b.closeOwn()
	if b.own, err = f.transport(id); err != nil {
		b.own = nil
		return nil, err
	}
	b.own.ResponseHeaderTimeout, b.shown = 0, id
	return b.own, nil
}

func (b *Bundles) closeOwn() {
	if b.own != nil {
		b.own.CloseIdleConnections()
		b.own = nil
	}
}

// Close ends the connection, where it is our own.
func (b *Bundles) Close() { b.closeOwn() }

// refusal is the error of an answer.
func refusal(r *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(r.Body, 500)) // what came counts
	return fmt.Errorf("control answered %s: %s", r.Status, strings.TrimSpace(string(text)))
}

func readAll(from io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("control sends more than the limit of %d bytes", limit)
	}
	return text, nil
}
