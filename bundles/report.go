package bundles

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/upstream"
)

// Report says where the state of the bundles is reported, in the format of OPA's status API.
type Report struct {
	URL      string // the status endpoint; OPA's is <service>/status
	Service  upstream.Service
	Labels   map[string]string // identify this process
	Interval time.Duration     // between two reports while nothing changes; default 1 min
}

const reportTime = 30 * time.Second // for one report

// reporter sends reports. They are not queued: only the newest state is sent.
type reporter struct {
	cfg     Report
	latest  atomic.Pointer[[]Status]
	changed chan struct{} // signals that latest has changed
	logger  *zap.Logger
	sent    *prometheus.CounterVec
	poster  *upstream.Poster // owned by the goroutine that runs it
}

func newReporter(cfg Report, logger *zap.Logger, registerer prometheus.Registerer) (*reporter, error) {
	r := &reporter{cfg: cfg, changed: make(chan struct{}, 1), logger: logger}
	if r.cfg.Interval == 0 {
		r.cfg.Interval = time.Minute
	}
	if r.cfg.Interval < time.Second {
		return nil, fmt.Errorf("status: interval %v: at least 1s", cfg.Interval)
	}
	var err error
	if r.poster, err = upstream.NewPoster(cfg.Service, cfg.URL); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	r.sent = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_status_reports_total",
		Help: "Reports of the bundles' state to the status service, by result."}, []string{"result"})
	if registerer != nil {
		if err := registerer.Register(r.sent); err != nil {
			return nil, fmt.Errorf("registering the metrics of status reports: %w", err)
		}
	}
	return r, nil
}

// offer passes on the newest state. It never blocks.
func (r *reporter) offer(list []Status) {
	before := r.latest.Swap(&list)
	if before != nil && sameState(*before, list) {
		return
	}
	select {
	case r.changed <- struct{}{}:
	default: // already signalled, and the newest state is sent
	}
}

// sameState reports whether two states differ only in the times of requests.
func sameState(a, b []Status) bool {
	for i := range a {
		x, y := a[i], b[i]
		if x.Remote != nil && y.Remote != nil {
			r, q := *x.Remote, *y.Remote
			if r.Unreachable != q.Unreachable || r.FromDisk != q.FromDisk || r.Expired != q.Expired || r.Tag != q.Tag {
				return false
			}
		}
		x.Remote, y.Remote, x.LastAttempt, y.LastAttempt = nil, nil, time.Time{}, time.Time{}
		if x != y {
			return false
		}
	}
	return true
}

// run sends a report after each change and at each interval, until ctx ends.
func (r *reporter) run(ctx context.Context) {
	defer r.poster.Close()
	again := time.NewTimer(r.cfg.Interval)
	defer again.Stop()
	backoff, failed := upstream.Backoff{First: firstRetry, Most: maxRetry}, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		case <-again.C:
		}
		err := r.send(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			r.sent.WithLabelValues("ok").Inc()
			backoff.Reset()
			failed = false
			again.Reset(upstream.Jitter(r.cfg.Interval))
			continue
		case !failed:
			r.logger.Warn("the state of the bundles cannot be reported", zap.Stringer("to", r.poster), zap.Error(err))
		}
		r.sent.WithLabelValues("error").Inc()
		failed = true
		again.Reset(backoff.Failed())
	}
}

// send posts the newest state.
func (r *reporter) send(ctx context.Context) error {
	body, err := json.Marshal(reportOf(r.cfg.Labels, *r.latest.Load()))
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, reportTime)
	defer stop()
	response, err := r.poster.Post(ctx, http.Header{"Content-Type": {"application/json"}}, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection is reused
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("the server answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	return nil
}

// opaReport is the body of a request to OPA's status API.
type opaReport struct {
	Labels  map[string]string    `json:"labels"`
	Bundles map[string]opaBundle `json:"bundles"`
}

type opaBundle struct {
	Name           string     `json:"name"`
	ActiveRevision string     `json:"active_revision,omitempty"`
	Activation     time.Time  `json:"last_successful_activation"`
	Type           string     `json:"type,omitempty"`
	Size           int        `json:"size,omitempty"`
	Download       time.Time  `json:"last_successful_download"`
	Request        time.Time  `json:"last_successful_request"`
	LastRequest    time.Time  `json:"last_request"`
	Code           string     `json:"code,omitempty"`
	Message        string     `json:"message,omitempty"`
	Errors         []opaError `json:"errors,omitempty"`
}

type opaError struct {
	Code     string       `json:"code"`
	Message  string       `json:"message"`
	Location *opaLocation `json:"location,omitempty"`
}

type opaLocation struct {
	File string `json:"file"`
	Row  int    `json:"row"`
	Col  int    `json:"col"`
}

// reportOf converts the state to OPA's format, in which an unreachable source is an error too.
func reportOf(labels map[string]string, list []Status) opaReport {
	report := opaReport{Labels: labels, Bundles: map[string]opaBundle{}}
	if labels == nil {
		report.Labels = map[string]string{}
	}
	for _, s := range list {
		b := opaBundle{Name: s.Name, ActiveRevision: s.Revision, Activation: s.ActiveSince, Type: "snapshot",
			Download: s.LastAttempt, Request: s.LastAttempt, LastRequest: s.LastAttempt}
		stage, message := s.Stage, s.Error
		if r := s.Remote; r != nil {
			b.Size, b.Download, b.Request, b.LastRequest = r.Bytes, r.Downloaded, r.LastAnswer, r.LastRequest
			if r.Delta {
				b.Type = "delta"
			}
			if stage == "" && r.Unreachable != "" {
				stage, message = stageFetching, r.Unreachable
			}
		}
		if stage != "" {
			e := opaError{Code: stage + "_error", Message: message}
			if s.File != "" {
				e.Location = &opaLocation{File: s.File, Row: s.Line}
			}
			b.Code, b.Message, b.Errors = "bundle_error", message, []opaError{e}
		}
		report.Bundles[s.Name] = b
	}
	return report
}
